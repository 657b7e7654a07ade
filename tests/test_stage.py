"""The stage: ports, addresses, and starting, watching and stopping programs."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from stage import demo, network
from stage.demo import Demo, StageError


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


def test_the_demo_starts_without_orders_after_a_change_of_address(tmp_path: Path, said: list[str]) -> None:
    first = new_demo(tmp_path, said)
    first._prepare_folder(fresh=False)
    (tmp_path / "shop.db").touch()
    new_demo(tmp_path, said)._prepare_folder(fresh=False)
    assert (tmp_path / "shop.db").exists()
    assert not said
    new_demo(tmp_path, said, ANOTHER)._prepare_folder(fresh=False)
    assert not (tmp_path / "shop.db").exists()
    assert "The address has changed" in said[0]


def test_a_database_of_an_unknown_revision_is_kept_aside(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "demo"
    new_demo(folder, said)._prepare_folder(fresh=False)
    (folder / "mail").mkdir()
    (folder / "mail" / "receipt.eml").touch()
    for revision, kept in ((ScriptDirectory(str(demo.ROOT / "migrations")).get_current_head(), True), ("0002", False)):
        with closing(sqlite3.connect(folder / "shop.db")) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
            database.execute("DELETE FROM alembic_version")
            database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        new_demo(folder, said)._prepare_folder(fresh=False)
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
    made._prepare_folder(fresh=False)
    made._run("worker", [sys.executable, "-c", "print('out of beans')"], {})
    made.programs["worker"].wait()
    with pytest.raises(StageError, match=r"the worker exited unexpectedly\. out of beans"):
        made.watch(threading.Event())


def test_stopping_lets_programs_finish_and_leaves_none(tmp_path: Path, said: list[str]) -> None:
    made = new_demo(tmp_path, said)
    made._prepare_folder(fresh=False)
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


def test_two_demos_in_one_folder_are_refused(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_demo(tmp_path, said)
    first._prepare_folder(fresh=False)
    (tmp_path / "shop.db").touch()
    monkeypatch.setattr(Demo, "_answers", lambda _self, url: url == f"http://127.0.0.1:{first.shop_port}/healthz")
    with pytest.raises(StageError, match="running already"):
        new_demo(tmp_path, said, ANOTHER)._prepare_folder(fresh=True)
    assert (tmp_path / "shop.db").exists()


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
            new_demo(tmp_path, said)._prepare_folder(fresh=fresh)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("folder", ["a?b", "per%20cent", "a-file/below", "loop"])
def test_a_folder_that_cannot_be_used_is_said_in_one_line(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "loop").symlink_to("loop")
    ran = subprocess.run(
        [sys.executable, "-m", "stage", "--local", "--folder", tmp_path / folder],
        cwd=demo.ROOT,
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
    monkeypatch.setattr(demo.time, "strftime", lambda _format: "same-second")
    folder = tmp_path / "demo"
    for content in ("first", "second", "third"):
        new_demo(folder, said)._prepare_folder(fresh=True)
        (folder / "shop.db").write_text(content)
    new_demo(folder, said)._prepare_folder(fresh=True)
    assert {path.read_text() for path in tmp_path.glob("demo-*/shop.db")} == {"first", "second", "third"}


def test_a_fresh_start_keeps_unrelated_files(tmp_path: Path, said: list[str]) -> None:
    new_demo(tmp_path, said)._prepare_folder(fresh=False)
    for name in ("thesis.txt", "own.log", "shop.db.bak"):
        (tmp_path / name).touch()
    (tmp_path / "shop.db").touch()
    new_demo(tmp_path, said)._prepare_folder(fresh=True)
    assert all((tmp_path / name).exists() for name in ("thesis.txt", "own.log", "shop.db.bak"))
    assert not (tmp_path / "shop.db").exists()
