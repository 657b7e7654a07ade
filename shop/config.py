"""Every setting once: its parser, default and meaning. A wrong, missing or misspelt one stops the start.

Settings come from the environment or from a file `.env` beside `app.py` (the environment wins). The rest of the shop
reads them as attributes of `settings`, such as `settings.public_url`.
"""

import difflib
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import click
from flask import Flask, current_app
from sqlalchemy import URL
from werkzeug.local import LocalProxy

from shop.setting_types import (
    KEY_LENGTH,
    address,
    colour,
    contact,
    currency,
    database,
    keys,
    locales,
    mail_address,
    origin,
    origin_of,
    origins,
    percent,
    short,
    switch,
    time_zone,
    web_address,
    whole,
)
from shop.text import one_line, visible

ROOT = Path(__file__).resolve().parent.parent
INSTANCE = ROOT / "instance"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

T = TypeVar("T")


class SettingError(click.ClickException):
    """A setting that the shop can't start with. The message names it and says what to do, in one line."""

    exit_code = 2


def setting(parse: Callable[[str], T], meaning: str, default: str | None = None) -> T:
    """A field of `Settings`.

    Args:
        parse: reads it from text, or raises ValueError that says what to write instead.
        meaning: what it is, for people.
        default: as it would be written; None where it must be given.
    """
    return cast(T, field(metadata={"parse": parse, "meaning": meaning, "default": default}))


# A path may have characters that mean something in an address.
_DEFAULT_DATABASE = URL.create("sqlite", database=str(INSTANCE / "shop.db")).render_as_string()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, read and checked. In the environment and in `.env` their names are in capitals."""

    amwal_project_url: str = setting(web_address, "your project's address at the gateway; its settings page shows it")
    amwal_api_key: str = setting(str, "your project's API key; the same page shows it. Keep it secret")
    amwal_payment_origins: frozenset[str] = setting(
        origins, "where payment pages may be: https://amwal.exchange and the project's origin, unless given", ""
    )
    public_url: str = setting(origin, "the shop's own address as customers and the gateway see it; https")
    secret_key: str = setting(str, "signs cookies and forms; made and kept in instance/ if absent", "")
    secret_key_fallbacks: tuple[str, ...] = setting(keys, "former secret keys still accepted, separated by commas", "")
    database_url: str = setting(database, "where orders are kept", _DEFAULT_DATABASE)
    shop_name: str = setting(one_line, "the shop's name", "Qahwa & Co.")
    shop_contact: str = setting(contact, "how customers reach you: an e-mail address or a phone number", "")
    shop_currency: str = setting(currency, "the one currency of the shop; your Amwal project must use the same", "USD")
    shop_timezone: str = setting(time_zone, "the time zone of times that people read", "UTC")
    shop_accent: str = setting(colour, "a colour for buttons, as #rrggbb", "")
    shop_locales: tuple[str, ...] = setting(locales, "the shop's languages; the first is the default", "en,ar")
    shop_tax_rate: int = setting(percent, "the tax that prices contain, in percent", "0")
    shop_tax_number: str = setting(short, "your tax number, for receipts", "")
    reservation_minutes: int = setting(whole(1, 43_200), "how long an unpaid order holds its goods", "30")
    confirmation_minutes: int = setting(
        whole(0, 43_200), "how much longer after a customer comes back from paying", "120"
    )
    mail_url: str = setting(
        mail_address, "smtp://user:password@host, or a folder for .eml files", str(INSTANCE / "mail")
    )
    merchant_email: str = setting(address, "where you are told what needs attention", "")
    trusted_proxies: int = setting(whole(0, 10), "how many reverse proxies stand before the shop", "0")
    demo: bool = setting(switch, "test mode: on for demonstrations only", "off")

    database_url_given: bool
    """Whether `database_url` is not the default."""


_SETTINGS = {one.name.upper(): one for one in fields(Settings) if one.metadata}
NAMES = frozenset(_SETTINGS)
"""The names of all settings, as they are written."""


def settings_of(app: Flask) -> Settings:
    """Return the settings of an app."""
    return cast(Settings, app.extensions["settings"])


def current_settings() -> Settings:
    """Return the settings of the current app."""
    return settings_of(current_app)


settings = cast(Settings, LocalProxy(current_settings))
"""The settings of the current app, for `settings.public_url` and the like."""


def init_config(app: Flask, given: Mapping[str, str] | None) -> Settings:
    """Load the settings for an app, and give Flask those that it needs itself.

    Raises:
        SettingError: see `load`.
    """
    loaded = load(given)
    app.extensions["settings"] = loaded
    app.config.update(SECRET_KEY=loaded.secret_key, SECRET_KEY_FALLBACKS=[*loaded.secret_key_fallbacks])
    return loaded


def load(given: Mapping[str, str] | None = None) -> Settings:
    """Read and check all settings.

    `DUKKAN_DOTENV` in the environment names another file than `.env`: a demonstration must not read the shop's own.

    Args:
        given: settings as text; if None, the environment and `.env`.

    Raises:
        SettingError: for the first setting that is missing, malformed, misspelt or at odds with another, or for the
            first line of `.env` that can't be read.
    """
    if "%" in str(ROOT):
        raise SettingError(f"{ROOT} has a % in its name, which migrations can't cope with. Rename that folder.")
    if given is None:
        named = os.environ.get("DUKKAN_DOTENV")
        if named and not Path(named).exists():
            raise SettingError(f"DUKKAN_DOTENV: there is no file {named}.")
        from_file = read_env_file(Path(named or ROOT / ".env"))
        _refuse_misspelt(from_file, every=True)
        environment = {name: value for name, value in os.environ.items() if not _is_injected(name, value)}
        _refuse_misspelt(environment, every=False)
        # An empty variable is one that isn't given: some hosts set all that they know of.
        given = from_file | {name: value for name, value in environment.items() if value.strip()}
    else:
        _refuse_misspelt(given, every=True)
    values = {one.name: _value(name, one.metadata, given) for name, one in _SETTINGS.items()}
    _check_together(values)
    values["secret_key"] = values["secret_key"] or _kept_secret_key()
    values["amwal_payment_origins"] = values["amwal_payment_origins"] or frozenset(
        {"https://amwal.exchange", origin_of(values["amwal_project_url"])}
    )
    return Settings(**values, database_url_given=bool(given.get("DATABASE_URL", "").strip()))


def read_env_file(file: Path) -> dict[str, str]:
    """Read a file of settings; no file is an empty one.

    A line is `NAME=value`, with quotes around a value where they help, or a `#` comment. Nothing is interpolated.

    Raises:
        SettingError: for the first line that is anything else, by its number. Values aren't repeated.
    """
    try:
        content = file.read_bytes() if file.exists() else b""
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise SettingError(f"{file.name}, line {number}: this is not UTF-8. Save the file as UTF-8.") from None
    except OSError as error:
        raise SettingError(f"{file.name} can't be read: {error.strerror}.") from None
    found: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, 1):
        # A lone carriage return would hide a setting, in a comment or in another's value.
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line.removesuffix("\r")):
            raise SettingError(f"{file.name}, line {number}: remove control characters, and end each line with LF.")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, value = _read_env_line(f"{file.name}, line {number}", line)
        if name in found:
            raise SettingError(f"{file.name}, line {number}: {name} is in line {found[name][0]} already. Remove one.")
        found[name] = number, value
    return {name: value for name, (_, value) in found.items()}


def _read_env_line(place: str, line: str) -> tuple[str, str]:
    parts = re.fullmatch(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*", line)
    if not parts:
        raise SettingError(f"{place}: write NAME=value, such as SHOP_CURRENCY=SAR.")
    name, written = parts.groups()
    quoted = re.fullmatch(r"""(["'])((?:(?!\1).)*)\1(\s+#.*)?""", written)
    if quoted:
        return name, quoted[2]
    value = re.sub(r"\s+#(\s.*)?$", "", written)
    if value.startswith("#") or re.search(r"\s#", value):  # a colour, a name, or a comment: not ours to guess
        raise SettingError(f"{place}: put quotes around a value with a #, or a blank after the # of a comment.")
    if value[:1] in ("'", '"') or value[-1:] in ("'", '"'):
        raise SettingError(f"{place}: a quote at one end of the value only. Put quotes at both ends, or at none.")
    return name, value


def _value(name: str, about: Mapping[str, Any], given: Mapping[str, str]) -> Any:
    given_text = given.get(name, "")
    clean = one_line if about["parse"] is one_line else visible
    written = clean(given_text) or about["default"]
    if written is None:
        todo = f"Set it in .env or the environment: {about['meaning']}. Or try make demo, which needs no settings"
        raise SettingError(f"{name} is missing. {todo}.")
    try:
        return about["parse"](written)
    except ValueError as error:
        # The value itself is not repeated: it may be a secret pasted into the wrong place.
        raise SettingError(f"{name} can't be used: {error}. It is {about['meaning']}.") from None


_OF_A_SERVICE = re.compile(
    r"(SHOP|AMWAL)_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|ENV_\w+)"
)


def _is_injected(name: str, value: str) -> bool:
    """Whether Kubernetes or a Docker link set a variable, for a service whose name begins with `shop` or `amwal`."""
    if not name.startswith(("SHOP_", "AMWAL_")):
        return False
    port = name.endswith("_PORT") and re.match("(tcp|udp|sctp)://", value)
    link = name.endswith("_NAME") and re.fullmatch(r"(/[\w.-]+){2}", value)
    return bool(port or link or _OF_A_SERVICE.fullmatch(name))


TYPO_SIMILARITY = 0.85
"""How alike two names are, from 0 to 1, of which one is taken for the other misspelt: a letter or two."""


def _refuse_misspelt(names: Mapping[str, str], *, every: bool) -> None:
    """Refuse unknown names: all of a file of ours; in the environment those that look like settings of ours, or nearly
    like one that is not given."""
    for name in sorted(names.keys() - NAMES):
        capitals = name.upper()
        near = difflib.get_close_matches(capitals, NAMES, 1)
        similarity = difflib.SequenceMatcher(None, capitals, near[0]).ratio() if near else 0
        typo = similarity > TYPO_SIMILARITY and near[0] not in names
        if every or typo or name.startswith(("AMWAL_", "SHOP_")):
            hint = f"Did you mean {near[0]}?" if near else "Remove it; .env.example lists what there is."
            raise SettingError(f"{name} is not a setting. {hint}")


def _check_together(values: Mapping[str, Any]) -> None:
    public = urlsplit(values["public_url"])
    if public.scheme != "https" and not values["demo"] and public.hostname not in LOOPBACK:
        raise SettingError("PUBLIC_URL must begin with https:// (plain http is for loopback and demonstrations).")
    project = urlsplit(values["amwal_project_url"])
    if project.scheme != "https" and not values["demo"] and project.hostname not in LOOPBACK:
        raise SettingError("AMWAL_PROJECT_URL must begin with https://, or the API key would travel in the clear.")
    if not values["amwal_api_key"].isascii() or not values["amwal_api_key"].isprintable():
        raise SettingError("AMWAL_API_KEY can't be used: it has characters that no key has. Copy it again.")
    if values["database_url"].startswith("postgresql") and not values["secret_key"] and not values["demo"]:
        raise SettingError(
            "SECRET_KEY is missing. With PostgreSQL, several machines can serve the shop, and must sign cookies with "
            "one key: set it to 32 random characters or more."
        )
    if values["secret_key"] and len(values["secret_key"]) < KEY_LENGTH:
        raise SettingError("SECRET_KEY is too short: give 32 random characters or more, or none to have one made.")


def _kept_secret_key() -> str:
    """The secret key of this checkout, made once: of several processes that start at once, by one."""
    file = INSTANCE / "secret_key"
    try:
        INSTANCE.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            number = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(number, "w") as new:
                new.write(secrets.token_urlsafe(48))
                new.flush()
                os.fsync(number)
        for _ in range(50):  # it is empty while another process writes it
            if len(key := file.read_text(encoding="ascii", errors="replace").strip()) >= KEY_LENGTH:
                return key
            time.sleep(0.02)
    except OSError as error:
        raise SettingError(f"SECRET_KEY is not set and cannot be kept in instance/: {error.strerror}.") from None
    raise SettingError(
        f"SECRET_KEY is not set, and {file} is too short to be one. Delete that file to have a key made; customers' "
        "baskets are then forgotten."
    )
