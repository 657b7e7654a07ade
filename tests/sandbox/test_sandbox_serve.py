"""The command `python -m sandbox serve`."""

import re
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from click.testing import CliRunner

from sandbox.__main__ import cli
from tests.children import Child, Start

Serve = Callable[..., Child]


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Serve:
    """Return a function that starts a sandbox with its database in the test's folder."""
    return partial(start, "-m", "sandbox", "serve", "--database", str(tmp_path / "sandbox.sqlite3"))


def said(process: Child, name: str) -> str:
    """Return the value that the process prints after `name`."""
    assert process.stdout
    for line in process.stdout:
        if line.strip().startswith(name):
            return line.strip().removeprefix(name).strip()
    raise AssertionError(f"{name} was not printed")


def test_from_invoice_to_callback_and_a_clean_stop(serve: Serve, shop: Any, eventually: Callable[..., None]) -> None:
    process = serve("--port", "0", "--callback-url", shop.callback_url, env={"SANDBOX_API_KEY": "key-from-environment"})
    project_url = said(process, "Project URL")
    assert said(process, "API key") == "key-from-environment"
    assert said(process, "Callback URL") == shop.callback_url
    headers = {"Authorization": "Bearer key-from-environment"}
    data = requests.put(project_url, json={"amount": 5, "header": "Order"}, headers=headers, timeout=5).json()["data"]
    paid = requests.post(f"{data['url']}/payment", timeout=5)
    assert "Paid" in paid.text
    eventually(lambda: shop.heard)
    assert shop.heard[0]["secret"] == data["secret"]
    tunnelled = requests.put(project_url, json={}, headers={**headers, "X-Forwarded-For": "203.0.113.9"}, timeout=5)
    assert tunnelled.status_code == 403
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_a_request_in_progress_is_answered_at_the_stop(serve: Serve) -> None:
    process = serve("--port", "0")
    project_url = urlsplit(said(process, "Project URL"))
    body = b'{"amount": 5, "header": "Order"}'
    head = f"PUT {project_url.path} HTTP/1.1\r\nHost: {project_url.netloc}\r\nContent-Length: {len(body)}\r\n"
    head += f"Authorization: Bearer {said(process, 'API key')}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", project_url.port or 0), timeout=5) as connection:
        connection.sendall(head.encode() + body[:5])
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        connection.sendall(body[5:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert process.wait(10) == 0


def test_the_project_and_its_settings_survive_a_restart(serve: Serve) -> None:
    lines = []
    for options in (("--callback-url", "http://127.0.0.1:9/callback", "--api-key", "kept"), ()):
        process = serve("--port", "0", "--public-url", "http://127.0.0.1:8001/", *options)
        project = re.sub(r":\d+", "", said(process, "Project URL"))
        lines.append((project, said(process, "API key"), said(process, "Callback URL")))
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert lines[0] == lines[1]
    assert lines[0][1:] == ("kept", "http://127.0.0.1:9/callback")


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["serve", "--port", port])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert port in result.stderr


def test_a_file_that_is_no_database_is_reported_in_one_line(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("This is a letter, not a database. " * 100)
    result = CliRunner().invoke(cli, ["serve", "--port", "0", "--database", str(letter)])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "letter.txt" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--callback-url", "ftp://x"),
        ("--callback-url", "http://"),
        ("--public-url", "http://[x"),
        ("--api-key", ""),
        ("--api-key", "two words"),
        ("--speed", "0"),
        ("--port", "x"),
    ],
)
def test_an_invalid_option_is_reported(options: tuple[str, str]) -> None:
    result = CliRunner().invoke(cli, ["serve", *options])
    assert result.exit_code == 2
    assert options[0] in result.stderr
