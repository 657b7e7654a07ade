"""`flask serve`: what it wants to be told, and that a stop drops no request."""

import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from shop.ops import server
from shop.states import OrderState
from tests.children import Start, free_port, free_ports, wait_for
from tests.conftest import OrderFactory, Serve, filled_form, settings_for


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_web_and_worker_come_and_go_together(
    serve: Serve, migrated: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port = free_port()
    shop = serve(port)
    try:
        wait_for(f"http://127.0.0.1:{port}/statusz")  # which wants a worker's heartbeat, too
        workers = children(shop.pid) if Path("/proc/self/task").exists() else []
        # A terminal's Ctrl-C goes to the server alone: a worker that ends first would be taken for one that died.
        assert all(os.getsid(one) != os.getsid(shop.pid) for one in workers)
    finally:
        shop.send_signal(stop)
        assert shop.wait(20) == 0
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def test_row_57_a_request_in_flight_is_finished_at_sigterm(serve: Serve, migrated: Path, tmp_path: Path) -> None:
    """The PUT to a gateway that never answers holds a checkout for six seconds; the stop comes in the middle."""
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port = free_port()
    silent = socket.create_server(("127.0.0.1", 0))
    project_url = f"http://127.0.0.1:{silent.getsockname()[1]}/projects/1"
    here = f"http://127.0.0.1:{port}"
    shop = serve(port, "--no-worker", AMWAL_PROJECT_URL=project_url, PUBLIC_URL=here)
    answers: list[Any] = []
    try:
        wait_for(f"{here}/healthz")
        session = requests.Session()
        session.post(f"{here}/basket/items", data={"product": "stoneware-cup", "quantity": "1"}, timeout=5)
        form = filled_form(session.get(f"{here}/checkout", timeout=5).text)
        slow = threading.Thread(
            target=lambda: answers.append(
                session.post(f"{here}/checkout", data=form, allow_redirects=False, timeout=20)
            )
        )
        slow.start()
        silent.accept()  # the shop is asking the gateway now
    finally:
        shop.send_signal(signal.SIGTERM)
        assert shop.wait(20) == 0
        silent.close()
    slow.join()
    assert answers[0].status_code == 303


@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't pause a process")
def test_row_57_whoever_has_connected_is_served_before_the_stop(serve: Serve, migrated: Path, tmp_path: Path) -> None:
    """The stop comes while they wait to be accepted; some send their request only then."""
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port = free_port()
    shop = serve(port, "--no-worker", PUBLIC_URL=f"http://127.0.0.1:{port}")
    wait_for(f"http://127.0.0.1:{port}/healthz")
    request = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
    shop.send_signal(signal.SIGSTOP)
    with ExitStack() as stack:
        try:
            waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(50)]
            for client in waiting[:25]:
                client.sendall(request)
            shop.send_signal(signal.SIGTERM)
        finally:
            shop.send_signal(signal.SIGCONT)
        for client in waiting[25:]:
            client.sendall(request)
        answers = [client.recv(1000)[:15] for client in waiting]
    assert answers == [b"HTTP/1.1 200 OK"] * 50
    assert shop.wait(10) == 0


def test_row_57_a_connection_that_is_kept_alive_delays_no_stop(serve: Serve, migrated: Path, tmp_path: Path) -> None:
    """As a proxy keeps them, with a request on them all the time; and one on which nothing was ever sent."""
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    shop = serve(port, "--no-worker", PUBLIC_URL=here)
    statuses: list[int] = []

    def go_on() -> None:
        session = requests.Session()
        try:
            while True:
                statuses.append(session.get(here, timeout=5).status_code)
        except requests.ConnectionError:
            return

    proxies = [threading.Thread(target=go_on) for _ in range(8)]
    try:
        wait_for(f"{here}/healthz")
        for proxy in proxies:
            proxy.start()
        silent = socket.create_connection(("127.0.0.1", port))
        time.sleep(0.5)
    finally:
        shop.send_signal(signal.SIGTERM)
        assert shop.wait(server.DRAIN_SECONDS / 2) == 0
    silent.close()
    for proxy in proxies:
        proxy.join()
    assert set(statuses) == {200}


@pytest.mark.slow
@pytest.mark.sqlite
def test_row_56_with_fifty_slow_clients_a_callback_is_answered_at_once(serve: Serve, order: OrderFactory) -> None:
    """They hold half a request each, some in the headers and some in the body, and go on a byte at a time."""
    waiting = order.awaiting()
    message = order.callback(waiting)
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    shop = serve(port, "--no-worker", PUBLIC_URL=here)
    head = f"POST /amwal/callback HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    body = 'Content-Length: 8000\r\nContent-Type: application/json\r\n\r\n{"secret": "'
    slow = []
    try:
        wait_for(f"{here}/healthz")
        for number in range(50):
            slow.append(socket.create_connection(("127.0.0.1", port), timeout=5))
            slow[-1].sendall((head + (body if number % 2 else "X-Slow: ")).encode())
        for _ in range(3):
            for one in slow:
                one.sendall(b"x")
            time.sleep(0.2)
        began = time.monotonic()
        assert requests.post(f"{here}/amwal/callback", json=message, timeout=10).status_code == 200
        assert time.monotonic() - began < 5
        assert requests.get(here, timeout=5).status_code == 200
        assert all(one.send(b"x") == 1 for one in slow), "they are all still at it"
    finally:
        for one in slow:
            one.close()
        shop.send_signal(signal.SIGTERM)
        assert shop.wait(20) == 0
    assert order.again(waiting).state is OrderState.PAID


def test_it_wants_to_be_told_where_orders_are_kept(serve: Serve) -> None:
    shop = serve(free_port(), DATABASE_URL="")
    output, _ = shop.communicate(timeout=20)
    assert shop.returncode == 1
    assert "DATABASE_URL is not set" in output
    assert "Traceback" not in output


def test_a_taken_port_is_one_clear_line(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        shop = serve(taken.getsockname()[1], "--no-worker")
        output, _ = shop.communicate(timeout=20)
    assert shop.returncode == 1
    assert "cannot be used" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("command", ["sample-shop", "serve", "worker"])
def test_every_command_has_help(app: Flask, command: str) -> None:
    result = app.test_cli_runner().invoke(args=[command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_by_itself_ends_when_told(start: Start, migrated: Path, tmp_path: Path, stop: signal.Signals) -> None:
    """As systemd ends it: what it is doing is finished, and that is no failure."""
    database = tmp_path / "shop.db"
    database.write_bytes(migrated.read_bytes())
    settings = settings_for(tmp_path, "http://127.0.0.1:9/projects/none")
    worker = start("-m", "flask", "--app", "app", "worker", env=settings)
    for _ in range(100):
        with closing(sqlite3.connect(database)) as connection:
            if connection.execute("SELECT count(*) FROM heartbeat").fetchone()[0]:
                break
        time.sleep(0.1)
    worker.send_signal(stop)
    assert worker.wait(10) == 0
    with closing(sqlite3.connect(database)) as connection:
        left = connection.execute("SELECT count(*) FROM heartbeat WHERE name = 'worker'").fetchone()
    assert left == (0,), "nobody has to wait until it counts as silent"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes as Linux shows them")
def test_a_worker_that_dies_is_started_again_and_ends_with_a_server_that_dies(
    serve: Serve, migrated: Path, tmp_path: Path
) -> None:
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port = free_port()
    shop = serve(port)
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz")
        [first] = children(shop.pid)
        os.kill(first, signal.SIGKILL)
        for _ in range(100):
            workers = children(shop.pid)
            if workers and workers != [first]:
                break
            time.sleep(0.1)
        [second] = children(shop.pid)
        assert second != first
        wait_for(f"http://127.0.0.1:{port}/statusz")
    finally:
        shop.kill()
        shop.wait()
    for _ in range(100):
        if not Path(f"/proc/{second}").exists() or "State:\tZ" in Path(f"/proc/{second}/status").read_text():
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived its server")


def test_half_of_the_threads_may_wait_for_the_gateway(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "run", lambda *_: None)
    monkeypatch.setitem(app.extensions, "settings", replace(app.extensions["settings"], database_url_given=True))
    result = app.test_cli_runner().invoke(args=["serve", "--threads", "4", "--no-worker"])
    assert result.exit_code == 0, result.output
    slots = app.extensions["amwal"].slots
    assert [slots.acquire(blocking=False) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("proxies", "sender"), [("0", "127.0.0.1"), ("1", "203.0.113.9"), ("2", "198.51.100.1")])
def test_row_46_a_senders_address_comes_from_a_proxy_that_is_known(
    serve: Serve, migrated: Path, tmp_path: Path, proxies: str, sender: str
) -> None:
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    shop = serve(port, "--no-worker", PUBLIC_URL=here, TRUSTED_PROXIES=proxies)
    try:
        wait_for(f"{here}/healthz")
        headers = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
        assert requests.post(f"{here}/amwal/callback", data="{}", headers=headers, timeout=5).status_code == 400
    finally:
        shop.send_signal(signal.SIGTERM)
        shop.wait(20)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        assert connection.execute("SELECT sender FROM callback_attempt").fetchall() == [(sender,)]


def has_no_reader_but_its_owner(file: Path) -> bool:
    """Whether other users of the machine can do nothing with a file."""
    return not file.stat().st_mode & 0o077


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes as Linux shows them")
def test_row_102_other_users_of_the_machine_cannot_read_what_is_stored(start: Start, tmp_path: Path) -> None:
    """Under the usual umask: a new database, its log, and whatever shop, worker and sandbox write later."""
    ports, log = free_ports(2), tmp_path / "log"
    here = f"http://127.0.0.1:{ports[0]}"
    settings = settings_for(tmp_path, "http://127.0.0.1:9/projects/none", PUBLIC_URL=here)
    usual = ("/bin/sh", "-c", 'umask 022; exec "$0" "$@"', sys.executable, "-m")
    assert start(*usual, "flask", "--app", "app", "sample-shop", log=log, env=settings).wait(60) == 0
    shop = start(*usual, *f"flask --app app serve --port {ports[0]}".split(), log=log, env=settings)
    database = ("--database", str(tmp_path / "sandbox.db"), "--mails", str(tmp_path / "mails"))
    sandbox = start(*usual, *f"sandbox serve --port {ports[1]}".split(), *database, log=log)
    wait_for(f"{here}/readyz")
    wait_for(f"http://127.0.0.1:{ports[1]}/healthz")
    files = [file for file in tmp_path.iterdir() if file.is_file() and file != log]
    assert {"shop.db", "sandbox.db"} < {file.name for file in files}, "and their logs"
    assert all(map(has_no_reader_but_its_owner, files))
    for pid in (shop.pid, sandbox.pid, *children(shop.pid)):
        assert "Umask:\t0077\n" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.sqlite
def test_row_102_nor_an_email(start: Start, order: OrderFactory, tmp_path: Path) -> None:
    order.awaiting()  # which queues "pay here"
    settings = settings_for(tmp_path, "http://127.0.0.1:9/projects/none")
    worker = ("-m", "flask", "--app", "app", "worker")
    start("/bin/sh", "-c", 'umask 022; exec "$0" "$@"', sys.executable, *worker, env=settings)
    until = time.monotonic() + 30
    while not (mails := list((tmp_path / "mail").glob("*.eml"))) and time.monotonic() < until:
        time.sleep(0.1)
    assert mails
    assert all(map(has_no_reader_but_its_owner, mails))
