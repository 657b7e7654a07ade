"""Rows 34 and 56: callbacks are answered at once while the gateway is slow or down, customers check out, and slow
clients hang on."""

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

import pytest
import requests
from sqlalchemy import func, select

from models import GatewayCall, Order, Payment, Product
from sandbox.store import Store
from shop.db import db
from shop.ops import audit
from tests.children import Start, free_ports
from tests.conftest import OrderFactory
from tests.faults.customer import Customer, GoneHome
from tests.faults.deployment import Deployment, forget_connections

pytestmark = [pytest.mark.slow, pytest.mark.long]
ORDERS = 60
COPIES = 5  # of each callback
SLOW_CLIENTS = 50
CUSTOMERS = 10


@pytest.fixture
def deployment(start: Start, tmp_path: Path) -> Iterator[Deployment]:
    """A shop with one web process, and the sandbox gateway."""
    deployment = Deployment(start, tmp_path, f"sqlite:///{tmp_path / 'shop.db'}", free_ports(3), webs=1, workers=1)
    try:
        deployment.supply(1000)
        yield deployment
    finally:
        deployment.end()


def good_callbacks(deployment: Deployment) -> list[dict[str, str]]:
    """What the gateway would send for orders that wait to be paid."""
    store = Store(deployment.sandbox_database)
    with deployment.app.app_context():
        order = OrderFactory(store)
        messages = [order.callback(order.awaiting()) for _ in range(ORDERS)]
        forget_connections(deployment.app)
    store.close()
    return messages


@pytest.mark.parametrize("gateway", ["slow", "down"])
def test_rows_34_and_56_callbacks_are_answered_at_once(deployment: Deployment, gateway: str) -> None:
    messages = good_callbacks(deployment)
    with deployment.app.app_context():
        slugs = list(db.session.scalars(select(Product.slug).filter_by(active=True)))
        calls_before = db.session.scalar(select(func.count()).select_from(GatewayCall)) or 0
        forget_connections(deployment.app)
    if gateway == "slow":
        for _ in range(200):
            requests.post(f"{deployment.sandbox_url}/trouble", json={"case": "slow", "invoice": "next"}, timeout=10)
    else:
        deployment.sandbox.end()
    over = threading.Event()

    def check_out(number: int) -> None:
        while not over.wait(0.5):  # customers think between two orders
            number += CUSTOMERS
            customer = Customer(number, 7, deployment.webs, deployment.sandbox_url, slugs)
            customer.odd_answer, customer.plan = "", "walk away"
            try:
                next(customer.buy(), None)  # who gets no invoice goes home
            except (GoneHome, requests.RequestException):
                return

    customers = [threading.Thread(target=check_out, args=(n,), daemon=True) for n in range(CUSTOMERS)]
    with ExitStack() as hangers:
        for _ in range(SLOW_CLIENTS):
            port = int(deployment.webs[0].rpartition(":")[2])
            hanger = hangers.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            hanger.sendall(b"POST /amwal/callback HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 400\r\n\r\n{")
        for customer in customers:
            customer.start()
        time.sleep(2)  # until they wait for the gateway
        times = send_all(f"{deployment.webs[0]}/amwal/callback", messages)
        over.set()
    assert len(times) == ORDERS * COPIES
    p99 = quantiles(times, n=100)[98]
    print(f"gateway {gateway}: {len(times)} callbacks, median {median(times):.3f} s, p99 {p99:.3f} s")
    assert p99 < 1, sorted(times)[-10:]
    with deployment.app.app_context():
        assert db.session.scalar(select(func.count()).select_from(Payment)) == ORDERS
        assert (db.session.scalar(select(func.count()).select_from(Order)) or 0) > ORDERS  # customers were really at it
        assert calls_before >= ORDERS
        assert audit.violations() == []
        forget_connections(deployment.app)


def send_all(url: str, messages: list[dict[str, str]]) -> list[float]:
    """Send each callback several times, four at a time; return the seconds of each. Every answer must be 200."""
    waiting: queue.Queue[dict[str, str]] = queue.Queue()
    for message in messages * COPIES:
        waiting.put(message)
    times: list[float] = []
    odd: list[int] = []

    def send() -> None:
        with requests.Session() as session:
            while True:
                try:
                    message = waiting.get_nowait()
                except queue.Empty:
                    return
                started = time.monotonic()
                status = session.post(url, json=message, timeout=30).status_code
                times.append(time.monotonic() - started)
                if status != 200:
                    odd.append(status)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert odd == []
    return times
