"""Every setting once: its name, type, default and meaning. A wrong, missing or misspelt one stops the start.

Settings come from the environment or from a file `.env` beside `app.py` (the environment wins). Only `app.py` reads
this module; the rest of the shop finds the checked values in `current_app.config`.
"""

import difflib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import click
from babel import Locale, UnknownLocaleError
from babel.numbers import list_currencies
from dotenv import dotenv_values
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

ROOT = Path(__file__).resolve().parent.parent
INSTANCE = ROOT / "instance"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class SettingError(click.ClickException):
    """A setting that the shop cannot start with. The message names it and says what to do, in one line."""

    exit_code = 2


def text(value: str) -> str:
    """Any text."""
    return value.strip()


def switch(value: str) -> bool:
    """`on` or `off`. A misspelt switch must not be taken for off."""
    known = {"on": True, "1": True, "true": True, "yes": True, "off": False, "0": False, "false": False, "no": False}
    if value.strip().lower() not in known:
        raise ValueError("write on or off")
    return known[value.strip().lower()]


def whole(least: int) -> Callable[[str], int]:
    """A whole number, at least `least`."""

    def parse(value: str) -> int:
        if not value.strip().isascii() or not value.strip().isdigit() or int(value) < least:
            raise ValueError(f"write a whole number, {least} or more")
        return int(value)

    return parse


def percent(value: str) -> int:
    """A tax rate in percent, e.g. `15` or `7.5`; given back in hundredths of a percent."""
    try:
        rate = Decimal(value.strip())
    except InvalidOperation:
        rate = Decimal(-1)
    if not (rate.is_finite() and 0 <= rate < 100) or rate * 100 != int(rate * 100):
        raise ValueError("write a percentage such as 15 or 7.5")
    return int(rate * 100)


def origin(value: str) -> str:
    """Scheme, host and port, e.g. `https://shop.example`."""
    url = web_address(value)
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query:
        raise ValueError("write scheme and host only, such as https://shop.example")
    return _origin_of(url)


def web_address(value: str) -> str:
    """An http or https address with a host and no user, password or fragment."""
    value = value.strip()
    wrong = ValueError("write a full address such as https://shop.example")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise wrong from None
    usual = value.isascii() and value.isprintable() and " " not in value
    if (
        not usual
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise wrong
    return value


def origins(value: str) -> frozenset[str]:
    """Several origins, separated by commas."""
    return frozenset(origin(part) for part in value.split(",") if part.strip())


def currency(value: str) -> str:
    """An ISO 4217 code."""
    if value.strip() not in list_currencies():
        raise ValueError("write a currency's three-letter code, such as USD or SAR")
    return value.strip()


def time_zone(value: str) -> str:
    """A name of the IANA time zone database."""
    try:
        return ZoneInfo(value.strip()).key
    except (KeyError, ValueError, OSError):
        raise ValueError("write a time zone such as UTC or Asia/Riyadh") from None


def locales(value: str) -> tuple[str, ...]:
    """Language codes, separated by commas; the first is the default."""
    codes = tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        for code in codes:
            Locale.parse(code)
    except (UnknownLocaleError, ValueError):
        codes = ()
    if not codes:
        raise ValueError("write language codes such as en,ar")
    return codes


def database(value: str) -> str:
    """An SQLAlchemy address of an SQLite or PostgreSQL database. PostgreSQL is spoken to by psycopg 3, its one driver
    here, and some hosts write its scheme as `postgres`."""
    try:
        url = make_url(value.strip())
    except (ArgumentError, ValueError):
        raise ValueError("write sqlite:////data/shop.db or postgresql://user:password@host/shop") from None
    if url.drivername in ("postgresql", "postgresql+psycopg", "postgres"):
        try:
            import_module("psycopg")
        except ImportError:
            raise ValueError("first run pip install --require-hashes -r requirements-postgres.txt") from None
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if url.get_backend_name() != "sqlite":
        raise ValueError("the shop runs on sqlite:// and postgresql://")
    if url.database in (None, "", ":memory:"):
        raise ValueError("name a file: sqlite:////data/shop.db")
    return value.strip()


def mail_address(value: str) -> str:
    """Where mails go: smtp:// or smtps:// with a host, or a folder."""
    value = value.strip()
    wrong = ValueError("write smtp://user:password@host:port, or the path of a folder")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise wrong from None
    by_smtp = parts.scheme in ("smtp", "smtps") and parts.hostname and value.startswith(f"{parts.scheme}://")
    if not by_smtp and (value.lower().startswith("smtp") or "://" in value):  # `smtp.example.com:587` is no folder
        raise wrong
    return value


def address(value: str) -> str:
    """An e-mail address, or nothing."""
    if value and not re.fullmatch(r"[!-?A-~]+@[!-?A-~]+", value.strip()):
        raise ValueError("write one e-mail address, such as you@shop.example")
    return value.strip()


def short(value: str) -> str:
    """Text of 40 characters at most."""
    if len(value.strip()) > 40:
        raise ValueError("write 40 characters at most")
    return value.strip()


def colour(value: str) -> str:
    """A colour as `#rrggbb`."""
    if value and not re.fullmatch(r"#[0-9a-fA-F]{6}", value.strip()):
        raise ValueError("write a colour such as #1f5f53")
    return value.strip()


def keys(value: str) -> list[str]:
    """Former secret keys, separated by commas."""
    return [part.strip() for part in value.split(",") if part.strip()]


@dataclass(frozen=True)
class Setting:
    """One setting. `default` is text as it would be written, or None where a value must be given."""

    name: str
    parse: Callable[[str], Any]
    default: str | None
    meaning: str


SETTINGS = (
    Setting(
        "AMWAL_PROJECT_URL", web_address, None, "your project's address at the gateway; its settings page shows it"
    ),
    Setting("AMWAL_API_KEY", text, None, "your project's API key; the same page shows it. Keep it secret"),
    Setting(
        "AMWAL_PAYMENT_ORIGINS",
        origins,
        "",
        "where payment pages may live: https://amwal.exchange and the project's origin, unless said otherwise",
    ),
    Setting("PUBLIC_URL", origin, None, "the shop's own address as customers and the gateway see it; https"),
    Setting("SECRET_KEY", text, "", "signs cookies and forms; made and kept in instance/ where it is not given"),
    Setting("SECRET_KEY_FALLBACKS", keys, "", "former secret keys that are still accepted, separated by commas"),
    Setting("DATABASE_URL", database, f"sqlite:///{INSTANCE / 'shop.db'}", "where orders are kept"),
    Setting("SHOP_NAME", text, "Qahwa & Co.", "the shop's name"),
    Setting("SHOP_CONTACT", text, "", "how customers reach you: an e-mail address or a phone number"),
    Setting("SHOP_CURRENCY", currency, "USD", "the one currency of the shop; your Amwal project must use the same"),
    Setting("SHOP_TIMEZONE", time_zone, "UTC", "the time zone of times that people read"),
    Setting("SHOP_ACCENT", colour, "", "a colour for buttons, as #rrggbb"),
    Setting("SHOP_LOCALES", locales, "en,ar", "the shop's languages; the first is the default"),
    Setting("SHOP_TAX_RATE", percent, "0", "the tax that prices contain, in percent"),
    Setting("SHOP_TAX_NUMBER", short, "", "your tax number, for receipts"),
    Setting("RESERVATION_MINUTES", whole(1), "30", "how long an unpaid order holds its goods"),
    Setting("CONFIRMATION_MINUTES", whole(0), "120", "how much longer after a customer comes back from paying"),
    Setting("MAIL_URL", mail_address, str(INSTANCE / "mail"), "smtp://user:password@host, or a folder for .eml files"),
    Setting("MERCHANT_EMAIL", address, "", "where you are told what needs attention"),
    Setting("TRUSTED_PROXIES", whole(0), "0", "how many reverse proxies stand before the shop"),
    Setting("DEMO", switch, "off", "test mode: on for demonstrations only"),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def load(given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read and check all settings.

    `DUKKAN_DOTENV` in the environment names another file than `.env`: a demonstration must not read the shop's own.

    Args:
        given: settings as text; if None, the environment and `.env`.

    Returns:
        Checked values by name, ready for `app.config`.

    Raises:
        SettingError: for the first setting that is missing, malformed, misspelt or at odds with another.
    """
    if given is None:
        file = os.environ.get("DUKKAN_DOTENV", str(ROOT / ".env"))
        from_file = {name: value or "" for name, value in dotenv_values(file).items()}
        _refuse_misspelt(from_file, every=True)
        _refuse_misspelt(os.environ, every=False)
        given = from_file | dict(os.environ)
    else:
        _refuse_misspelt(given, every=True)
    values = {setting.name: _value(setting, given) for setting in SETTINGS}
    _check_together(values)
    values["DATABASE_URL_GIVEN"] = bool(given.get("DATABASE_URL"))
    values["SECRET_KEY"] = values["SECRET_KEY"] or _kept_secret_key()
    values["AMWAL_PAYMENT_ORIGINS"] = values["AMWAL_PAYMENT_ORIGINS"] or frozenset(
        {"https://amwal.exchange", _origin_of(values["AMWAL_PROJECT_URL"])}
    )
    return values


def _value(setting: Setting, given: Mapping[str, str]) -> Any:
    written = given.get(setting.name, "").strip() or setting.default
    if written is None:
        raise SettingError(f"{setting.name} is missing. Set it in .env or the environment: {setting.meaning}.")
    try:
        return setting.parse(written)
    except ValueError as error:
        # The value itself is not repeated: it may be a secret pasted into the wrong place.
        raise SettingError(f"{setting.name} cannot be used: {error}. It is {setting.meaning}.") from None


TYPO_SIMILARITY = 0.89
"""How alike two names are, from 0 to 1, of which one is taken for the other misspelt: a letter or two."""


def _refuse_misspelt(names: Mapping[str, str], *, every: bool) -> None:
    """Refuse unknown names: all of a file of ours; in the environment those that look like settings of ours, or nearly
    like one that is not given."""
    for name in sorted(names.keys() - _BY_NAME.keys()):
        near = difflib.get_close_matches(name, _BY_NAME, 1)
        typo = near and near[0] not in names and difflib.SequenceMatcher(None, name, near[0]).ratio() > TYPO_SIMILARITY
        if every or typo or name.startswith(("AMWAL_", "SHOP_")):
            hint = f"Did you mean {near[0]}?" if near else "Remove it; .env.example lists what there is."
            raise SettingError(f"{name} is not a setting. {hint}")


def _check_together(values: Mapping[str, Any]) -> None:
    public = urlsplit(values["PUBLIC_URL"])
    if public.scheme != "https" and not values["DEMO"] and public.hostname not in LOOPBACK:
        raise SettingError("PUBLIC_URL must begin with https:// (plain http is for loopback and demonstrations).")
    project = urlsplit(values["AMWAL_PROJECT_URL"])
    if project.scheme != "https" and not values["DEMO"] and project.hostname not in LOOPBACK:
        raise SettingError("AMWAL_PROJECT_URL must begin with https://, or the API key would travel in the clear.")
    if not values["AMWAL_API_KEY"].isascii() or not values["AMWAL_API_KEY"].isprintable():
        raise SettingError("AMWAL_API_KEY cannot be used: it has characters that no key has. Copy it again.")
    if values["SECRET_KEY"] and len(values["SECRET_KEY"]) < 32:
        raise SettingError("SECRET_KEY is too short: give 32 random characters or more, or none to have one made.")


def _origin_of(url: str) -> str:
    """Scheme, host and port as browsers write them: lower case, no port where it is the usual one."""
    parts = urlsplit(url)
    netloc = parts.netloc.lower()
    return f"{parts.scheme}://{netloc.removesuffix(':443' if parts.scheme == 'https' else ':80')}"


def _kept_secret_key() -> str:
    """The secret key of this checkout, made once."""
    file = INSTANCE / "secret_key"
    if not file.exists():
        try:
            INSTANCE.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=INSTANCE) as new:  # readable by its owner alone
                new.write(secrets.token_urlsafe(48))
                new.flush()
                with suppress(FileExistsError):  # another process was faster: its key is the one
                    os.link(new.name, file)
        except OSError as error:
            raise SettingError(f"SECRET_KEY is not set and cannot be kept in instance/: {error.strerror}.") from None
    return file.read_text()
