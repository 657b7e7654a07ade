"""The checkout form: what may be typed, and the words for what is wrong with it."""

import unicodedata
from collections.abc import Callable
from typing import Any

from flask_babel import get_locale
from flask_babel import lazy_gettext as _
from flask_wtf import FlaskForm
from wtforms import HiddenField, RadioField, SelectField, StringField, TextAreaField
from wtforms.validators import DataRequired, InputRequired, Length, Optional, Regexp

from shop.mail import ADDRESS

NO_COUNTRIES = frozenset({"EU", "EZ", "UN", "ZZ", "QO", "XA", "XB", "AC", "CP", "CQ", "DG", "EA", "IC", "TA"})
_UNSEEN = frozenset({"Cc", "Cs", "Cn", "Co"})  # control characters, surrogates, unassigned and private ones


def one_line(value: str | None) -> str | None:
    """Text without blanks around it and without anything that could break a line or hide in it."""
    return value and " ".join("".join(" " if unicodedata.category(c) in _UNSEEN else c for c in value).split())


def several_lines(value: str | None) -> str | None:
    """The same for each line of a text."""
    return value and "\n".join(one_line(line) or "" for line in value.strip().splitlines())


def countries() -> list[tuple[str, str]]:
    """All countries with their names in the page's language, sorted by them."""
    territories = get_locale().territories.items()
    named = [(code, name) for code, name in territories if len(code) == 2 and code not in NO_COUNTRIES]
    return sorted(named, key=lambda pair: unicodedata.normalize("NFKD", pair[1]))


def _line(
    label: Any, most: int, autocomplete: str, *, required: bool = True, more: tuple[Any, ...] = ()
) -> StringField:
    presence = DataRequired(_("Please fill this in.")) if required else Optional()
    length = Length(max=most, message=_("Please keep it under %(most)s characters.", most=most))
    filters: list[Callable[[str | None], str | None]] = [one_line]
    return StringField(
        label, [presence, length, *more], filters=filters, render_kw={"autocomplete": autocomplete, "maxlength": most}
    )


class CheckoutForm(FlaskForm):  # type: ignore[misc]
    """Where an order goes and how to reach its buyer. Prices are not in it: they come from the database."""

    name = _line(_("Full name"), 120, "name")
    email = _line(
        _("E-mail"),
        254,
        "email",
        more=(
            Regexp(
                f"^{ADDRESS.pattern}$",
                message=_("Please write an address like name@example.com."),
            ),
        ),
    )
    phone = _line(
        _("Phone"),
        40,
        "tel",
        required=False,
        more=(Regexp(r"^[\d\s()+./-]{5,}$", message=_("Please write a phone number, such as +966 50 123 4567.")),),
    )
    address = _line(_("Address"), 300, "street-address")
    city = _line(_("City"), 120, "address-level2")
    region = _line(_("Region"), 120, "address-level1", required=False)
    postcode = _line(_("Postcode"), 20, "postal-code", required=False)
    country = SelectField(
        _("Country"), [InputRequired(_("Please choose a country."))], render_kw={"autocomplete": "country"}
    )
    delivery = RadioField(_("Delivery"), [InputRequired(_("Please choose a delivery."))])
    note = TextAreaField(
        _("Note for us"),
        [Optional(), Length(max=500, message=_("Please keep it under %(most)s characters.", most=500))],
        filters=[several_lines],
        render_kw={"maxlength": 500, "rows": 3},
    )
    checkout_key = HiddenField()

    def contact(self) -> dict[str, str]:
        """What goes on the order, by the names of its columns."""
        names = ("name", "email", "phone", "address", "city", "region", "postcode", "country", "note")
        return {name: self[name].data or "" for name in names}
