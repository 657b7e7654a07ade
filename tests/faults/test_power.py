"""Rows 16 to 19: the database is locked or full, and processes die in the worst moments. Nothing is lost, and the shop
recovers without anybody's help."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from app import create_app
from models import Delivery, Order, Payment
from shop.db import db, sqlite_library
from shop.ops import audit
from shop.states import OrderState
from tests.children import Child, children, free_port, wait_for
from tests.conftest import OrderFactory, find_program, missing, rows, set_stock, settings_for
from tests.faults.deployment import forget_connections

pytestmark = pytest.mark.slow
sqlite = sqlite_library()  # two libraries in one process would drop each other's locks on the file
ROUNDS = int(os.environ.get("ROUNDS", "2"))
"""Of a full disk, and of a locked database; the long run makes fifty."""


@pytest.fixture
def folder(migrated: Path, tmp_path: Path) -> Path:
    """A folder with a shop's database."""
    shutil.copy(migrated, tmp_path / "shop.db")
    return tmp_path


@contextmanager
def shop_in(folder: Path, project_url: str) -> Iterator[tuple[Flask, str, dict[str, str]]]:
    """The shop's rules on the folder's database, the address of its web process, and that process's environment."""
    settings = settings_for(folder, project_url, PUBLIC_URL=f"http://127.0.0.1:{free_port()}")
    app = create_app(settings)
    with app.app_context():
        yield app, settings["PUBLIC_URL"], settings
        forget_connections(app)


@contextmanager
def running(command: list[str], environment: dict[str, str], url: str, log: Path) -> Iterator[Child]:
    """A web process that answers, ended with the block."""
    with children() as start:
        process = start(*command, log=log, env=environment)
        wait_for(f"{url}/healthz")
        yield process


def serve(url: str) -> list[str]:
    """The command of an ordinary web process."""
    return [sys.executable, "-m", "flask", "--app", "app", "serve", "--no-worker", "--port", url.rpartition(":")[2]]


def post(url: str, message: Any) -> int:
    """Send a callback; 0 where no answer came."""
    try:
        return requests.post(f"{url}/amwal/callback", json=message, timeout=20).status_code
    except requests.RequestException:
        return 0


def assert_paid_once(order_id: int) -> None:
    """One payment, one delivery, and a clean audit."""
    db.session.expire_all()
    assert db.session.get_one(Order, order_id).state is OrderState.PAID
    assert len(rows(Payment, order_id=order_id)) == len(rows(Delivery, order_id=order_id)) == 1
    assert audit.violations() == []


@pytest.mark.parametrize("moment", ["before-commit", "after-commit"], ids=["row 17", "row 18"])
def test_rows_17_and_18_killed_around_the_commit(folder: Path, gateway: Any, moment: str) -> None:
    with shop_in(folder, gateway.project_url) as (_app, url, environment):
        order = OrderFactory(gateway)
        waiting = order.awaiting()
        message = order.callback(waiting)
        crash_at_commit = [sys.executable, "-m", "tests.faults.crash_at_commit", url.rpartition(":")[2], moment]
        with running(crash_at_commit, environment, url, folder / "crash_at_commit.log") as process:
            assert post(url, message) == 0  # no 200 was sent
            assert process.wait(10) == -signal.SIGKILL
        assert order.again(waiting).state is (
            OrderState.AWAITING_PAYMENT if moment == "before-commit" else OrderState.PAID
        )
        with running(serve(url), environment, url, folder / "web.log"):
            assert post(url, message) == 200  # the gateway's retry
        assert_paid_once(waiting.id)


@pytest.mark.slow(seconds=30)
def test_row_19_the_payment_is_synced_before_the_200_is_sent(folder: Path, gateway: Any) -> None:
    """Seen from outside by strace, with other connections open, in the journal mode that this machine's SQLite gets."""
    strace = find_program("strace")
    if subprocess.run([strace, "-o", os.devnull, "true"], check=False, capture_output=True).returncode:
        missing("right to trace programs", "in a container, add the capability SYS_PTRACE")
    with shop_in(folder, gateway.project_url) as (_app, url, environment):
        order = OrderFactory(gateway)
        waiting = order.awaiting()
        message, trace = order.callback(waiting), folder / "trace"
        calls = "trace=fsync,fdatasync,sendto,send,sendmsg,write,writev"
        command = [strace, "-f", "-y", "-s", "200", "-e", calls, "-o", str(trace), *serve(url)]
        with running(command, environment, url, folder / "web.log"), ExitStack() as others:
            for _ in range(3):
                other = sqlite.connect(folder / "shop.db")
                others.callback(other.close)
                other.execute("SELECT count(*) FROM product").fetchone()
            requests.get(f"{url}/", timeout=10)
            assert post(url, message) == 200
    lines = trace.read_text().splitlines()
    answer = next(number for number, line in enumerate(lines) if "accepted" in line and re.search(r"send|write", line))
    previous = max(n for n, line in enumerate(lines[:answer]) if re.search(r"(sendto|write)\(.*HTTP/1\.1 200", line))
    synced = [line for line in lines[previous:answer] if re.search(r"f(data)?sync\(\d+<[^>]*shop\.db[^>]*>\)? ", line)]
    assert [line for line in synced if not line.endswith("unfinished ...>")], lines[previous : answer + 1]


@pytest.mark.long
def test_row_16_a_locked_database_is_a_503_each_time_and_recovers(folder: Path, gateway: Any) -> None:
    with shop_in(folder, gateway.project_url) as (_app, url, environment):
        order = OrderFactory(gateway)
        with running(serve(url), environment, url, folder / "web.log"):
            set_stock("guji-sunrise", ROUNDS)
            for _ in range(ROUNDS):
                waiting = order.awaiting("guji-sunrise")
                forget_connections(_app)
                lock = sqlite.connect(folder / "shop.db", isolation_level=None)
                lock.execute("BEGIN IMMEDIATE")
                try:
                    assert post(url, order.callback(waiting)) == 503
                finally:
                    lock.execute("ROLLBACK")
                    lock.close()
                assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
                assert post(url, order.callback(waiting)) == 200
                assert_paid_once(waiting.id)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few MB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        missing("small disk", "run the test as root, who may mount one")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.long
def test_row_16_a_full_disk_is_a_503_each_time_and_recovers(migrated: Path, small_disk: Path, gateway: Any) -> None:
    shutil.copy(migrated, small_disk / "shop.db")
    with shop_in(small_disk, gateway.project_url) as (app, url, environment):
        order = OrderFactory(gateway)
        with running(serve(url), environment, url, small_disk.parent / "web.log"):
            set_stock("guji-sunrise", ROUNDS)
            for _ in range(ROUNDS):
                waiting = order.awaiting("guji-sunrise")
                message = order.callback(waiting)
                forget_connections(app)
                statuses = fill_up_and_post(small_disk, url, message)
                assert set(statuses) <= {200, 503}
                assert statuses[-1] == 503, "the disk was never full"
                (small_disk / "ballast").unlink()
                assert post(url, message) == 200
                assert_paid_once(waiting.id)


def fill_up_and_post(disk: Path, url: str, message: dict[str, Any]) -> list[int]:
    """Fill the disk to the last byte; then send the callback, and others, until one meets the full disk."""
    with closing(sqlite.connect(disk / "shop.db")) as connection:  # leave no room in the log of changes either
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while ballast.write(b"\0" * size) == size:
                    pass
    statuses = []
    for _ in range(100):
        statuses.append(post(url, message))
        if statuses[-1] != 200:
            break
    return statuses
