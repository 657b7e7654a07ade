"""Settings: what is missing, malformed or misspelt stops the start with one line that names it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shop import config
from shop.config import SETTINGS, SettingError, load

GOOD = {
    "AMWAL_PROJECT_URL": "https://amwal.exchange/projects/1",
    "AMWAL_API_KEY": "key",
    "PUBLIC_URL": "https://shop.example",
    "SECRET_KEY": "x" * 32,
}


def test_three_settings_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    values = load({name: GOOD[name] for name in ("AMWAL_PROJECT_URL", "AMWAL_API_KEY", "PUBLIC_URL")})
    assert values["SHOP_CURRENCY"] == "USD"
    assert values["SHOP_LOCALES"] == ("en", "ar")
    assert values["AMWAL_PAYMENT_ORIGINS"] == {"https://amwal.exchange"}


@pytest.mark.parametrize("written", ["https://Shop.Example", "https://shop.example:443/", " https://shop.example "])
def test_an_address_is_kept_as_browsers_write_it(written: str) -> None:
    assert load(GOOD | {"PUBLIC_URL": written})["PUBLIC_URL"] == "https://shop.example"


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
    first, second = load(without)["SECRET_KEY"], load(without)["SECRET_KEY"]
    assert first == second
    assert len(first) >= 48
    assert (tmp_path / "instance" / "secret_key").stat().st_mode & 0o077 == 0


def test_every_setting_is_explained_in_the_example_file() -> None:
    example = (config.ROOT / ".env.example").read_text()
    for setting in SETTINGS:
        assert f"{setting.name}=" in example, f"{setting.name} is not in .env.example"


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
    assert values["DATABASE_URL"] == "postgresql+psycopg://u:p%40ss@h:5433/shop?sslmode=require"


def test_without_its_driver_postgresql_stops_the_start_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not there
    with pytest.raises(SettingError, match=r"DATABASE_URL .* pip install .*-r requirements-postgres\.txt") as caught:
        load(GOOD | {"DATABASE_URL": "postgresql://h/shop"})
    assert "\n" not in caught.value.message
    assert (config.ROOT / "requirements-postgres.txt").exists()


@pytest.mark.parametrize("value", ["smtp.example.com:587", "SMTPS//u@h", "smtp://h:notaport", "smtp://", "http://h"])
def test_a_mail_address_is_no_folder(value: str) -> None:
    with pytest.raises(SettingError, match="MAIL_URL"):
        load(GOOD | {"MAIL_URL": value})


@pytest.mark.parametrize("value", ["smtp://u:p@h:587", "smtps://h", "/var/mail", "mail", "C:/mail"])
def test_folders_and_servers_are_mail_addresses(value: str) -> None:
    assert load(GOOD | {"MAIL_URL": value})["MAIL_URL"] == value
