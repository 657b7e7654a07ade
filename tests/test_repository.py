"""Row 63: what can be seen of dependencies, of secrets in the repository and of debug switches without a network."""

import re
import subprocess
from pathlib import Path

import pytest
from flask import Flask

from tests.children import free_port
from tests.conftest import Serve

ROOT = Path(__file__).parent.parent
SECRETS = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}|\bxox[abprs]-\w|\bsk_(?:live|test)_\w|\bglpat-\w",
    # What is called a key and has letters and digits, 20 or more.
    r"(?i)(?:key|secret|password|token)\w*[\"']?\s*[:=]\s*[\"']?((?=[\w+/-]*\d)(?=[\w+/-]*[a-z])[\w+/-]{20,})",
)
KNOWN = re.compile("canary|0927f7cc-98a7-4b67-a8b5-254fe46227dd")  # the latter is the gateway documentation's example


def secrets_in(text: str) -> list[str]:
    """What looks like a secret."""
    return [found[0] for pattern in SECRETS for found in re.finditer(pattern, text) if not KNOWN.search(found[0])]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """What is in the repository, or would be with the next commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_row_63_no_secret_is_in_the_repository(files: list[Path]) -> None:
    found = {}
    for file in files:
        text = file.read_bytes().decode("utf-8", "ignore")
        if not file.name.startswith("requirements") and secrets_in(text):  # those are full of hashes
            found[file.name] = secrets_in(text)
    assert found == {}
    names = {file.name for file in files}
    assert not [name for name in names if re.search(r"^\.env$|\.(?:db|sqlite3?|pem|key|p12|eml|log)$|secret_key", name)]


# In two pieces each, or this file would be found.
EXAMPLES = [
    ("API_KEY", "=4f1c0d9e8b7a6f5e4d3c"),
    ("password: ", "Tr0ub4dor-and-3-words"),
    ("-----", "BEGIN PRIVATE KEY"),
]


@pytest.mark.parametrize("pieces", EXAMPLES)
def test_row_63_a_secret_would_be_found(pieces: tuple[str, str]) -> None:
    assert secrets_in("line\n" + "".join(pieces) + "\nline")


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-server.txt", "requirements-dev.txt"])
def test_row_63_every_dependency_is_pinned_to_its_files(name: str) -> None:
    """So that only what was chosen is installed, from wherever it comes."""
    pinned = re.split(r"\n(?=\S)", (ROOT / name).read_text())
    packages = [entry for entry in pinned if not entry.startswith("#")]
    assert len(packages) > 10
    for entry in packages:
        assert re.match(r"[a-z0-9.-]+(\[[a-z,-]+\])?==\S+", entry), entry[:60]
        assert "--hash=sha256:" in entry, entry[:60]


def test_row_63_debug_is_off_and_serve_does_not_start_with_it(serve: Serve, app: Flask) -> None:
    assert not app.debug
    shop = serve(free_port(), "--no-worker", FLASK_DEBUG="1")
    output, _ = shop.communicate(timeout=20)
    assert shop.returncode == 1
    assert "Debug mode is on" in output
    assert "Traceback" not in output
    for file in (ROOT / "Makefile", *(ROOT / "stage").glob("*.py"), *(ROOT / "shop").rglob("*.py"), ROOT / "app.py"):
        assert not re.search(r"debug\s*=\s*True|FLASK_DEBUG=|\.run\(debug|DebuggedApplication", file.read_text()), file


def test_every_test_that_the_security_document_names_exists() -> None:
    tests = {file.name: file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 100
    for file, name in named:
        assert f"\ndef {name}" in tests.get(file, ""), f"{file}::{name}"
