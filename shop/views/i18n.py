"""Template filters and globals: money, times, localized texts, static file URLs."""

import hashlib
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from babel import Locale
from flask import Flask, Response, current_app, has_request_context, request, url_for
from flask_babel import Babel, format_date, get_locale
from flask_babel import gettext as _
from sqlalchemy.exc import SQLAlchemyError

from models import localized
from shop import baskets, gateway
from shop.config import settings
from shop.mail import ADDRESS
from shop.money import format_money
from shop.text import fold
from shop.views import browser
from shop.views.style import style_mark


def init_i18n(app: Flask) -> None:
    """Set up languages, filters and the variables of all templates."""
    Babel(app, locale_selector=choose_locale, default_timezone=settings.shop_timezone)
    for name in (money, localized, country, dialled, clock, iso, day, moment):
        app.jinja_env.filters[name.__name__] = name
    app.jinja_env.globals.update(asset=asset, shop=Shop(app))
    app.context_processor(page_variables)
    app.after_request(name_what_pages_depend_on)


class Shop:
    """The shop as templates see it."""

    def __init__(self, app: Flask) -> None:
        self.style_mark = style_mark(app)
        self.dashboard_style_mark = style_mark(app, "dashboard")
        self.name: str = settings.shop_name
        self.contact: str = settings.shop_contact
        self.contact_url = contact_url(settings.shop_contact)
        self.test_mode: bool = settings.demo

    @property
    def closed_by_merchant(self) -> str | None:
        """The merchant's sentence while the shop is closed."""
        return gateway.closed_by_merchant()


def contact_url(contact: str) -> str:
    """The link to write, call or visit a contact; "" for other texts."""
    if ADDRESS.fullmatch(contact):
        return f"mailto:{contact}"
    if re.fullmatch(r"\+?[\d\s()./-]{5,}", contact):
        return f"tel:{dialled(contact)}"
    return contact if re.fullmatch(r"https://\S+", contact) else ""


def dialled(number: str) -> str:
    """The digits to dial of a phone number, without its extension; 00 before a country is a +."""
    digits = re.sub(r"[^0-9+]", "", fold(re.split(r"(?i)ext|x|#|تحويلة", number)[0]))
    return re.sub("^00", "+", digits)


def choose_locale() -> str:
    """`?lang=`, else the chosen language, else the browser's, else the shop's default."""
    offered = settings.shop_locales
    if has_request_context():
        for wish in (request.args.get("lang"), request.cookies.get(current_app.config["LANGUAGE_COOKIE"])):
            if wish in offered:
                return str(wish)
        return request.accept_languages.best_match(offered) or offered[0]
    return str(offered[0])


def name_what_pages_depend_on(response: Response) -> Response:
    """Tell caches that pages differ by language and by basket."""
    if response.mimetype == "text/html":
        response.vary.update(("Accept-Language", "Cookie"))
    return response


def page_variables() -> dict[str, Any]:
    """Language, text direction (from the locale's data) and basket badge."""
    locale = get_locale()
    others = [code for code in settings.shop_locales if code != str(locale)]
    return {
        "lang": str(locale).replace("_", "-"),
        "dir": locale.text_direction,
        "other_locales": [(code, Locale.parse(code).display_name) for code in others],
        "basket_units": _badge(),
    }


def _badge() -> int:
    try:
        return baskets.units(browser.basket_token())
    except SQLAlchemyError:  # the error page must still render
        return 0


def country(code: str) -> str:
    """A country's name in the reader's language."""
    return str(get_locale().territories.get(code, code))


def money(minor: int, currency: str | None = None) -> str:
    """An amount in minor units, formatted for the reader."""
    return format_money(minor, currency or settings.shop_currency, str(get_locale()))


def clock(at: datetime) -> str:
    """The time of day in the shop's time zone, with its name: `14:52 CET`, `15:52 UTC+3`."""
    local = at.astimezone(ZoneInfo(settings.shop_timezone))
    name = local.tzname() or ""
    if not name.isalpha():  # many zones have no name but their distance: `+03`, `+0530`
        hours, minutes = f"{local:%z}"[:3], f"{local:%z}"[3:5]
        name = f"UTC{hours[0]}{int(hours[1:])}" + (f":{minutes}" if minutes != "00" else "")
    return f"{local:%H:%M} {name}"


def iso(at: datetime) -> str:
    """A time as the `datetime` attribute has it."""
    return at.isoformat(timespec="seconds")


def day(at: datetime) -> str:
    """The date in the shop's time zone: `22 Nov 2026`."""
    return str(format_date(at, "d MMM y"))


def moment(at: datetime) -> str:
    """Date and time in the shop's time zone."""
    time = clock(at)
    if get_locale().text_direction == "rtl":
        time = f"\u2066{time}\u2069"  # isolated, or the zone's name would change places with what follows
    return str(_("%(day)s, %(time)s", day=day(at), time=time))


def asset(path: str) -> str:
    """The URL of a file in `static/`, with a content digest to bust caches."""
    return url_for("static", filename=path, v=_mark(Path(current_app.static_folder or "", path)))


@cache
def _mark(file: Path) -> str | None:
    """Ten digits of the content's digest; None if the file is missing."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:10] if file.is_file() else None
