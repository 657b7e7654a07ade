"""The checkout form: its fields, their validation and their error texts; and the fields that other forms share."""

import re
import unicodedata
from collections.abc import Callable
from functools import cached_property
from typing import Any

from babel.core import get_global
from flask_babel import get_locale
from flask_babel import lazy_gettext as _
from flask_wtf import FlaskForm
from sqlalchemy import select
from wtforms import HiddenField, RadioField, SelectField, StringField, TextAreaField
from wtforms.validators import DataRequired, InputRequired, Length, Optional, Regexp

from models import DeliveryMethod
from shop.config import settings
from shop.db import db
from shop.mail import ADDRESS
from shop.text import email_address, fold, one_line, plain, several_lines

NO_COUNTRIES = frozenset({"EU", "EZ", "UN", "ZZ", "QO", "XA", "XB", "AC", "CP", "CQ", "DG", "EA", "IC", "TA"})
PHONE = re.compile(r"(?i)[\d\s()+./-]{5,}((ext|extension|x|#|تحويلة)[.:]?\s*\d{1,6})?$")


def phone_number(value: str) -> str:
    """A phone number, also as a `tel:` link, with whatever dashes were typed."""
    number = re.sub(r"(?i)^tel:", "", plain(value)).replace(";ext=", " ext. ")
    return "".join("-" if unicodedata.category(c) == "Pd" else c for c in number)


def countries() -> list[tuple[str, str]]:
    """All countries with their names in the page's language, sorted as people look for them: the shop's own first.

    Letters count without accents, and Arabic names without their article.
    """
    own = get_global("zone_territories").get(settings.shop_timezone)
    territories = get_locale().territories.items()
    named = [(code, name) for code, name in territories if len(code) == 2 and code not in NO_COUNTRIES]
    return sorted(named, key=lambda pair: (pair[0] != own, fold(pair[1]).removeprefix("ال")))


def line(  # noqa: PLR0913  (what differs between fields)
    label: Any,
    most: int,
    autocomplete: str,
    *,
    missing: Any = None,
    more: tuple[Any, ...] = (),
    clean: Callable[[str], str] = one_line,
) -> StringField:
    """A one-line field, required if it has a text for `missing`. What was typed is cleaned first."""
    presence = DataRequired(missing) if missing else Optional()
    length = Length(max=most, message=_("Enter %(most)s characters at most.", most=most))
    keywords = {"autocomplete": autocomplete, "maxlength": most}
    return StringField(label, [presence, length, *more], filters=[_typed(clean)], render_kw=keywords)


def _typed(clean: Callable[[str], str]) -> Callable[[str | None], str | None]:
    return lambda value: value and clean(value)


def paragraph(label: Any, most: int, *, missing: Any = None) -> TextAreaField:
    """A field of several lines, required if it has a text for `missing`."""
    presence = DataRequired(missing) if missing else Optional()
    length = Length(max=most, message=_("Enter %(most)s characters at most.", most=most))
    keywords = {"maxlength": most, "rows": 3}
    return TextAreaField(label, [presence, length], filters=[_typed(several_lines)], render_kw=keywords)


def email_line() -> StringField:
    """A field for an e-mail address."""
    missing = _("Enter an e-mail address, like name@example.com.")
    looks_right = Regexp(f"^{ADDRESS.pattern}$", message=missing)
    return line(_("E-mail"), 254, "email", missing=missing, more=(looks_right,), clean=email_address)


ADDRESS_FIELDS = ("address", "city", "region", "postcode", "country")


class CheckoutForm(FlaskForm):  # type: ignore[misc]
    """Contact, address, delivery method and note.

    Prices aren't fields: they come from the database.
    """

    name = line(_("Full name"), 120, "name", missing=_("Enter your full name."))
    email = email_line()
    phone = line(
        _("Phone"),
        40,
        "tel",
        more=(Regexp(PHONE, message=_("Enter a phone number, like +966 50 123 4567.")),),
        clean=phone_number,
    )
    address = line(_("Address"), 300, "address-line1", missing=_("Enter your address."))
    city = line(_("City"), 120, "address-level2", missing=_("Enter your city."))
    region = line(_("Region"), 120, "address-level1")
    postcode = line(_("Postcode"), 20, "postal-code", clean=plain)
    country = SelectField(_("Country"), [InputRequired(_("Choose a country."))], render_kw={"autocomplete": "country"})
    delivery = RadioField(_("Delivery method"), [InputRequired(_("Choose a delivery method."))])
    note = paragraph(_("Order note"), 500)
    checkout_key = HiddenField()

    @cached_property
    def is_collected(self) -> bool:
        """Whether the goods are collected at the shop, so that no address is needed."""
        chosen = select(DeliveryMethod.is_collection).filter_by(slug=self.delivery.data or "")
        return bool(db.session.scalar(chosen))

    def validate(self, extra_validators: Any = None) -> bool:
        """Check all fields; those of the address only if the goods are sent."""
        if self.is_collected:
            self.country.validate_choice = False
            for name in ADDRESS_FIELDS:
                self[name].validators = []
        return bool(super().validate(extra_validators))

    def contact(self) -> dict[str, str]:
        """The contact data to store on the order, by column name. Whoever collects the goods gives no address."""
        names = ("name", "email", "phone", *ADDRESS_FIELDS, "note")
        left_out = ADDRESS_FIELDS if self.is_collected else ()
        return {name: "" if name in left_out else self[name].data or "" for name in names}
