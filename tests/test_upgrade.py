"""A rolling upgrade under load (row 115): the next version migrates while this one serves, and replaces it."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import requests
from flask import Flask

from models import Order
from shop import worker
from shop.ops import audit, health
from shop.states import OrderState
from tests.children import ROOT, Child, Start, free_ports, wait_for
from tests.conftest import CheckingClient, OrderFactory, filled_form, rows, set_stock

pytestmark = pytest.mark.slow

MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "4343eef67865", "{head}"


def upgrade():
    op.add_column("orders", sa.Column("gift_wrap", sa.String(40), server_default="", nullable=False))
    op.create_table("voucher", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("voucher")
    op.drop_column("orders", "gift_wrap")
"""


def next_version(folder: Path) -> Path:
    """A copy of the program with one more migration, which only adds."""
    parts = ("shop", "sandbox", "templates", "static", "translations", "migrations", "app.py", "models.py", "amwal.py")
    for part in parts:
        source = ROOT / part
        shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
    head = health.newest_revision()
    (folder / "migrations" / "versions" / "4343eef67865_gift_wrap.py").write_text(MIGRATION.format(head=head))
    return folder


class Proxy:
    """A load balancer: it asks `/readyz` and sends each connection to a process that is ready."""

    def __init__(self, listener: socket.socket, ports: list[int]) -> None:
        self.listener, self.ports, self.ready = listener, ports, set(ports)
        self.turn = 0
        for target in (self._accept, self._check):
            threading.Thread(target=target, daemon=True).start()

    def _check(self) -> None:
        while self.listener.fileno() >= 0:
            for port in self.ports:
                try:
                    answer = requests.get(f"http://127.0.0.1:{port}/readyz", timeout=2)
                    ok = answer.status_code == 200
                except requests.RequestException:
                    ok = False
                (self.ready.add if ok else self.ready.discard)(port)
            time.sleep(0.05)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        self.turn += 1
        for attempt in range(100):  # a refused connection is tried elsewhere: nothing was sent
            ports = sorted(self.ready) or self.ports
            try:
                server = socket.create_connection(("127.0.0.1", ports[(self.turn + attempt) % len(ports)]), 5)
                break
            except OSError:
                time.sleep(0.05)
        else:
            client.close()
            return
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join(30)
        client.close()
        server.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def load(url: str, callbacks: list[bytes]) -> Iterator[list[str]]:
    """Look, buy and send callbacks until the block ends; gives what went wrong."""
    failures: list[str] = []
    stop = threading.Event()
    close = {"Connection": "close"}

    def note(what: str, status: int, wanted: tuple[int, ...]) -> None:
        if status not in wanted:
            failures.append(f"{what}: {status}")

    def look() -> None:
        for path in ("/", "/products/stoneware-cup", "/basket"):
            note(path, requests.get(url + path, headers=close, timeout=30).status_code, (200,))

    def buy() -> None:
        browser = requests.Session()
        browser.headers.update(close | {"Origin": url})
        data = {"product": "stoneware-cup", "quantity": "1"}
        note("add", browser.post(f"{url}/basket/items", data, timeout=30).status_code, (200,))
        form = filled_form(browser.get(f"{url}/checkout", timeout=30).text)
        answer = browser.post(f"{url}/checkout", form, timeout=30)
        note("checkout", answer.status_code, (200,))
        token = filled_csrf(answer.text)
        answer = browser.post(f"{answer.url}/cancellation", {"csrf_token": token}, timeout=30)
        note("cancel", answer.status_code, (200,))

    def call_back() -> None:
        if callbacks:
            answer = requests.post(f"{url}/amwal/callback", callbacks.pop(), headers=close, timeout=30)
            note("callback", answer.status_code, (200,))
        time.sleep(0.1)

    def repeat(what: Callable[[], None]) -> None:
        while not stop.is_set():
            try:
                what()
            except (requests.RequestException, AssertionError, IndexError) as error:
                failures.append(f"{what.__name__}: {error!r}"[:300])

    with ThreadPoolExecutor(3) as crowd:
        for what in (look, buy, call_back):
            crowd.submit(repeat, what)
        try:
            yield failures
        finally:
            stop.set()


def filled_csrf(page: str) -> str:
    """The token of an order page's form."""
    return page.partition('name="csrf_token" value="')[2].partition('"')[0]


@pytest.mark.slow(seconds=30)
def test_row_115_no_request_fails_and_no_callback_is_refused_during_an_upgrade(
    app: Flask, order: OrderFactory, start: Start, tmp_path: Path
) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=200)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = app.extensions["settings"]
    environment = {name.upper(): str(getattr(settings, name)) for name in ("amwal_project_url", "amwal_api_key")}
    environment |= {"AMWAL_PAYMENT_ORIGINS": "http://127.0.0.1:8001", "PUBLIC_URL": url, "DEMO": "on"}
    environment |= {"SECRET_KEY": settings.secret_key, "MAIL_URL": settings.mail_url}
    environment |= {"DATABASE_URL": settings.database_url, "SHOP_LOCALES": "en"}
    later = next_version(tmp_path / "later")
    ports = free_ports(2)

    def serve(port: int, root: Path = ROOT) -> Child:
        flask = ("-m", "flask", "--app", str(root / "app.py"))
        log = tmp_path / f"{port}-{root.name}.log"
        child = start(*flask, "serve", "--no-worker", "--port", str(port), log=log, env=environment)
        wait_for(f"http://127.0.0.1:{port}/readyz")
        return child

    set_stock("stoneware-cup", 2000)
    waiting = [order.awaiting(email=f"{number}@example.com") for number in range(120)]
    callbacks = [json.dumps(order.callback(one)).encode() for one in waiting]
    old = [serve(port) for port in ports]
    with closing(listener):
        Proxy(listener, ports)
        with load(url, callbacks) as failures:
            time.sleep(2)
            migrate = ("-m", "flask", "--app", str(later / "app.py"), "db", "upgrade")
            assert start(*migrate, log=tmp_path / "migrate.log", env=environment).wait(60) == 0
            time.sleep(2)
            for port, child in zip(ports, old, strict=True):
                child.terminate()
                assert child.wait(30) == 0
                serve(port, later)
                time.sleep(1)
    assert failures == []
    assert health.current_revision() == "4343eef67865"
    sent = len(waiting) - len(callbacks)
    assert sent > 30
    assert len(rows(Order, state=OrderState.PAID)) == sent
    assert not audit.violations()


def test_row_115_this_version_works_on_a_schema_with_one_more_migration(  # noqa: PLR0917  (fixtures)
    app: Flask,
    client: CheckingClient,
    order: OrderFactory,
    start: Start,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = app.extensions["settings"]
    later = next_version(tmp_path / "later")
    environment = {name.upper(): str(getattr(settings, name)) for name in ("amwal_project_url", "amwal_api_key")}
    environment |= {
        "SECRET_KEY": settings.secret_key,
        "DATABASE_URL": settings.database_url,
        "PUBLIC_URL": "http://127.0.0.1",
    }
    command = ("-m", "flask", "--app", str(later / "app.py"), "db", "upgrade")
    assert start(*command, log=tmp_path / "migrate.log", env=environment).wait(60) == 0
    assert client.get("/readyz").status_code == 200
    client.fill_basket()
    assert client.post("/checkout", data=client.checkout_form()).status_code == 303
    [placed] = rows(Order)
    order.pay(placed)
    worker.tick()
    assert order.again(placed).state is OrderState.PAID
    assert client.get("/statusz").status_code == 200
    result = app.test_cli_runner().invoke(args=["db", "upgrade"])
    assert result.exit_code == 1
    assert "4343eef67865" in caplog.text


@pytest.mark.sqlite
@pytest.mark.parametrize("command", [["db", "upgrade"], ["sample-shop"]])
@pytest.mark.parametrize("where", ["nowhere/shop.db", "folder", "text"])
def test_a_database_that_cannot_be_opened_is_one_line(
    new_app: Callable[..., Flask], tmp_path: Path, command: list[str], where: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not a database " * 100)
    wrong = new_app(DATABASE_URL=f"sqlite:///{tmp_path / where}")
    with wrong.app_context():
        result = wrong.test_cli_runner().invoke(args=command)
    assert result.exit_code == 1
    assert result.output.startswith("Error: The database can't be opened: ")
    assert result.output.count("\n") == 1
