"""Backups, row 61 of docs/faults.md: one moment of the whole database, taken while the shop goes on, and restored."""

import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask, current_app

from models import Order
from shop.db import db, sqlite_library
from shop.ops import audit, backup
from shop.states import OrderState
from tests.children import free_port
from tests.conftest import API_KEY, CheckingClient, OrderFactory, rows, set_stock
from tests.postgres import Server, programs

MakeApp = Callable[..., Flask]


def back_up(app: Flask, file: Path) -> Result:
    return app.test_cli_runner().invoke(args=["backup", str(file)])


@pytest.fixture
def busy(app: Flask, gateway: Any) -> Any:
    """Four threads that place orders and pay them, until `stop` is set."""
    stop, made, broken = threading.Event(), [], []
    set_stock("stoneware-cup", 100_000)

    def buy() -> None:
        with app.app_context():
            factory = OrderFactory(gateway)
            while not stop.is_set():
                try:
                    waiting = factory.awaiting()
                    factory.pay(waiting)
                    made.append(waiting.id)
                except Exception as error:
                    broken.append(error)
                    raise

    threads = [threading.Thread(target=buy) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield made
    stop.set()
    for thread in threads:
        thread.join()
    assert not broken


def wait_for_more(made: list[int]) -> None:
    """Until ten more orders are paid."""
    wanted = len(made) + 10
    for _ in range(600):
        if len(made) >= wanted:
            return
        threading.Event().wait(0.05)
    raise AssertionError("nobody buys anything")


@pytest.mark.sqlite
def test_row_61_a_backup_while_orders_are_paid_is_restored_and_in_order(
    app: Flask, busy: list[int], new_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "STEP", 1)  # as slow as can be: others write between any two pages
    wait_for_more(busy)
    result = back_up(app, tmp_path / "backup.db")
    assert result.exit_code == 0, result.output
    during = len(busy)
    wait_for_more(busy)
    # As the command says, but elsewhere.
    assert f"flask --app app restore {tmp_path / 'backup.db'}" in result.output
    (tmp_path / "elsewhere").mkdir()
    restored = tmp_path / "elsewhere" / "shop.db"
    with new_app(DATABASE_URL=f"sqlite:///{restored}", PUBLIC_URL=f"http://127.0.0.1:{free_port()}").app_context():
        done = current_app.test_cli_runner().invoke(args=["restore", str(tmp_path / "backup.db")])
        assert done.exit_code == 0, done.output
        paid = rows(Order, state=OrderState.PAID)
        assert 10 <= len(paid) <= during + 4
        assert not audit.violations()
    copy = sqlite_library().connect(tmp_path / "backup.db")
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copy.execute("PRAGMA foreign_key_check").fetchall() == []
    copy.close()


def test_a_backup_tells_how_far_it_is(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "STEP", 5)
    told: list[tuple[int, int]] = []
    backup.save(tmp_path / "backup", lambda *done_of_total: told.append(done_of_total))
    done = [pages for pages, _ in told]
    assert done == sorted(set(done))
    assert told[-1][0] == told[-1][1] > 0
    assert len(told) > 1 or db.engine.dialect.name == "postgresql"


@pytest.mark.postgres
def test_row_61_the_same_of_postgresql(
    app: Flask, busy: list[int], new_app: MakeApp, postgres: Server, tmp_path: Path
) -> None:
    wait_for_more(busy)
    result = back_up(app, tmp_path / "backup.dump")
    assert result.exit_code == 0, result.output
    wait_for_more(busy)
    postgres.execute("CREATE DATABASE restored")
    url = postgres.url("restored")
    with new_app(DATABASE_URL=url, PUBLIC_URL=f"http://127.0.0.1:{free_port()}").app_context():
        restored = current_app.test_cli_runner().invoke(args=["restore", str(tmp_path / "backup.dump")])
        assert restored.exit_code == 0, restored.output
    with new_app(DATABASE_URL=url).app_context():
        assert len(rows(Order, state=OrderState.PAID)) >= 10
        assert not audit.violations()
    postgres.execute("DROP DATABASE restored WITH (FORCE)")


def test_row_61_no_secret_is_in_it_and_nobody_else_may_read_it(
    app: Flask, client: CheckingClient, order: OrderFactory, tmp_path: Path
) -> None:
    waiting = order.awaiting()
    callback = order.callback(waiting)
    order.pay(waiting)
    order.pay(waiting, secret="a-secret-that-nobody-knows")
    file = tmp_path / "backup"
    assert back_up(app, file).exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    copy = file.read_bytes()
    if programs() and copy.startswith(b"PGDMP"):
        copy = subprocess.run(["pg_restore", "--file=-", str(file)], check=True, capture_output=True).stdout
    assert callback["invoiceId"].encode() in copy
    for canary in (callback["secret"], callback["secret"].replace("-", ""), API_KEY, app.config["SECRET_KEY"]):
        assert canary.encode() not in copy
    assert b"a-secret-that-nobody-knows" not in copy


def test_row_61_nothing_is_overwritten(app: Flask, tmp_path: Path) -> None:
    for name, make in (("file", Path.touch), ("link", lambda path: path.symlink_to("nowhere"))):
        make(tmp_path / name)
        result = back_up(app, tmp_path / name)
        assert result.exit_code == 1
        assert "exists already" in result.output
    assert (tmp_path / "file").stat().st_size == 0
    result = back_up(app, tmp_path / "no-folder" / "file")
    assert result.exit_code == 1
    assert "No such file" in result.output


@pytest.mark.sqlite
def test_row_61_what_fails_leaves_no_file(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(backup, "_copy_sqlite", full)
        result = back_up(app, tmp_path / "backup.db")
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    file = tmp_path / "shop.db"
    file.write_bytes(file.read_bytes()[:8192] + os.urandom(8192) + file.read_bytes()[16384:])
    result = back_up(app, tmp_path / "backup.db")
    assert result.exit_code == 1
    assert "There is no backup" in result.output
    assert set(tmp_path.iterdir()) - {tmp_path / "shop.db-wal", tmp_path / "shop.db-shm"} == before


@pytest.mark.sqlite
def test_row_61_no_backup_is_made_of_a_database_that_is_not_there(new_app: MakeApp, tmp_path: Path) -> None:
    app = new_app(DATABASE_URL=f"sqlite:///{tmp_path / 'nothing.db'}")
    for args in (["backup", "b.db"], ["export-orders"], ["forget", "a@b.example"], ["import-products", "x.csv"]):
        with app.app_context():
            result = app.test_cli_runner().invoke(args=args)
        assert result.exit_code == 1
        assert "There is no database" in result.output
    assert not (tmp_path / "nothing.db").exists()


FAKE = """#!/bin/sh
printf '%s\\n' "$@" > "$0.arguments"
printf '%s' "$PGPASSWORD" > "$0.password"
echo "pg_dump: error: server version mismatch" >&2
exit 1
"""


@pytest.mark.postgres
def test_row_61_the_password_is_in_no_argument(
    app: Flask, new_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(FAKE)
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for address in (
        "postgresql://bob:p%40ss@db.example:5433/shop?sslmode=require",
        "postgresql://bob@db.example:5433/shop?sslmode=require&password=p%40ss",
    ):
        with new_app(DATABASE_URL=address).app_context():
            result = back_up(app, tmp_path / "backup.dump")
        assert result.exit_code == 1
        assert "server version mismatch" in result.output
        arguments = (tmp_path / "pg_dump.arguments").read_text()
        assert "--dbname=postgresql://bob@db.example:5433/shop?sslmode=require\n" in arguments
        assert "ss@" not in arguments
        assert (tmp_path / "pg_dump.password").read_text() == "p@ss"
    assert not list(tmp_path.glob("*backup.dump*"))


@pytest.mark.postgres
def test_row_61_without_pg_dump_it_says_what_to_install(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = back_up(app, tmp_path / "backup.dump")
    assert result.exit_code == 1
    assert "postgresql-client" in result.output


@pytest.mark.sqlite
def test_row_61_an_empty_database_has_no_backup(app: Flask, tmp_path: Path, new_app: MakeApp) -> None:
    (tmp_path / "empty.db").touch()
    with new_app(DATABASE_URL=f"sqlite:///{tmp_path / 'empty.db'}").app_context():
        result = back_up(app, tmp_path / "backup.db")
    assert result.exit_code == 1
    assert "the database is empty" in result.output
    assert not (tmp_path / "backup.db").exists()


def test_row_61_a_backup_goes_to_no_terminal(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    result = back_up(app, Path("-"))
    assert (result.exit_code, "name a file" in result.output) == (1, True)
    assert {one.name for one in set(tmp_path.iterdir()) - before} <= {"shop.db-wal", "shop.db-shm"}
