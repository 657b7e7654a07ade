"""The examples: each right one passes every case of the conformance run, and the naive one fails what it announces."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sandbox.conformance.command import NAIVE
from sandbox.conformance.judges import ALL
from tests import vectors
from tests.children import ROOT, Start, free_ports
from tests.conftest import find_program, missing

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
REPLIES = vectors.read("replies.json")["vectors"]
RIGHT = ("python", "django", "typescript", "php")
REPORTS = {"--junit": "junit.xml", "--html": "report.html", "--badge": "badge.svg"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the programs `node`, which runs TypeScript as it is from 22.18 on, and `tsc`."""
    folder = tmp_path_factory.mktemp("node")
    for file in (ROOT / "tests" / "data" / "node").iterdir():
        shutil.copy(file, folder)
    command = [find_program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=170, check=False)
    if ran.returncode:
        missing("Node.js 24", f"npm ci failed: {ran.stderr}")
    return folder / "node_modules" / ".bin"


@pytest.mark.slow(seconds=55)
def test_every_right_shop_passes_every_case(start: Start, tmp_path: Path, node: Path) -> None:
    for program in ("curl", "sqlite3"):
        find_program(program)
    find_program("php", "php-cli php-curl php-sqlite3")
    path, runs = f"{node}:{Path(sys.executable).parent}:{os.environ['PATH']}", {}
    for language in RIGHT:  # all at once, as they wait most of the time
        gateway, port = free_ports(2)
        folder = tmp_path / language
        folder.mkdir()
        environment = {
            **{"SANDBOX": f"{sys.executable} -m sandbox", "PATH": path, "PYTHONPATH": str(ROOT)},
            **{"PUBLIC_URL": f"http://127.0.0.1:{port}", "DATABASE": str(folder / "shop.db")},
        }
        files = [str(word) for option, file in REPORTS.items() for word in (option, folder / file)]
        script = str(EXAMPLES / language / "conformance.sh")
        options = ("--listen", str(gateway), "--folder", str(folder / "run"), *files)
        runs[language] = start(script, *options, log=folder / "run.log", env=environment)
    for language, run in runs.items():
        code, said = run.wait(170), (tmp_path / language / "run.log").read_text()
        print(f"{language}: {said}")
        assert code == 0, said
        assert f"{len(ALL)} passed, 0 answer only, 0 failed, 0 not run" in said
        check_reports(tmp_path / language)


def check_reports(folder: Path) -> None:
    """Look at what a run wrote in which everything passed."""
    junit = ElementTree.parse(folder / REPORTS["--junit"])
    assert [case.get("name") for case in junit.iter("testcase")] == list(ALL)
    badge = ElementTree.parse(folder / REPORTS["--badge"]).getroot().get("aria-label")
    assert re.fullmatch(rf"Amwal callbacks: {len(ALL)} of {len(ALL)} cases passed, self-issued [\d-]{{10}}", str(badge))
    page = (folder / REPORTS["--html"]).read_text()
    assert re.findall(r'<tr id="(.+?)">', page) == list(ALL)
    assert "nobody else has seen it" in page


@pytest.mark.slow(seconds=60)
def test_the_naive_shop_fails_every_case_that_it_announces_and_no_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sandbox", "conformance", "--self-test", "--folder", str(tmp_path / "run")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    announced = re.search(r"announce (\d+) failed cases; \1 failed", ran.stdout)
    assert announced
    assert int(announced[1]) > 30
    marks = re.findall(r"wrong: rule (\d+), .*\(([a-z0-9, -]+)\)$", NAIVE.read_text(), re.MULTILINE)
    assert {int(rule) for rule, _ in marks} == set(range(1, 11))
    for rule, names in marks:
        assert {ALL[name].rule for name in names.split(", ")} == {int(rule)}


def test_the_typescript_is_right_by_its_types(node: Path) -> None:
    folder = EXAMPLES / "typescript"
    command = [str(node / "tsc"), "--project", str(folder), "--typeRoots", str(node.parent / "@types")]
    ran = subprocess.run(command, cwd=node.parent, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.fixture
def replies() -> Iterator[str]:
    """A server that answers at /0, /1, … with the replies of the vectors."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = vectors.body(REPLIES[int(self.path[1:])])
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # a client that has read enough
                self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("language", ["ts", "php"])
def test_the_other_clients_show_what_the_vectors_allow(language: str, replies: str, node: Path) -> None:
    program = str(node / "node") if language == "ts" else find_program("php", "php-cli php-curl")
    command = [program, str(ROOT / "tests" / "data" / "clients" / f"read.{language}"), replies, str(len(REPLIES))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    wrong = []
    for vector, shown in zip(REPLIES, json.loads(ran.stdout), strict=True):
        expected = vector["shown"] and [vector["shown"]["invoiceId"], vector["shown"]["url"], vector.get("qr", False)]
        if (shown and shown[:2]) != (expected and expected[:2]) and "shown" not in vector.get("also", []):
            wrong.append((vector["name"], shown))
        is_png = b"iVBORw0KGgo" in vectors.body(vector)  # by its first bytes; these clients look no further
        if shown and expected and shown[2] and not (expected[2] or is_png or "qr" in vector.get("also", [])):
            wrong.append((vector["name"], "the picture"))
    assert wrong == []
