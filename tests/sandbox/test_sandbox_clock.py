"""The project's clock: advancing it through days of retries, each at its own time."""

import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from sandbox import account
from sandbox.app import create_app, store_of
from sandbox.delivery import DeliveryWorker, Sending, seconds_after_first
from sandbox.records import Attempt, DeliveryState
from sandbox.store import Store

DAY = 24 * 60 * 60
MakeInvoice = Callable[..., dict[str, Any]]
Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture
def app(database: Path, shop: Any) -> Iterator[Flask]:
    """Sandbox at normal speed: only the clock makes retries due."""
    app = create_app(database=database, callback_url=shop.callback_url, api_key="test-key")
    yield app
    store_of(app).close()


@pytest.fixture
def worker(store: Store) -> Iterator[DeliveryWorker]:
    worker = DeliveryWorker(store)
    worker.start()
    yield worker
    worker.stop()


def later(client: FlaskClient, seconds: int) -> None:
    """Advance the clock through the form."""
    reply = client.post("/clock", data={"seconds": seconds})
    assert (reply.status_code, reply.location) == (303, "/#clock")


def state(store: Store, invoice_id: str) -> DeliveryState:
    [delivery] = store.deliveries_of([invoice_id])
    return delivery.state


def attempts(store: Store, invoice_id: str) -> list[Attempt]:
    return store.attempts_of([delivery.id for delivery in store.deliveries_of([invoice_id])])


def due_within(seconds: int) -> int:
    """Return the number of scheduled attempts within `seconds` after the first."""
    return sum(seconds_after_first(number) <= seconds for number in range(1, 31))


@pytest.mark.usefixtures("worker")
def test_a_shop_that_is_down_for_two_days_gets_the_callback_afterwards(
    client: FlaskClient, store: Store, invoice: MakeInvoice
) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused
        store.keep_settings(callback_url=f"http://127.0.0.1:{door.getsockname()[1]}/callback")
        invoice_id = invoice()["invoiceId"]
        store.pay(invoice_id)
        later(client, DAY)
        later(client, DAY)
        assert state(store, invoice_id) is DeliveryState.WAITING
        failed = attempts(store, invoice_id)
        assert {(attempt.status, attempt.error) for attempt in failed} == {(None, "no connection")}
        assert len(failed) == due_within(2 * DAY)

        door.listen()
        door.settimeout(5)
        store.move_clock(DAY // 2)
        heard, _ = door.accept()
        with heard:
            assert heard.recv(65536).startswith(b"POST /callback HTTP/1.1\r\n")
            heard.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        later(client, 1)  # also waits for the running attempt
    assert state(store, invoice_id) is DeliveryState.DELIVERED
    assert [attempt.succeeded for attempt in attempts(store, invoice_id)] == [*([False] * len(failed)), True]


@pytest.mark.usefixtures("worker")
def test_a_shop_that_answers_503_for_four_days_is_given_up_after_thirty_attempts(
    client: FlaskClient, store: Store, invoice: MakeInvoice, shop: Any
) -> None:
    shop.answers = [503]
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    for _ in range(4):
        later(client, DAY)
    assert state(store, invoice_id) is DeliveryState.GIVEN_UP
    assert len(attempts(store, invoice_id)) == len(shop.heard) == 30
    page = client.get("/").text
    for part in ("Callback given up", "30 of 30 attempts", "no more retries", "Send now"):
        assert part in page


@pytest.mark.usefixtures("worker")
def test_attempts_in_between_are_made_at_their_own_times(
    client: FlaskClient, store: Store, invoice: MakeInvoice, shop: Any
) -> None:
    shop.answers = [500]
    ids = [invoice()["invoiceId"] for _ in range(3)]
    for number, invoice_id in enumerate(ids):
        store.pay(invoice_id, tell_after=number * 1000)
    for _ in range(4):
        later(client, DAY)
    schedule = [seconds_after_first(number) for number in range(1, 31)]
    for invoice_id in ids:
        times = [attempt.started_at for attempt in attempts(store, invoice_id)]
        assert len(times) == 30
        for (sooner, then), (due, due_then) in zip(pairwise(times), pairwise(schedule), strict=True):
            assert 0 <= (then - sooner).total_seconds() - (due_then - due) < 1


def test_a_restart_keeps_the_clock_and_continues_the_retries(
    store: Store, invoice: MakeInvoice, shop: Any, database: Path, eventually: Eventually
) -> None:
    shop.answers = [503]
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    worker = DeliveryWorker(store)
    worker.start()
    store.move_clock(DAY)
    eventually(lambda: not store.clock_is_moving)
    worker.stop()
    [before] = store.deliveries_of([invoice_id])
    store.close()

    again = Store(database)
    assert abs(again.now() - datetime.now(UTC) - timedelta(days=1)) < timedelta(seconds=5)
    assert not again.clock_is_moving
    assert again.deliveries_of([invoice_id]) == [before]
    shop.answers = [200]
    worker = DeliveryWorker(again)
    worker.start()
    again.move_clock(DAY)
    eventually(lambda: state(again, invoice_id) is DeliveryState.DELIVERED)
    worker.stop()
    made = attempts(again, invoice_id)
    again.close()
    assert [attempt.number for attempt in made] == list(range(1, before.attempts_made + 2))
    assert before.next_attempt_at
    assert timedelta() <= made[-1].started_at - before.next_attempt_at < timedelta(seconds=1)


def test_the_clock_advances_while_callbacks_are_off_and_they_follow_later(
    client: FlaskClient, store: Store, invoice: MakeInvoice, request: pytest.FixtureRequest, eventually: Eventually
) -> None:
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    store.keep_settings(callbacks_on=False)
    request.getfixturevalue("worker")
    later(client, DAY)
    assert not store.clock_is_moving
    assert attempts(store, invoice_id) == []
    store.keep_settings(callbacks_on=True)
    eventually(lambda: state(store, invoice_id) is DeliveryState.DELIVERED)


@pytest.mark.usefixtures("worker")
def test_the_page_shows_the_time_once_the_clock_was_moved(client: FlaskClient, store: Store) -> None:
    assert "ahead of real time" not in client.get("/").text
    later(client, DAY)
    later(client, DAY)
    page = client.get("/").text
    assert f"{store.now():%Y-%m-%d}" in page
    assert "2 days ahead of real time" in page


def test_a_button_means_the_documented_time_however_fast_retries_run(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "WAIT_SECONDS", 0)
    monkeypatch.setitem(client.application.config, "SENDING", Sending(60))
    later(client, DAY)
    assert store.clock_goal == DAY / 60
    page = client.get("/").text
    assert "60 times as fast" in page
    assert "Advancing" in page  # no worker is running to do it


@pytest.mark.parametrize(
    "seconds", ["", "x", "0", "-3600", "1.5", "nan", "inf", "604801", "99999999999999999999", "9" * 5000]
)
def test_an_invalid_move_is_refused(client: FlaskClient, store: Store, seconds: str) -> None:
    reply = client.post("/clock", data={"seconds": seconds})
    assert reply.status_code == 422
    assert "Advance the clock by" in reply.text
    assert client.post("/clock").status_code == 422
    assert store.clock_goal == 0
