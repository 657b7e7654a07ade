"""docs/any-language.md: its examples work, its rules name every conformance case."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from waitress.server import create_server

from sandbox.conformance.judges import ALL
from sandbox.conformance.report import RULES
from sandbox.store import Store
from tests.conftest import find_program, missing

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "any-language.md").read_text()


def examples(language: str, words: str) -> list[str]:
    """Return the examples in a language that contain `words`."""
    found = [block for block in re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL) if words in block]
    assert found, f"no example with {words}"
    return found


@pytest.fixture
def served(app: Flask, store: Store) -> Iterator[dict[str, str]]:
    """Serve the sandbox over HTTP; yield the environment variables of the examples."""
    server = create_server(app, host="127.0.0.1", port=0, threads=4)
    threading.Thread(target=server.run, daemon=True).start()
    here = f"http://127.0.0.1:{server.effective_port}"
    project = store.project()
    yield {
        "PROJECT_URL": f"{here}/projects/{project.id}",
        "API_KEY": project.api_key,
        "CALLBACK_URL": project.callback_url,
        "SANDBOX_URL": here,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    server.close()


def run(command: str, variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run an example in a shell, like a reader."""
    shell = shutil.which("bash") or "/bin/sh"
    if "curl" in command:
        find_program("curl")
    return subprocess.run(
        [shell, "-e", "-c", command],
        env=os.environ | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_call_that_you_make(served: dict[str, str], store: Store) -> None:
    [command] = examples("sh", "--request PUT")
    ran = run(command, served)
    reply = json.loads(ran.stdout)
    assert reply["err"] == 0
    invoice = store.invoice(reply["data"]["invoiceId"])
    assert invoice
    assert str(invoice.amount) == "12.50"
    assert invoice.header == "Order A-1042"


def test_the_call_that_you_get(served: dict[str, str], shop: Any) -> None:
    [command] = examples("sh", "--request POST")
    assert run(command, served).returncode == 0
    [heard] = shop.heard
    assert set(heard) == {"invoiceId", "paymentSessionId", "secret"}


def test_making_trouble(served: dict[str, str], store: Store, shop: Any) -> None:
    headers = {"Authorization": f"Bearer {served['API_KEY']}"}
    requests.put(served["PROJECT_URL"], json={"amount": 5, "header": "Order"}, headers=headers, timeout=5)
    shop.answers = [200, 404]
    [commands] = examples("sh", "sandbox trigger")
    ran = run(commands, served)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "the callback: 200" in ran.stdout
    assert "a guessed secret: 404" in ran.stdout
    assert store.planned_troubles() == ["slow"]


@pytest.mark.parametrize("words", ["sandbox serve", "sandbox conformance"])
def test_the_commands_take_these_options(words: str) -> None:
    [command] = examples("sh", words)
    ran = run(f"{command.strip()} --help", {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert ran.returncode == 0
    for option in re.findall(r"--[a-z-]+", command):
        assert option in ran.stdout


def test_every_rule_names_its_cases_and_every_case_its_rule() -> None:
    text = TEXT.partition("## Ten rules")[2].partition("## Make trouble")[0]
    rules = re.findall(r'^(\d+)\. <a id="rule-\1"></a>\*\*(.+?)\*\*(.+?)(?=^\d|\Z)', text, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, _, _ in rules] == list(range(1, 11))
    for number, headline, more in rules:
        assert " ".join(headline.split()).rstrip(".") == RULES[int(number) - 1]
        cases = re.findall(r"`([^`]+)`", more.rpartition("(")[2])
        assert sorted(cases) == sorted(name for name, case in ALL.items() if case.rule == int(number))


@pytest.fixture(scope="session")
def axios(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with axios, the HTTP client in the gateway's documentation."""
    folder = tmp_path_factory.mktemp("axios")
    for file in Path(__file__).with_name("axios").iterdir():
        shutil.copy(file, folder)
    ran = subprocess.run(
        [find_program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        timeout=120,
        check=False,
    )
    if ran.returncode:
        missing("axios", f"npm ci failed: {ran.stderr.decode()}")
    return folder


def test_a_javascript_client_of_the_documented_shape_gets_an_invoice(
    served: dict[str, str], store: Store, axios: Path
) -> None:
    ran = subprocess.run(
        [find_program("node", "nodejs"), "client.mjs"],
        cwd=axios,
        env=os.environ | served,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    invoice_id, url = ran.stdout.split()
    invoice = store.invoice(invoice_id)
    assert invoice
    assert str(invoice.amount) == "12.5"
    assert url == f"http://192.168.7.7:8001/en/invoice/{invoice_id}"
