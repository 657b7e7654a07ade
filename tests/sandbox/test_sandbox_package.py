"""The sandbox as a package of its own: built as a wheel, it runs in an empty environment."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.children import Start, free_port
from tests.conftest import missing

SANDBOX = Path(__file__).parents[2] / "sandbox"


@pytest.mark.slow
def test_from_nothing_to_a_first_callback_without_a_clone(tmp_path: Path, start: Start, shop: Any) -> None:
    started = time.monotonic()
    source = shutil.copytree(SANDBOX, tmp_path / "sandbox", ignore=shutil.ignore_patterns("__pycache__", "build"))
    commands = [
        [sys.executable, "-m", "venv", str(tmp_path / "empty")],
        [str(tmp_path / "empty" / "bin" / "pip"), "install", "-q", str(source)],
    ]
    for command in commands:
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False)
        if ran.returncode:
            missing("the package index", f"{' '.join(command[1:])} failed: {ran.stderr[-500:]}")
    shutil.rmtree(source)  # the package has all that it needs
    program, port = tmp_path / "empty" / "bin" / "amwal-sandbox", free_port()
    here = f"http://127.0.0.1:{port}"
    data = ["--database", str(tmp_path / "sandbox.db"), "--mails", str(tmp_path / "mails")]
    options = ["--port", str(port), "--callback-url", shop.callback_url, "--api-key", "key"]
    serving = start(str(program), "serve", *options, *data)
    assert serving.stdout
    said = "".join(serving.stdout.readline() for _ in range(6))
    project = said.partition("Project URL")[2].split()[0]
    order = {"amount": 0.3, "header": "Order 1"}
    answer = requests.put(project, json=order, headers={"Authorization": "Bearer key"}, timeout=10).json()
    pay = [str(program), "pay", "last", "--json", "--sandbox", here]
    paid = subprocess.run(pay, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert paid.returncode == 0, paid.stderr
    assert json.loads(paid.stdout)["invoice"] == answer["data"]["invoiceId"]
    assert [one["secret"] for one in shop.heard] == [answer["data"]["secret"]]
    print(f"from nothing to a first callback: {time.monotonic() - started:.0f} s")
    assert requests.get(f"{here}/", timeout=10).ok  # templates and styles are in it
    assert requests.get(f"{here}/static/base.css", timeout=10).ok
