"""One machine at a time writes to an SQLite database (row 101)."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from models import Heartbeat, Payment, now
from shop import writer_lock
from shop.db import write
from shop.writer_lock import OtherMachine, WriterLock
from tests.children import Child, Start
from tests.conftest import CheckingClient, OrderFactory, rows

pytestmark = pytest.mark.sqlite


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], WriterLock]:
    """A process on a machine of that name: its lock of the database in the test's folder."""
    monkeypatch.setattr(writer_lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(writer_lock, "RENEW_SECONDS", 0.0)

    def on(name: str) -> WriterLock:
        boot_id = tmp_path / f"boot-{name}"
        boot_id.write_text(f"{name}-id\n")
        with monkeypatch.context() as there:
            there.setattr(writer_lock, "BOOT_ID", boot_id)
            there.setattr("shop.writer_lock.socket.gethostname", lambda: name)
            return WriterLock(tmp_path / "shop.db")

    return on


@pytest.mark.slow
def test_row_101_another_machine_is_refused_until_the_lock_is_stale(machine: Callable[[str], WriterLock]) -> None:
    one, other = machine("one"), machine("other")
    one.hold()
    with pytest.raises(OtherMachine) as caught:
        other.hold()
    assert caught.value.text.startswith("one writes to this database, and two machines would destroy it.")
    for _ in range(4):
        time.sleep(0.4)
        one.hold()  # it goes on
        with pytest.raises(OtherMachine):
            other.hold()
    time.sleep(1.1)
    other.hold()
    with pytest.raises(OtherMachine):  # it comes back after a pause
        one.hold()


def test_row_101_containers_of_one_machine_share_it(machine: Callable[[str], WriterLock]) -> None:
    web, worker = machine("one"), machine("one")
    for _ in range(3):
        web.hold()
        worker.hold()


@pytest.mark.parametrize("content", ["", "x", "\x00" * 40, "\ufffd"])
def test_row_101_a_lock_that_cannot_be_read_is_waited_for(
    machine: Callable[[str], WriterLock], tmp_path: Path, content: str
) -> None:
    one = machine("one")
    (tmp_path / "shop.db.lock").write_text(content)
    with pytest.raises(OtherMachine):
        one.hold()
    time.sleep(1.1)
    one.hold()


def test_row_101_a_lock_from_the_future_is_no_stale_one(machine: Callable[[str], WriterLock], tmp_path: Path) -> None:
    machine("one").hold()
    later = time.time() + 3600
    os.utime(tmp_path / "shop.db.lock", (later, later))
    with pytest.raises(OtherMachine, match="delete that file"):
        machine("other").hold()


def test_row_101_of_many_machines_that_start_at_once_one_writes(machine: Callable[[str], WriterLock]) -> None:
    for stale in (False, True):
        locks = [machine(f"{stale}-{number}") for number in range(12)]
        if stale:
            time.sleep(1.1)
        together, held = threading.Barrier(len(locks)), list[WriterLock]()

        def start(lock: WriterLock, together: Any = together, held: Any = held) -> None:
            together.wait()
            try:
                lock.hold()
                held.append(lock)
            except OtherMachine:
                pass

        threads = [threading.Thread(target=start, args=(lock,)) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 1


def test_row_101_a_folder_that_cannot_be_written_to_is_told(
    machine: Callable[[str], WriterLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    one = machine("one")
    monkeypatch.setattr("shop.writer_lock.os.open", refuse)
    with pytest.raises(OtherMachine, match=r"can't be written: Permission denied"):
        one.hold()


def test_row_101_it_looks_every_ten_seconds_and_is_nothing_where_there_is_no_boot_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = WriterLock(tmp_path / "shop.db")
    lock.hold()
    lock.file.write_text("another-id elsewhere\n")
    lock.hold()
    lock.renewed -= 10
    with pytest.raises(OtherMachine):
        lock.hold()
    monkeypatch.setattr(writer_lock, "BOOT_ID", tmp_path / "none")
    WriterLock(tmp_path / "other.db").hold()
    assert not (tmp_path / "other.db.lock").exists()


@pytest.fixture
def taken(app: Flask, tmp_path: Path) -> Path:
    """The lock of the shop's database, held by another machine."""
    lock = tmp_path / "shop.db.lock"
    lock.write_text("another-id elsewhere\n")
    return lock


def test_row_101_a_callback_is_not_acknowledged_while_another_machine_writes(
    new_app: Callable[..., Flask], order: OrderFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)
    (tmp_path / "shop.db.lock").write_text("another-id elsewhere\n")
    other = new_app()
    with other.app_context():
        client = other.test_client()
        assert isinstance(client, CheckingClient)
        for _ in range(3):
            assert client.post("/amwal/callback", json=message).status_code == 503
        assert client.get("/").status_code == 200, "reading goes on"
        assert client.post("/basket/items", data={"product": "stoneware-cup"}).status_code == 503
        assert not rows(Payment)
    said = [record.getMessage() for record in caplog.records if record.name == "shop.writer_lock"]
    assert len(said) == 1
    assert said[0].startswith("elsewhere writes to this database")


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_row_101_a_second_machine_does_not_start(new_app: Callable[..., Flask], taken: Path, command: str) -> None:
    app = new_app()
    with app.app_context():
        result = app.test_cli_runner().invoke(args=[command])
    assert result.exit_code == 1
    assert "Error: elsewhere writes to this database" in result.output
    assert "use PostgreSQL" in result.output


WRITER = """
import sys, time
from pathlib import Path
from shop import writer_lock
writer_lock.BOOT_ID, writer_lock.STALE_SECONDS, writer_lock.RENEW_SECONDS = Path(sys.argv[2]), 1.0, 0.1
lock = writer_lock.WriterLock(Path(sys.argv[1]))
print("started", flush=True)
while True:
    try:
        lock.hold()
        print("held", flush=True)
    except writer_lock.OtherMachine:
        print("refused", flush=True)
    time.sleep(0.05)
"""


def test_row_101_a_machine_that_was_killed_loses_its_lock(start: Start, tmp_path: Path) -> None:
    def begin(name: str) -> Child:
        (tmp_path / name).write_text(f"{name}-id")
        return start("-c", WRITER, str(tmp_path / "shop.db"), str(tmp_path / name), errors=tmp_path / "log")

    one = begin("one")
    assert one.stdout
    assert [one.stdout.readline() for _ in range(3)][1:] == ["held\n"] * 2
    other = begin("other")
    assert other.stdout
    assert [other.stdout.readline() for _ in range(4)][1:] == ["refused\n"] * 3
    one.send_signal(signal.SIGKILL)
    one.wait()
    killed = time.monotonic()
    while other.stdout.readline() != "held\n":
        assert time.monotonic() < killed + 10
    assert time.monotonic() > killed + 0.5


def test_row_101_a_write_costs_no_look_at_the_file(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with write() as session:
        session.merge(Heartbeat(name="worker", at=now()))
    looks: list[int] = []
    monkeypatch.setattr(WriterLock, "_take", lambda _self: looks.append(1))
    for _ in range(20):
        with write() as session:
            session.execute(text("SELECT 1"))
    assert not looks
