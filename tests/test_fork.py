"""A fork runs these tests beside its own shop, which they neither read nor touch."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from tests.children import ROOT, is_setting
from tests.conftest import find_program, settings_for

POISON = {
    "AMWAL_PROJECT_URL": "https://gateway.example/projects/live",
    "AMWAL_API_KEY": "the-forks-own-key",
    "PUBLIC_URL": "https://shop.example",
    "SECRET_KEY": "the-forks-own-secret-key-of-many-letters",
    "SHOP_CURRENCY": "KWD",
    "SHOP_LOCALES": "ar",
    "MERCHANT_EMAIL": "merchant@shop.example",
    "FLASK_DEBUG": "1",
    "SANDBOX_API_KEY": "the-forks-own-sandbox-key",
}
STARTING = (
    *("tests/test_config.py", "tests/test_doctor.py", "tests/test_logs.py", "tests/test_fork.py"),
    *("tests/test_repository.py", "tests/test_stage.py", "tests/sandbox/test_sandbox_serve.py"),
    "tests/sandbox/test_sandbox_examples.py",
)
"""Tests that start programs, or read settings."""


def test_row_91_no_setting_reaches_a_test_or_its_children() -> None:
    assert {name for name in os.environ if is_setting(name)} == {"DUKKAN_DOTENV", "FLASK_SKIP_DOTENV"}
    assert os.environ["DUKKAN_DOTENV"] == os.devnull


def test_row_91_programs_are_started_where_they_are_ended() -> None:
    starting = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("*.py")
        if "Popen(" in file.read_text(encoding="utf-8") and file != Path(__file__)
    }
    assert starting == {"tests/children.py", "tests/postgres.py"}


# --- A fork ----------------------------------------------------------------------------------------------------------

LANGUAGE = "eo"
"""Esperanto: whoever has made a fork of their own has hardly this one, nor the field below."""
PRODUCTS: dict[str, Any] = {
    "categories": [{"slug": "lamps", "name": {"en": "Lamps", LANGUAGE: "Lampoj"}}],
    "delivery": [
        {"slug": "courier", "name": {"en": "Courier"}, "description": {"en": "Tomorrow"}, "price": 7, "free_from": None}
    ],
    "products": [
        {
            "slug": f"lamp-{number}",
            "category": "lamps",
            "price": 3333 + number,
            "stock": number,
            "image": "img/favicon.svg",
            "name": {"en": f"Lamp {number}"},
            "subtitle": {"en": "Brass"},
            "description": {"en": "Shines."},
        }
        for number in range(1, 11)
    ],
}
FIELD = {
    "models.py": (
        '    network: Mapped[str] = mapped_column(String(64), default="", server_default="")',
        '    guild: Mapped[str] = mapped_column(String(120), default="", server_default="")',
    ),
    "shop/views/forms.py": (
        "    checkout_key = HiddenField()",
        '    guild = line(_("Guild"), 120, "organization", missing=_("Enter your guild."))',
    ),
    "templates/checkout/form.html": ("        {{ field(form.name) }}", "        {{ field(form.guild) }}"),
    "shop/privacy.py": ('    *("name", "name_key",', '    "guild",'),
}
"""A line of each file, and what a fork that asks for a guild adds before it."""


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with products, a language, a required field, a migration and settings of its own."""
    made = tmp_path_factory.mktemp("fork") / "shop"
    unneeded = shutil.ignore_patterns(".git", ".venv", "instance", "node_modules", "__pycache__", ".*_cache", ".env")
    shutil.copytree(ROOT, made, ignore=unneeded)
    (made / ".venv").symlink_to(sys.prefix)
    subprocess.run([find_program("git"), "init", "-q"], cwd=made, check=True)
    shutil.rmtree(made / "static" / "img" / "products")
    (made / "shop" / "ops" / "sample_shop.json").write_text(json.dumps(PRODUCTS))
    for name, (line, new) in FIELD.items():
        text = (made / name).read_text()
        assert text.count(line) == 1, f"{name} has changed: choose another place there"
        (made / name).write_text(text.replace(line, f"{new}\n{line}"))
    forms = made / "shop" / "views" / "forms.py"
    forms.write_text(forms.read_text().replace('names = ("name", ', 'names = ("guild", "name", '))
    half_translate(made)
    settings = settings_for(made, "http://127.0.0.1:9/projects/none")
    for command in (["upgrade"], ["migrate", "-m", "guild"]):
        run(made, "-m", "flask", "--app", "app", "db", *command, env=settings)
    (made / "shop.db").unlink()
    return made


def half_translate(made: Path) -> None:
    """Begin a translation: every other text."""
    run(made, "-m", "babel.messages.frontend", *EXTRACT)
    with (made / "translations" / "messages.pot").open("rb") as file:
        catalogue = read_po(file, locale=LANGUAGE)
    for message in list(catalogue)[1::2]:
        message.string = message.id
    folder = made / "translations" / LANGUAGE / "LC_MESSAGES"
    folder.mkdir(parents=True)
    with (folder / "messages.po").open("wb") as file:
        write_po(file, catalogue)
    with (folder / "messages.mo").open("wb") as file:
        write_mo(file, catalogue)


EXTRACT = ("-q", "extract", "-F", "translations/babel.cfg", "-o", "translations/messages.pot", ".")


def run(folder: Path, *command: str, fails: bool = False, env: Mapping[str, str] = {}) -> str:
    """Run Python in a fork; gives what it says."""
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | dict(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (ran.returncode != 0) == fails, ran.stdout[-6000:] + ran.stderr[-3000:]
    return ran.stdout


TESTS = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not postgres")
OF_A_FORK = (
    *("tests/test_catalogue.py", "tests/test_checkout.py", "tests/test_db.py", "tests/test_privacy.py"),
    *("tests/test_spreadsheets.py", "tests/test_story.py", "tests/faults/test_stateful.py", "tests/test_layers.py"),
)
"""Tests that read products, fields, migrations or languages."""


@pytest.mark.slow(seconds=60)
def test_row_92_a_forks_own_products_field_language_and_migration_break_nothing(fork: Path) -> None:
    said = run(fork, *TESTS, *OF_A_FORK)
    assert int(re.findall(r"(\d+) passed", said)[0]) > 200


@pytest.mark.slow
def test_row_92_all_that_is_not_translated_is_named_at_once(fork: Path) -> None:
    said = run(fork, *TESTS, "tests/test_translations.py", fails=True)
    assert re.findall(r"(\d+) failed", said) == ["2"]
    assert set(re.findall(r"not in the file: '([^'\\]+)'", said)) == {"Guild", "Enter your guild."}
    assert "2 in translations/ar/LC_MESSAGES/messages.po. Run `make catalogues`" in said
    half = re.search(rf"(\d+) in translations/{LANGUAGE}/LC_MESSAGES/messages.po. Run `make catalogues`", said)
    assert half
    assert said.count("not translated: ") >= int(half[1]) > 100


@pytest.mark.slow(seconds=50)
def test_row_91_a_forks_live_shop_is_left_alone(fork: Path, tmp_path: Path) -> None:
    """Its address stands in `.env` and in the environment."""
    shutil.rmtree(fork / "instance", ignore_errors=True)
    live = tmp_path / "live.db"
    live.write_bytes(b"orders of real people")
    poison = POISON | {"DATABASE_URL": f"sqlite:///{live}", "MAIL_URL": str(tmp_path / "mail")}
    (fork / ".env").write_text("".join(f"{name}={value}\n" for name, value in poison.items()))
    inherited = {"DUKKAN_DOTENV": "", "FLASK_SKIP_DOTENV": ""} | poison
    said = run(fork, *TESTS, *STARTING, env=inherited)
    assert re.search(r"\d\d+ passed", said)
    assert live.read_bytes() == b"orders of real people"
    assert [file.name for file in tmp_path.iterdir()] == ["live.db"]
    assert not (fork / "instance").exists()
    assert not running_in(fork)


def running_in(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder, where the system shows them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or is not ours to look at
            continue
    return found
