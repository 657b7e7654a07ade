"""How settings are written: a parser for each kind. Each raises ValueError, which says what to write instead."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from importlib import import_module
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.numbers import list_currencies
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from shop.text import email_address, one_line

KEY_LENGTH = 32  # characters at least


def switch(value: str) -> bool:
    """`on` or `off`. A misspelt switch must not be taken for off."""
    known = {"on": True, "1": True, "true": True, "yes": True, "off": False, "0": False, "false": False, "no": False}
    if value.strip().lower() not in known:
        raise ValueError("write on or off")
    return known[value.strip().lower()]


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value.strip()) or not least <= int(value) <= most:
            raise ValueError(f"write a whole number from {least} to {most}")
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
    return origin_of(url)


def web_address(value: str) -> str:
    """An http or https address with a host and no user, password or fragment."""
    value = value.strip()
    wrong = ValueError("write a full address such as https://shop.example")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
        address = f"[{IPv6Address(host)}]" if ":" in host else host
    except ValueError:
        raise wrong from None
    # What remains of a host and a port when they are written again: no user, no empty or odd port, no space.
    whole_host = address if port is None else f"{address}:{port}"
    usual = value.isascii() and value.isprintable() and not re.search(r"[\s\\#]", value)
    if not usual or parts.scheme not in ("http", "https") or parts.netloc.lower() != whole_host or port == 0:
        raise wrong
    if ":" not in host and (len(host) > 253 or not all(map(_LABEL.fullmatch, host.split(".")))):
        raise wrong
    if host.rpartition(".")[2].isdigit() and not re.fullmatch(r"((25[0-5]|2[0-4]\d|1?\d?\d)(\.|$)){4}", host):
        raise wrong
    return value


_LABEL = re.compile(r"(?i)(?!-)[a-z0-9_-]{1,63}(?<!-)")
"""A part of a host's name; with an underscore for names of containers."""


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
        _check_options(url)
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if url.drivername != "sqlite":
        raise ValueError("the shop runs on sqlite:// and postgresql://")
    # A relative path would be another file from another folder; with two slashes, its first folder is taken for a host.
    if url.host or url.username or url.query or not Path(url.database or "").is_absolute():
        raise ValueError(
            "name a file by its whole path, with four slashes and nothing after it: sqlite:////data/shop.db"
        )
    return value.strip()


def _check_options(url: URL) -> None:
    """Refuse what PostgreSQL's client knows no option for."""
    try:
        psycopg = import_module("psycopg")
    except ImportError:
        raise ValueError("first run pip install --require-hashes -r requirements-server.txt") from None
    for name in url.query:
        try:
            psycopg.conninfo.make_conninfo(**{name: ""})
        except psycopg.ProgrammingError:
            raise ValueError(f"after the ? stands {name[:40]}, which PostgreSQL doesn't know") from None


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
    if not by_smtp and re.search(r"(?i)^smtp|://|^[\w.-]{2,}:\d+$", value):  # `mail.example.com:587` is no folder
        raise wrong
    return value


def address(value: str) -> str:
    """An e-mail address, or nothing; also as mail programs and pages copy it."""
    found = email_address(value)
    if found and not re.fullmatch(r"[!-;=?A-~]+@[!-+\--;=?A-~]+", found):
        raise ValueError("write one e-mail address, such as you@shop.example")
    return found


def contact(value: str) -> str:
    """An e-mail address or a phone number as people read it; also as a link."""
    return re.sub(r"(?i)^(mailto|tel):", "", one_line(value))


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


def keys(value: str) -> tuple[str, ...]:
    """Former secret keys, separated by commas."""
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    if any(len(key) < KEY_LENGTH for key in found):  # one of them is as good as the present one
        raise ValueError(f"each key has {KEY_LENGTH} characters or more")
    return found


def origin_of(url: str) -> str:
    """Scheme, host and port as browsers write them: lower case, no port where it is the usual one."""
    parts = urlsplit(url)
    netloc = parts.netloc.lower()
    return f"{parts.scheme}://{netloc.removesuffix(':443' if parts.scheme == 'https' else ':80')}"
