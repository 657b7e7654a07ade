"""A small campaign, as `make faults` runs large ones: nothing is lost, and the campaign is worth its name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.postgres import programs

ROOT = Path(__file__).parents[2]


@pytest.mark.slow(seconds=80)
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_nothing_is_lost_whoever_is_killed(database: str, tmp_path: Path) -> None:
    if database == "postgresql" and programs() is None:
        missing("PostgreSQL server", "apt-get install postgresql, or your system's package of it")
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.faults.campaign", "--checkouts", "40", "--database", database]
    ran = subprocess.run([*command, "--json", str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads(file.read_text())
    assert figures["killed"] > 20
    assert figures["acknowledged"] > 20
    assert figures["receipts"] > 20
