"""Settings: what is missing, malformed or misspelt stops the start with one line that names it."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flask.cli import FlaskGroup
from hypothesis import given
from hypothesis import strategies as st

from app import create_app
from shop import config
from shop.config import NAMES, SettingError, load

GOOD = {
    "AMWAL_PROJECT_URL": "https://amwal.exchange/projects/1",
    "AMWAL_API_KEY": "key",
    "PUBLIC_URL": "https://shop.example",
    "SECRET_KEY": "x" * 32,
}


def test_three_settings_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    values = load({name: GOOD[name] for name in ("AMWAL_PROJECT_URL", "AMWAL_API_KEY", "PUBLIC_URL")})
    assert values.shop_currency == "USD"
    assert values.shop_locales == ("en", "ar")
    assert values.amwal_payment_origins == {"https://amwal.exchange"}


@pytest.mark.parametrize("written", ["https://Shop.Example", "https://shop.example:443/", " https://shop.example "])
def test_an_address_is_kept_as_browsers_write_it(written: str) -> None:
    assert load(GOOD | {"PUBLIC_URL": written}).public_url == "https://shop.example"


@pytest.mark.parametrize(
    "written",
    [
        "https://amwal_sandbox:8001",
        "https://[::1]:8000",
        "https://192.0.2.255",
        "https://xn--mgb.example",
        "https://shop",
    ],
)
def test_what_hosts_are_called_is_an_address(written: str) -> None:
    assert load(GOOD | {"PUBLIC_URL": written}).public_url == written


HOSTS = [
    *(
        "shop.example:",
        "shop.example:0443",
        "shop.example:0",
        "shop.example;x",
        "shop.example\\evil",
        "shop%20.example",
    ),
    *("*.host.example", "shop..example", ".example", "-a.example", "a-.example", "shop.example.", "1.2.3", "1.2.3.400"),
    *("[zz]", "[::1", f"{'a' * 64}.example", "shop.example:70000", "sho p.example", "@shop.example", "shop.example#x"),
]


@pytest.mark.parametrize("name", ["PUBLIC_URL", "AMWAL_PROJECT_URL", "AMWAL_PAYMENT_ORIGINS"])
@pytest.mark.parametrize("host", HOSTS)
def test_row_58_an_address_at_which_nobody_would_be_found_stops_the_start(name: str, host: str) -> None:
    """With some of them the shop would start, and refuse every request."""
    with pytest.raises(SettingError, match=f"^{name} can't be used: write "):
        load(GOOD | {name: f"https://{host}"})


@pytest.mark.parametrize("name", ["AMWAL_PROJECT_URL", "AMWAL_API_KEY", "PUBLIC_URL"])
def test_row_58_a_missing_setting_is_named(name: str) -> None:
    with pytest.raises(SettingError, match=rf"{name} is missing\. Set it in \.env or the environment"):
        load(GOOD | {name: "  "})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AMWAL_PROJECT_URL", "amwal.exchange/projects/1"),
        ("AMWAL_PROJECT_URL", "https://"),
        ("AMWAL_PROJECT_URL", "https://user:password@amwal.exchange/"),
        ("AMWAL_PROJECT_URL", "https://amwal.exchange:port/"),
        ("AMWAL_PROJECT_URL", "http://amwal.exchange/projects/1"),
        ("AMWAL_API_KEY", "ключ"),
        ("PUBLIC_URL", "ftp://shop.example"),
        ("PUBLIC_URL", "http://shop.example"),
        ("PUBLIC_URL", "https://shop.example/path"),
        ("AMWAL_PAYMENT_ORIGINS", "amwal.exchange"),
        ("SECRET_KEY", "short"),
        ("DATABASE_URL", "mysql://localhost/shop"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "shop.db"),
        ("DATABASE_URL", "postgresql+psycopg2://localhost/shop"),
        ("DATABASE_URL", "postgresql://localhost:port/shop"),
        ("DATABASE_URL", "postgresql://localhost/shop?foo=bar"),
        ("DATABASE_URL", "sqlite:///shop.db"),
        ("DATABASE_URL", "sqlite://data/shop.db"),
        ("DATABASE_URL", "sqlite://user:pw@host/x.db"),
        ("DATABASE_URL", "sqlite:////data/shop.db?timeout=abc"),
        ("DATABASE_URL", "sqlite:///file:/data/shop.db?uri=true"),
        ("DATABASE_URL", "sqlite+aiosqlite:////data/shop.db"),
        ("SECRET_KEY_FALLBACKS", "short"),
        ("SECRET_KEY_FALLBACKS", f"{'x' * 32},short"),
        ("RESERVATION_MINUTES", "43201"),
        ("RESERVATION_MINUTES", "9" * 5000),
        ("CONFIRMATION_MINUTES", "99999999999"),
        ("TRUSTED_PROXIES", "11"),
        ("TRUSTED_PROXIES", "²"),
        ("SHOP_CURRENCY", "EURO"),
        ("SHOP_TIMEZONE", "Mars/Olympus"),
        ("SHOP_ACCENT", "red; }"),
        ("SHOP_LOCALES", "english"),
        ("SHOP_LOCALES", ","),
        ("SHOP_TAX_RATE", "15 %"),
        ("SHOP_TAX_RATE", "NaN"),
        ("SHOP_TAX_RATE", "0.125"),
        ("RESERVATION_MINUTES", "0"),
        ("RESERVATION_MINUTES", "half an hour"),
        ("MERCHANT_EMAIL", "me at home"),
        ("MERCHANT_EMAIL", "you@shop.example, me@shop.example"),
        ("TRUSTED_PROXIES", "-1"),
        ("DEMO", "onn"),
    ],
)
def test_row_58_a_malformed_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(GOOD | {name: value})
    assert name in caught.value.message
    assert "\n" not in caught.value.message


def test_row_58_a_misspelt_setting_is_named_with_what_was_meant() -> None:
    with pytest.raises(SettingError, match=r"AMWAL_APIKEY is not a setting\. Did you mean AMWAL_API_KEY\?"):
        load(GOOD | {"AMWAL_APIKEY": "key"})


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("TRUSTED_PROXYS", "TRUSTED_PROXIES"),
        ("RESERVATION_MINUTE", "RESERVATION_MINUTES"),
        ("DATABASEURL", "DATABASE_URL"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
        ("trusted_proxies", "TRUSTED_PROXIES"),
        ("shop_name", "SHOP_NAME"),
    ],
)
def test_row_58_so_is_one_in_the_environment(slip: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(meant, raising=False)
    monkeypatch.setenv("DUKKAN_DOTENV", os.devnull)
    monkeypatch.setenv(slip, "1")
    with pytest.raises(SettingError, match=f"{slip} is not a setting. Did you mean {meant}"):
        load()


@pytest.mark.parametrize("written", ["shop_name", "Shop_Name", "SHOPNAME"])
def test_row_74_in_the_file_too(env_file: Callable[..., Path], written: str) -> None:
    env_file(f"{written}=x\n")
    with pytest.raises(SettingError, match=rf"{written} is not a setting\. Did you mean SHOP_NAME\?"):
        load()


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("MERCHANT_EMAIL", "mailto:you@shop.example", "you@shop.example"),
        ("MERCHANT_EMAIL", "You <you@shop.example>", "you@shop.example"),
        ("MERCHANT_EMAIL", "ｙｏｕ＠shop.example", "you@shop.example"),
        ("SHOP_CONTACT", "mailto:you@shop.example", "you@shop.example"),
        ("SHOP_CONTACT", "tel:+966501234567", "+966501234567"),
        ("SHOP_NAME", "\u200b", "Qahwa & Co."),
        ("SHOP_NAME", "\u2060 \u00ad", "Qahwa & Co."),
    ],
)
def test_row_74_what_is_pasted_is_read_as_it_was_meant(name: str, written: str, read: str) -> None:
    assert getattr(load(GOOD | {name: written}), name.lower()) == read


EDGES = [
    ("RESERVATION_MINUTES", "1", "43200", ["0", "43201"]),
    ("CONFIRMATION_MINUTES", "0", "43200", ["-1", "43201"]),
    ("TRUSTED_PROXIES", "0", "10", ["-1", "11"]),
    ("SHOP_TAX_RATE", "0", "99.99", ["-0.01", "100"]),
    ("SECRET_KEY", "x" * 32, "x" * 400, ["x" * 31]),
    ("SECRET_KEY_FALLBACKS", "x" * 32, "x" * 400, ["x" * 31]),
    ("SHOP_TAX_NUMBER", "x", "x" * 40, ["x" * 41]),
]


@pytest.mark.parametrize(("name", "least", "most", "beyond"), EDGES, ids=[edge[0] for edge in EDGES])
def test_a_setting_is_taken_up_to_its_limits_and_not_beyond(
    name: str, least: str, most: str, beyond: list[str]
) -> None:
    for value in (least, most):
        assert load(GOOD | {name: value})
    for value in beyond:
        with pytest.raises(SettingError, match=name):
            load(GOOD | {name: value})


@pytest.mark.parametrize(("words", "meaning"), [("on 1 true yes ON Yes", True), ("off 0 false no OFF No", False)])
def test_a_switch_is_set_by_any_of_these_words(words: str, *, meaning: bool) -> None:
    assert [load(GOOD | {"DEMO": word}).demo for word in words.split()] == [meaning] * 6


def test_row_58_what_is_not_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (GOOD | {"DATABASE_URL": "sqlite:////tmp/shop.db"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DUKKAN_DOTENV", os.devnull)
    for name in ("DATABASE_URI", "PUBLIC_KEY", "DEMO_MODE", "MAIL_USER", "SECRET", "API_KEY", "DATABASE"):
        monkeypatch.setenv(name, "another program's")
    load()


def test_row_58_a_refused_value_is_not_repeated() -> None:
    with pytest.raises(SettingError) as caught:
        load(GOOD | {"PUBLIC_URL": "sk-secret-pasted-into-the-wrong-line"})
    assert "sk-secret" not in caught.value.message


def test_row_58_the_secret_key_is_made_once_and_kept_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    without = {name: value for name, value in GOOD.items() if name != "SECRET_KEY"}
    first, second = load(without).secret_key, load(without).secret_key
    assert first == second
    assert len(first) >= 48
    assert (tmp_path / "instance" / "secret_key").stat().st_mode & 0o077 == 0


def test_every_setting_is_explained_in_the_example_file() -> None:
    example = (config.ROOT / ".env.example").read_text()
    for name in NAMES:
        assert f"{name}=" in example, f"{name} is not in .env.example"


@pytest.mark.parametrize("changes", [{"AMWAL_API_KEY": ""}, {"AMWAL_PROJECT_URL": "no address"}])
def test_row_58_the_command_line_stops_with_one_line(changes: dict[str, str]) -> None:
    environment = {**os.environ, **GOOD, **changes}
    result = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", "worker"],
        cwd=config.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 2
    [line] = result.stderr.strip().splitlines()
    assert next(iter(changes)) in line
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_postgresql_is_spoken_to_by_psycopg_however_its_address_begins(scheme: str) -> None:
    values = load(GOOD | {"DATABASE_URL": f" {scheme}://u:p%40ss@h:5433/shop?sslmode=require "})
    assert values.database_url == "postgresql+psycopg://u:p%40ss@h:5433/shop?sslmode=require"


def test_without_its_driver_postgresql_stops_the_start_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not there
    with pytest.raises(SettingError, match=r"DATABASE_URL .* pip install .*-r requirements-server\.txt") as caught:
        load(GOOD | {"DATABASE_URL": "postgresql://h/shop"})
    assert "\n" not in caught.value.message
    assert (config.ROOT / "requirements-server.txt").exists()


@pytest.mark.parametrize(
    "value", ["smtp.example.com:587", "mail.example:587", "SMTPS//u@h", "smtp://h:notaport", "smtp://", "http://h"]
)
def test_a_mail_address_is_no_folder(value: str) -> None:
    with pytest.raises(SettingError, match="MAIL_URL"):
        load(GOOD | {"MAIL_URL": value})


@pytest.mark.parametrize("value", ["smtp://u:p@h:587", "smtps://h", "/var/mail", "mail", "C:/mail"])
def test_folders_and_servers_are_mail_addresses(value: str) -> None:
    assert load(GOOD | {"MAIL_URL": value}).mail_url == value


# --- The file .env ---------------------------------------------------------------------------------------------------


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write the file that settings are read from; without words of its own it has what a shop needs."""
    file = tmp_path / ".env"
    monkeypatch.setenv("DUKKAN_DOTENV", str(file))
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")

    def write(more: str | bytes = "", good: bool = True) -> Path:
        lines = "".join(f"{name}={value}\n" for name, value in GOOD.items()) if good else ""
        file.write_bytes(lines.encode() + (more if isinstance(more, bytes) else more.encode()))
        return file

    return write


LINES = {
    "SHOP_NAME=Qahwa & Co.": "Qahwa & Co.",
    "  SHOP_NAME = قهوة وشركاه  \r": "قهوة وشركاه",
    'SHOP_NAME="a # b"': "a # b",
    "SHOP_NAME='it says \"x\"'  # a comment": 'it says "x"',
    "SHOP_NAME=a b # a comment": "a b",
    "SHOP_NAME=a#b": "a#b",
    "SHOP_NAME=Ali's shop": "Ali's shop",
    "SHOP_NAME=${HOME} $HOME \\n": "${HOME} $HOME \\n",
    "SHOP_NAME=": "Qahwa & Co.",
    "SHOP_NAME=a b #": "a b",
    'SHOP_NAME="#1f5f53"': "#1f5f53",
    "# SHOP_NAME=commented out": "Qahwa & Co.",
}


@pytest.mark.parametrize("line", LINES)
def test_row_74_a_line_of_the_file_is_a_name_and_a_value(env_file: Callable[..., Path], line: str) -> None:
    env_file(f"\n{line}\n\n")
    assert load().shop_name == LINES[line]


BAD_LINES = [
    *("SHOP_CURRENCY: SAR", "SHOP NAME=x", "SHOP_CURRENCY", "=SAR", "export SHOP_CURRENCY=SAR", "SHOP-CURRENCY=SAR"),
    *('SHOP_NAME="x', "SHOP_NAME='x", "SHOP_NAME=x'", 'SHOP_NAME="x" y', "SHOP_NAME='x'y'", 'SHOP_NAME="', "[shop]"),
    *("SHOP_ACCENT=#1f5f53", "SHOP_NAME=Tea #1", "SHOP_NAME=  # the default", "SHOP_NAME=a #b # c"),
    *(
        "SHOP_CURRENCY\u00a0SAR",
        "\u200bSHOP_CURRENCY=SAR",
        "ЅHOP_CURRENCY=SAR",
        "2SHOP=x",
        "SHOP_NAME\x00=x",
        "SHOP_NAME=a\rSHOP_ACCENT=b",
        "# a comment\rSHOP_NAME=x",
    ),
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_row_74_any_other_line_stops_the_start_with_its_number(env_file: Callable[..., Path], line: str) -> None:
    env_file(f"# a comment\n{line}\n")
    with pytest.raises(SettingError, match=rf"^\.env, line {len(GOOD) + 2}: ") as caught:
        load()
    assert "\n" not in caught.value.message


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")))
def test_row_74_whatever_stands_in_a_line_is_read_or_refused(line: str) -> None:
    try:
        name, value = config._read_env_line(".env, line 7", line)
    except SettingError:
        return
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    assert line.partition("=")[0].strip() == name
    assert value in line


def test_row_74_a_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DUKKAN_DOTENV", str(tmp_path / "misspelt"))
    with pytest.raises(SettingError, match="there is no file"):
        load()


def test_row_74_a_name_twice_is_refused_with_both_lines(env_file: Callable[..., Path]) -> None:
    env_file("SHOP_CURRENCY=SAR\nSHOP_CURRENCY=USD\n")
    first = len(GOOD) + 1
    with pytest.raises(SettingError, match=rf"^\.env, line {first + 1}: SHOP_CURRENCY is in line {first} already"):
        load()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "windows-1256"])
def test_row_74_another_encoding_is_refused(env_file: Callable[..., Path], encoding: str) -> None:
    env_file("SHOP_NAME=قهوة\n".encode(encoding), good=False)
    with pytest.raises(SettingError, match=r"^\.env, line 1: "):
        load()
    env_file("SHOP_NAME=قهوة\n".encode("utf-8-sig"), good=False)
    with pytest.raises(SettingError, match="AMWAL_PROJECT_URL is missing"):
        load()


def test_row_74_an_empty_variable_is_one_that_is_not_given(
    env_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file("SHOP_CURRENCY=SAR\n")
    monkeypatch.setenv("SHOP_CURRENCY", " ")
    assert load().shop_currency == "SAR"
    monkeypatch.setenv("SHOP_CURRENCY", "KWD")
    assert load().shop_currency == "KWD"


def test_row_75_the_file_of_another_program_is_never_read(tmp_path: Path) -> None:
    """Neither in the working directory nor above it: only the one beside `app.py`."""
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in GOOD.items()))
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        ran = subprocess.run(
            [sys.executable, "-m", "flask", "--app", str(config.ROOT / "app.py"), "doctor"],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("FLASK_")},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        # Flask's own tip to install python-dotenv, which would read the file, comes before our line.
        assert (ran.returncode, ran.stderr.splitlines()[-1][:36]) == (2, "Error: AMWAL_PROJECT_URL is missing.")


# --- The command line without settings -------------------------------------------------------------------------------

COMMANDS = ["sample-shop", "serve", "worker", "doctor", "audit", "export-orders", "import-products", "backup", "forget"]


def flask_cli(*arguments: str) -> Result:
    env = {"FLASK_RUN_FROM_CLI": None}  # Flask sets it, and the runner takes it away again
    return CliRunner().invoke(FlaskGroup(), ["--app", "app", *arguments], prog_name="flask", env=env)


def test_row_82_without_settings_help_lists_the_commands() -> None:
    said = flask_cli("--help")
    assert said.exit_code == 0
    assert "Traceback" not in said.output
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", said.output, re.MULTILINE), command


@pytest.mark.parametrize("command", COMMANDS)
def test_row_82_without_settings_a_command_shows_its_help_and_does_nothing_else(command: str) -> None:
    said = flask_cli(command, "--help")
    assert said.exit_code == 0
    assert said.output.startswith(f"Usage: flask {command}")
    arguments = ["x"] if command in ("import-products", "backup", "forget") else []
    ran = flask_cli(command, *arguments)
    assert ran.exit_code == 2
    assert re.fullmatch(r"Error: AMWAL_PROJECT_URL is missing\. .* make demo, .*\n", ran.output)


@pytest.mark.parametrize("command", [("run",), ("routes",), ("db", "upgrade")])
def test_row_82_flasks_own_commands_stop_with_the_same_line(command: tuple[str, ...]) -> None:
    ran = flask_cli(*command)
    assert ran.exit_code == 2
    assert re.fullmatch(r"Error: AMWAL_PROJECT_URL is missing\. .* make demo, .*\n", ran.output)


def test_row_82_outside_of_the_command_line_a_wrong_setting_stops_the_start() -> None:
    with pytest.raises(SettingError, match="AMWAL_PROJECT_URL is missing"):
        create_app()


# --- Variables of Kubernetes and Docker ------------------------------------------------------------------------------

INJECTED = {
    **{"SHOP_PORT": "tcp://10.96.0.7:8000", "SHOP_SERVICE_HOST": "10.96.0.7", "SHOP_SERVICE_PORT": "8000"},
    **{
        "SHOP_SERVICE_PORT_HTTP": "8000",
        "SHOP_PORT_8000_TCP": "tcp://10.96.0.7:8000",
        "SHOP_PORT_8000_TCP_PORT": "8000",
    },
    **{
        "SHOP_PORT_8000_TCP_PROTO": "tcp",
        "SHOP_PORT_8000_TCP_ADDR": "10.96.0.7",
        "SHOP_PORT_53_UDP": "udp://10.96.0.7:53",
    },
    **{"SHOP_WEB_SERVICE_HOST": "10.96.0.8", "SHOP_WEB_PORT": "tcp://10.96.0.8:80", "AMWAL_SERVICE_HOST": "10.96.0.9"},
    **{"AMWAL_SANDBOX_PORT_8001_TCP_ADDR": "10.96.0.9", "AMWAL_PORT": "sctp://10.96.0.9:1", "SHOP_NAME": "/web/shop"},
    **{"SHOP_ENV_PYTHON_VERSION": "3.11.7", "AMWAL_NAME": "/web-1/amwal"},
}


def test_row_76_variables_of_a_service_named_shop_or_amwal_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (INJECTED | GOOD).items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.shop_name == "Qahwa & Co."
    assert settings.public_url == "https://shop.example"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("SHOP_PORT", "8000"), ("SHOP_CURENCY", "SAR"), ("SHOP_SERVICE", "x"), ("AMWAL_KEY", "k")],
        *[("SHOP_SERVICE_HOSTS", "x"), ("SHOP_PORT_8000", "x"), ("SHOP_ENVIRONMENT", "x")],
    ],
)
def test_row_76_misspelt_settings_are_still_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    for one, text in GOOD.items():
        monkeypatch.setenv(one, text)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=f"^{name} is not a setting"):
        load()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_row_116_postgresql_needs_a_secret_key_that_all_machines_share(scheme: str) -> None:
    address = {"DATABASE_URL": f"{scheme}://user:password@db.example/shop"}
    for written in ("", "  "):
        with pytest.raises(SettingError, match=r"^SECRET_KEY is missing\. With PostgreSQL, several machines") as caught:
            load(GOOD | address | {"SECRET_KEY": written})
        assert "password" not in caught.value.message
    assert load(GOOD | address).secret_key == GOOD["SECRET_KEY"]


def test_row_116_a_demo_and_sqlite_make_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    keyless = GOOD | {"SECRET_KEY": ""}
    assert load(keyless).secret_key
    assert load(keyless | {"DEMO": "on", "DATABASE_URL": "postgresql://db.example/shop"}).secret_key


# --- The kept secret key (row 78), odd folders (row 79), no time zones (row 80), a newcomer (row 117) ----------------


def keyless() -> dict[str, str]:
    """Settings that leave the secret key to the shop."""
    return {name: value for name, value in GOOD.items() if name != "SECRET_KEY"}


@pytest.mark.parametrize("content", ["", " \n", "short", "x" * 31, "\x00" * 20])
def test_row_78_a_kept_key_that_is_no_key_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(config, "INSTANCE", tmp_path)
    (tmp_path / "secret_key").write_text(content)
    with pytest.raises(SettingError) as caught:
        load(keyless())
    assert str(tmp_path / "secret_key") in caught.value.message
    assert "\n" not in caught.value.message
    assert (tmp_path / "secret_key").read_text() == content, "it may be somebody's"


def test_row_78_it_is_made_without_hard_links_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    monkeypatch.setattr(os, "link", None)
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(number) or sync(number))
    key = load(keyless()).secret_key
    assert synced
    assert len(key) == 64
    assert load(keyless()).secret_key == key
    assert (tmp_path / "instance" / "secret_key").stat().st_mode & 0o077 == 0


def test_row_78_of_many_that_start_at_once_all_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    together = threading.Barrier(16)

    def start(_: int) -> str:
        together.wait()
        return load(keyless()).secret_key

    with ThreadPoolExecutor(16) as crowd:
        assert len(set(crowd.map(start, range(16)))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feature%2Fpay", "what?", "two words", "a#b", "it's", "قهوة", "100%", "a&b=c"])
def test_row_79_the_database_is_where_it_should_be_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for part in ("shop", "templates", "static", "translations", "migrations"):
        shutil.copytree(config.ROOT / part, folder / part)
    for part in ("app.py", "models.py", "amwal.py"):
        shutil.copy(config.ROOT / part, folder)
    command = [sys.executable, "-m", "flask", "--app", "app", "sample-shop"]
    environment = os.environ | keyless()
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    if "%" in name:
        assert ran.returncode == 2
        assert (
            ran.stderr
            == f"Error: {folder} has a % in its name, which migrations can't cope with. Rename that folder.\n"
        )
        return
    assert ran.returncode == 0, ran.stderr
    assert (folder / "instance" / "shop.db").stat().st_size > 50_000
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_row_80_a_machine_without_time_zones_has_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "from shop.config import time_zone; print(time_zone('Asia/Riyadh'))"
    environment = os.environ | {"PYTHONTZPATH": ""}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=config.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == "Asia/Riyadh\n", ran.stderr


@pytest.mark.parametrize("command", [["run"], ["shell"], ["routes"], ["db", "upgrade"], ["serve"], ["restore", "x"]])
def test_row_117_a_newcomer_without_settings_reads_what_is_missing_and_of_the_demo(command: list[str]) -> None:
    flask = [sys.executable, "-m", "flask", *command]
    ran = subprocess.run(flask, cwd=config.ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    lines = [line for line in ran.stderr.splitlines() if "AMWAL_PROJECT_URL is missing" in line]
    assert len(lines) == 1
    assert "try make demo" in lines[0]


def test_row_117_help_lists_our_commands() -> None:
    flask = [sys.executable, "-m", "flask", "--help"]
    ran = subprocess.run(flask, cwd=config.ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0
    for command in ("serve", "worker", "doctor", "audit", "sample-shop", "backup", "restore", "compare", "forget"):
        assert f"  {command}" in ran.stdout
