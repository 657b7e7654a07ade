"""The stage: ports, addresses, and starting, watching and stopping programs."""

import os
import pty
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests
from alembic.script import ScriptDirectory

from sandbox.conformance.shops import Dukkan, Page
from stage import demo, network
from stage.demo import Demo
from stage.folder import StageError
from tests.children import ROOT, Child, Start, end, free_port, start_demo
from tests.conftest import decode
from tests.pages import field


@pytest.fixture
def said() -> list[str]:
    return []


# Below the ports that the system gives to whoever asks for any, so that nobody takes them meanwhile.
PORT = network.free_port("127.0.0.1", 20_000 + os.getpid() % 10_000)
ANOTHER = network.free_port("127.0.0.1", PORT + 10)


def new_demo(folder: Path, said: list[str], port: int = PORT) -> Demo:
    """Create a demo that serves only this machine."""
    return Demo(folder, port, local=True, say=said.append)


def test_a_port_in_use_is_reported_and_the_next_one_used(tmp_path: Path, said: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made = new_demo(tmp_path, said, port)
    assert port < made.shop_port < made.sandbox_port
    assert said[0] == f"Port {port} is in use; using {made.shop_port} instead."


def test_the_lan_address_is_one_of_this_machine() -> None:
    assert network.can_listen(network.lan_address(), 0)


def test_without_a_network_it_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_self: socket.socket, _address: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert network.lan_address() == "127.0.0.1"


def test_a_database_of_an_unknown_revision_is_kept_aside(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "demo"
    new_demo(folder, said)._folder.open(fresh=False)
    (folder / "mail").mkdir()
    (folder / "mail" / "receipt.eml").touch()
    for revision, kept in ((ScriptDirectory(str(ROOT / "migrations")).get_current_head(), True), ("0002", False)):
        with closing(sqlite3.connect(folder / "shop.db")) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
            database.execute("DELETE FROM alembic_version")
            database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        new_demo(folder, said)._folder.open(fresh=False)
        assert (folder / "shop.db").exists() == kept
    [message] = said
    [aside] = tmp_path.glob("demo-*")
    assert "another version of the shop" in message
    assert str(aside) in message
    assert {path.name for path in aside.rglob("*") if path.is_file()} == {"shop.db", "receipt.eml"}


def test_a_changed_address_is_reported_once(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = new_demo(tmp_path, said)
    made.local = False
    addresses = iter(["127.0.0.1", "192.168.9.9", "192.168.9.9"])
    stop = threading.Event()

    def address() -> str:
        new = next(addresses, None)
        if new is None:
            stop.set()
        return new or "192.168.9.9"

    monkeypatch.setattr(demo, "lan_address", address)
    monkeypatch.setattr(demo, "WATCH_SECONDS", 0.001)
    made.watch(stop)
    assert len(said) == 1
    assert "192.168.9.9" in said[0]


def test_a_program_that_exits_ends_the_demo_with_the_end_of_its_log(tmp_path: Path, said: list[str]) -> None:
    made = new_demo(tmp_path, said)
    made._folder.open(fresh=False)
    made._run("worker", [sys.executable, "-c", "print('out of beans')"], {})
    made.programs["worker"].wait()
    with pytest.raises(StageError, match=r"the worker exited unexpectedly\. out of beans"):
        made.watch(threading.Event())


def test_stopping_lets_programs_finish_and_leaves_none(tmp_path: Path, said: list[str]) -> None:
    made = new_demo(tmp_path, said)
    made._folder.open(fresh=False)
    script = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("up", flush=True)
time.sleep(60)
"""
    made._run("shop", [sys.executable, "-c", script], {})
    while "up" not in (tmp_path / "shop.log").read_text():
        assert made.programs["shop"].poll() is None
    made.end()
    assert made.programs["shop"].returncode == 7


def test_settings_of_the_users_own_shop_are_not_passed_on(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_NAME", "Mine")
    monkeypatch.setenv("AMWAL_API_KEY", "the-real-one")
    settings = new_demo(tmp_path, said)._shop_settings("http://127.0.0.1:9/projects/1", "demo-key")
    assert "SHOP_NAME" not in settings
    assert settings["AMWAL_API_KEY"] == "demo-key"


@pytest.mark.parametrize("program", ["stage", "sandbox"])
def test_the_program_has_help(program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=False, timeout=30
    )
    assert result.returncode == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize("name", ["shop.db", "sandbox.db", "shop.log", "worker.log", "mail/from-a-friend.eml"])
@pytest.mark.parametrize("address", [None, b"12 Olive Street, Amman", b" \n", b"\xff", b"http://a:b@c:1 http://d:2"])
def test_a_folder_with_files_of_somebody_else_is_refused(
    tmp_path: Path, said: list[str], name: str, address: bytes | None
) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / name).write_text("precious")
    if address is not None:
        (tmp_path / "address").write_bytes(address)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for fresh in (False, True):
        with pytest.raises(StageError, match="holds files that no demo wrote"):
            new_demo(tmp_path, said)._folder.open(fresh=fresh)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("folder", ["a?b", "per%20cent", "a-file/below", "loop"])
def test_a_folder_that_cannot_be_used_is_said_in_one_line(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "loop").symlink_to("loop")
    ran = subprocess.run(
        [sys.executable, "-m", "stage", "--local", "--folder", tmp_path / folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in (1, 2)
    assert "Error: " in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "a").exists()


def test_demos_set_aside_in_the_same_second_are_all_kept(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage.demo.time.strftime", lambda _format: "same-second")
    folder = tmp_path / "demo"
    for content in ("first", "second", "third"):
        new_demo(folder, said)._folder.open(fresh=True)
        (folder / "shop.db").write_text(content)
    new_demo(folder, said)._folder.open(fresh=True)
    assert {path.read_text() for path in tmp_path.glob("demo-*/shop.db")} == {"first", "second", "third"}


def test_a_fresh_start_keeps_unrelated_files(tmp_path: Path, said: list[str]) -> None:
    new_demo(tmp_path, said)._folder.open(fresh=False)
    for name in ("thesis.txt", "own.log", "shop.db.bak"):
        (tmp_path / name).touch()
    (tmp_path / "shop.db").touch()
    new_demo(tmp_path, said)._folder.open(fresh=True)
    assert all((tmp_path / name).exists() for name in ("thesis.txt", "own.log", "shop.db.bak"))
    assert not (tmp_path / "shop.db").exists()


@pytest.mark.slow
def test_row_90_after_a_change_of_address_unpaid_orders_lead_to_the_new_one(tmp_path: Path, start: Start) -> None:
    folder, port = tmp_path / "demo", free_port()
    stage, address, sandbox = start_demo(start, folder, port)
    shop = Dukkan(address)
    unpaid, paid = shop.place(), shop.place()
    pay(paid.text)
    until_paid(shop, paid)
    password = sign_in(address, tmp_path / "demo-stage.log")
    assert (folder / "dashboard-password").stat().st_mode & 0o077 == 0
    end(stage)
    with closing(sqlite3.connect(folder / "shop.db")) as database:
        before = database.execute("SELECT url, qr FROM invoice ORDER BY id").fetchall()

    with socket.create_server(("127.0.0.1", port)):  # so that the next demo takes other ports
        stage, new_address, new_sandbox = start_demo(start, folder, port)
    assert new_address != address
    assert sign_in(new_address, tmp_path / "demo-stage.log") == password, "it stays the same in this folder"
    assert "Unpaid orders (1) now lead to the new one" in (tmp_path / "demo-stage.log").read_text()
    with closing(sqlite3.connect(folder / "shop.db")) as database:
        after = database.execute("SELECT url, qr FROM invoice ORDER BY id").fetchall()
    assert after[0][0] == before[0][0].replace(sandbox, new_sandbox)
    (tmp_path / "qr.png").write_bytes(after[0][1])
    assert decode(tmp_path / "qr.png") == after[0][0]
    assert after[1] == before[1]
    with closing(sqlite3.connect(folder / "sandbox.db")) as database:
        links = database.execute("SELECT success_url, cancel_url FROM invoices ORDER BY number").fetchall()
    assert all(link.startswith(f"{new_address}/orders/") for link in links[0])
    moved = Dukkan(new_address)
    moved._browser.cookies = shop._browser.cookies
    page = moved.look(Page(unpaid.url.replace(address, new_address)))
    pay(page.text)
    until_paid(moved, page)


def test_row_90_orders_that_cannot_be_led_to_the_new_address_are_said_in_one_line(
    tmp_path: Path, said: list[str]
) -> None:
    folder = new_demo(tmp_path, said)._folder
    folder.open(fresh=False)
    folder.use_addresses("http://127.0.0.1:8000", "http://127.0.0.1:8001")
    folder.close()
    (tmp_path / "sandbox.db").write_bytes(b"no database" * 1000)
    again = new_demo(tmp_path, said)._folder
    again.open(fresh=False)
    with pytest.raises(StageError, match=r"file is not a database.*--fresh"):
        again.use_addresses("http://127.0.0.1:9000", "http://127.0.0.1:9001")
    again.close()
    assert (tmp_path / "address").read_text() == "http://127.0.0.1:8000 http://127.0.0.1:8001", "so it is tried again"


def pay(page: str) -> None:
    """Pay on the sandbox's page, to which an order's page leads."""
    link = re.search(r'href="(http://[^"]+/en/invoice/[0-9a-f]{24})"', page)
    assert link
    assert requests.post(f"{link[1]}/payment", timeout=10).ok


def sign_in(shop: str, log: Path) -> str:
    """Sign in to the dashboard as the demo says. Returns the password."""
    found = re.search(r"Dashboard +\S+ +\((\S+), password (\S+)\)", log.read_text())
    assert found
    browser = requests.Session()
    page = browser.get(f"{shop}/dashboard/sign-in", timeout=10).text
    form = {"email": found[1], "password": found[2], "csrf_token": field(page, "csrf_token")}
    assert browser.post(f"{shop}/dashboard/sign-in", data=form, timeout=10).url == f"{shop}/dashboard/"
    return found[2]


def until_paid(shop: Dukkan, page: Page) -> None:
    """Wait until an order is paid."""
    until = time.monotonic() + 20
    while not shop.is_paid(page):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "interrupted", "terminal closed", "output closed"])
def test_row_89_however_the_demo_ends_its_programs_end_too(tmp_path: Path, start: Start, how: str) -> None:
    stage, output = start_in_terminal(start, tmp_path / "demo", piped=how == "output closed")
    programs = children_of(stage.pid)
    try:
        assert len(programs) == 3
        second = subprocess.run(
            [sys.executable, "-m", "stage", "--local", "--fresh", "--folder", tmp_path / "demo"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert second.returncode == 1
        assert f"process {stage.pid}, at http://127.0.0.1:" in second.stderr
        assert not list(tmp_path.glob("demo-*"))
        if how in {"terminal closed", "output closed"}:
            os.close(output)
        if how != "terminal closed":  # which sends its own signal
            stage.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
        stage.wait(30)
        until = time.monotonic() + 20
        while left := [program for program in programs if is_running(program)]:
            assert time.monotonic() < until, left
            time.sleep(0.1)
    finally:
        for program in programs:
            with suppress(ProcessLookupError):
                os.kill(program, signal.SIGKILL)
    new_demo(tmp_path / "demo", [])._folder.open(fresh=False)  # unlocked, and known as a demo's


def start_in_terminal(start: Start, folder: Path, *, piped: bool) -> tuple[Child, int]:
    """Start a demo in a terminal of its own, or with a pipe for its output. Return it, and our end of that."""
    ours, theirs = os.pipe() if piped else pty.openpty()
    script = f"""
import fcntl, os, runpy, sys, termios
if os.isatty(1):
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)
sys.argv = ["stage", "--local", "--port", "{free_port()}", "--folder", {str(folder)!r}]
runpy.run_module("stage", run_name="__main__")
"""
    stage = start("-c", script, log=theirs)
    os.close(theirs)
    said = b""
    while b"Press Ctrl-C to stop" not in said:
        said += os.read(ours, 1000)
    return stage, ours


def children_of(parent: int) -> list[int]:
    """Return the processes that a process started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True)
    return [int(process) for process in listed.stdout.split()]


def is_running(process: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_folder_of_a_demo_that_never_got_ready_is_used_again(tmp_path: Path, said: list[str]) -> None:
    new_demo(tmp_path, said)._folder.open(fresh=False)
    (tmp_path / "sandbox.db").touch()  # then it was stopped
    new_demo(tmp_path, said)._folder.open(fresh=False)
    assert not said
