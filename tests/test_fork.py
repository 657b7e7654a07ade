"""A fork runs these tests beside its own shop, which they neither read nor touch."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import ROOT, is_setting

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
    *("tests/test_config.py", "tests/test_doctor.py", "tests/test_logs.py", "tests/test_serve.py"),
    *("tests/test_fork.py", "tests/test_repository.py", "tests/test_stage.py", "tests/sandbox/test_sandbox_serve.py"),
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


@pytest.mark.slow
def test_row_91_a_forks_live_shop_is_left_alone(tmp_path: Path) -> None:
    """Its address stands in `.env` and in the environment."""
    fork = tmp_path / "fork"
    unneeded = shutil.ignore_patterns(".git", ".venv", "instance", "node_modules", "__pycache__", ".*_cache", ".env")
    shutil.copytree(ROOT, fork, ignore=unneeded)
    (fork / ".venv").symlink_to(sys.prefix)
    live = tmp_path / "live.db"
    live.write_bytes(b"orders of real people")
    poison = POISON | {"DATABASE_URL": f"sqlite:///{live}", "MAIL_URL": str(tmp_path / "mail")}
    (fork / ".env").write_text("".join(f"{name}={value}\n" for name, value in poison.items()))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not postgres"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DUKKAN_", "FLASK_"))}
    ran = subprocess.run(
        [*command, *STARTING],
        cwd=fork,
        env=inherited | poison,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert re.search(r"\d\d+ passed", ran.stdout)
    assert live.read_bytes() == b"orders of real people"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fork", "live.db"]
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
