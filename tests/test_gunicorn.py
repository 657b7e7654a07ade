"""The shop under gunicorn (row 103): its log, its bodies, and what is in flight when it stops."""

import re
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from shop.states import OrderState
from tests.children import Child, Start, free_port, wait_for
from tests.conftest import OrderFactory, filled_form, settings_for
from tests.test_logs import LINE

pytestmark = [pytest.mark.slow, pytest.mark.sqlite]

CHUNKED = "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
FORM = "Origin: http://{host}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
PARTS = "Origin: http://{host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
OWN_LINE = re.compile(r"\[[-\d]+ [:\d]+ \+0000\] \[\d+\] \[[A-Z]+\] .*")
"""Of gunicorn itself."""


def serve(start: Start, folder: Path, port: int, project_url: str, *more: str) -> Child:
    """Start two processes, as docs/deploy.md does. Their log is in `folder`."""
    settings = settings_for(folder, project_url) | {"PUBLIC_URL": f"http://127.0.0.1:{port}"}
    command = ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--umask", "0o77", "--no-control-socket"]
    command += ["--workers", "2", "--threads", "16", *more, "app:create_app()"]
    child = start(*command, log=folder / "log", env=settings)
    wait_for(f"http://127.0.0.1:{port}/readyz")
    return child


def send(port: int, request: str) -> int:
    """Send bytes, and return the status."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        return int(connection.recv(1000).split()[1])


@pytest.mark.parametrize("how", [(), ("--preload",)], ids=["", "preload"])
def test_row_103_an_order_is_paid_and_its_log_is_ours(
    start: Start, order: OrderFactory, gateway: Any, tmp_path: Path, how: tuple[str, ...]
) -> None:
    waiting, port = order.awaiting(), free_port()
    serve(start, tmp_path, port, gateway.project_url, *how)
    callback = f"http://127.0.0.1:{port}/amwal/callback"
    assert [requests.post(callback, json=order.callback(waiting), timeout=10).status_code for _ in range(8)] == [
        200
    ] * 8
    assert order.again(waiting).state is OrderState.PAID
    forged = "%0a2026-11-22T10:00:00.000Z%20INFO%20[-]%20shop.payments:%20callback%20accepted:%2017"
    requests.get(f"http://127.0.0.1:{port}/{forged}", headers={"Host": "x\u2028y".encode()}, timeout=10)
    lines = (tmp_path / "log").read_text().splitlines()
    ours = [line for line in lines if not OWN_LINE.fullmatch(line)]
    assert all(map(LINE.fullmatch, ours)), ours
    assert any(" INFO " in line and "accepted" in line for line in ours)


@pytest.mark.parametrize(
    "body", ["\r\nzz\r\nabc\r\n0\r\n\r\n", "\r\n5\r\nabc\r\n0\r\n\r\n", "\r\n-1\r\nabc\r\n0\r\n\r\n"]
)
def test_row_103_a_body_that_cannot_be_read_is_a_400(
    start: Start, order: OrderFactory, gateway: Any, tmp_path: Path, body: str
) -> None:
    order.awaiting()
    port = free_port()
    serve(start, tmp_path, port, gateway.project_url)
    host = f"127.0.0.1:{port}"
    for path, headers in (("/amwal/callback", ""), ("/basket/items", FORM), ("/language", PARTS), ("/checkout", FORM)):
        assert send(port, (CHUNKED + headers).format(path=path, host=host) + f"\r\n{body}\r\n\r\n") == 400
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert " ERROR " not in log


def test_row_57_gunicorn_finishes_a_request_in_flight_at_sigterm(start: Start, migrated: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port, answers = free_port(), list[requests.Response]()
    here = f"http://127.0.0.1:{port}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        child = serve(start, tmp_path, port, f"http://127.0.0.1:{silent.getsockname()[1]}/projects/1")
        session = requests.Session()
        session.post(f"{here}/basket/items", data={"product": "stoneware-cup", "quantity": "1"}, timeout=5)
        form = filled_form(session.get(f"{here}/checkout", timeout=5).text)

        def check_out() -> None:
            answers.append(session.post(f"{here}/checkout", data=form, allow_redirects=False, timeout=20))

        slow = threading.Thread(target=check_out)
        slow.start()
        silent.accept()  # the shop is asking the gateway now
        child.send_signal(signal.SIGTERM)
        slow.join()
        assert child.wait(30) == 0
    assert answers[0].status_code == 303
