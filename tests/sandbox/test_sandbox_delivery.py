"""Callbacks over HTTP, until the shop answers 200 or three days have passed."""

import json
import re
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sandbox import delivery
from sandbox.delivery import DeliveryWorker, Sending, next_attempt_at, seconds_after_first
from sandbox.records import Attempt, DeliveryState
from sandbox.store import Store

MakeInvoice = Callable[..., dict[str, Any]]
Eventually = Callable[[Callable[[], object]], None]


def attempts(store: Store, invoice_id: str) -> list[Attempt]:
    """Return an invoice's attempts."""
    return store.attempts_of([delivery.id for delivery in store.deliveries_of([invoice_id])])


def test_the_schedule_is_thirty_attempts_over_three_days_with_growing_gaps() -> None:
    times = [seconds_after_first(attempt) for attempt in range(1, 31)]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert len(times) == 30
    assert times[0] == 0
    assert sum(gaps) == times[-1] == 3 * 24 * 60 * 60
    assert all(longer > shorter for shorter, longer in pairwise(gaps))


def test_speed_divides_the_waiting_and_the_thirtieth_attempt_is_the_last() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    failed = Attempt(delivery_id=1, number=1, started_at=at, url="", seconds=9.0, status=500, reply="", error="")
    assert next_attempt_at(failed, 1) == at + timedelta(seconds=1)
    assert next_attempt_at(failed, 4) == at + timedelta(seconds=0.25)
    assert next_attempt_at(Attempt(**{**vars(failed), "number": 29}), 1) == at + timedelta(seconds=33_408)
    assert next_attempt_at(Attempt(**{**vars(failed), "number": 30}), 1) is None


def test_a_payment_sends_the_documented_body(
    invoice: MakeInvoice, store: Store, shop: Any, worker: DeliveryWorker, eventually: Eventually
) -> None:
    data = invoice()
    worker.start()
    store.pay(data["invoiceId"])
    eventually(lambda: shop.heard)
    [body] = shop.heard
    assert set(body) == {"invoiceId", "paymentSessionId", "secret"}
    assert (body["invoiceId"], body["secret"]) == (data["invoiceId"], data["secret"])
    assert re.fullmatch("[0-9a-f]{24}", body["paymentSessionId"])
    assert shop.headers[0]["Content-Type"] == "application/json"
    assert "Authorization" not in shop.headers[0]


def test_nothing_is_sent_before_the_payment(
    invoice: MakeInvoice, store: Store, shop: Any, worker: DeliveryWorker, eventually: Eventually
) -> None:
    unpaid, paid = invoice()["invoiceId"], invoice()["invoiceId"]
    worker.start()
    store.pay(paid)
    eventually(lambda: shop.heard)
    assert [body["invoiceId"] for body in shop.heard] == [paid]
    assert store.deliveries_of([unpaid]) == []


def test_it_is_retried_with_the_same_session_until_the_shop_answers_200(
    invoice: MakeInvoice, store: Store, shop: Any, worker: DeliveryWorker, eventually: Eventually
) -> None:
    shop.answers = [500, 404, 201, 204, 301, 200]
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    worker.start()
    eventually(lambda: store.deliveries_of([invoice_id])[0].state is DeliveryState.DELIVERED)
    assert [attempt.status for attempt in attempts(store, invoice_id)] == [500, 404, 201, 204, 301, 200]
    assert [attempt.number for attempt in attempts(store, invoice_id)] == [1, 2, 3, 4, 5, 6]
    assert len({body["paymentSessionId"] for body in shop.heard}) == 1
    worker.stop()
    assert len(shop.heard) == 6


def test_a_redirect_is_a_failure_and_not_followed(
    invoice: MakeInvoice, store: Store, shop: Any, worker: DeliveryWorker, eventually: Eventually
) -> None:
    shop.answers = [302, 307, 308, 200]
    shop.location = "/elsewhere"
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    worker.start()
    eventually(lambda: store.deliveries_of([invoice_id])[0].state is DeliveryState.DELIVERED)
    assert shop.paths == ["/amwal/callback"] * 4


def test_after_thirty_attempts_it_is_given_up(
    invoice: MakeInvoice, store: Store, shop: Any, worker: DeliveryWorker, eventually: Eventually
) -> None:
    shop.answers = [503]
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    worker.start()
    eventually(lambda: store.deliveries_of([invoice_id])[0].state is DeliveryState.GIVEN_UP)
    worker.stop()
    assert len(attempts(store, invoice_id)) == len(shop.heard) == 30


def test_a_restart_continues_the_retries(
    invoice: MakeInvoice, store: Store, shop: Any, database: Path, eventually: Eventually
) -> None:
    shop.answers = [503]
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    first = DeliveryWorker(store, Sending(20))  # the second attempt is due after 0.05 s, the third 0.55 s later
    first.start()
    eventually(lambda: len(attempts(store, invoice_id)) == 2)
    first.stop()

    [waiting] = store.deliveries_of([invoice_id])
    shop.answers = [200]
    again = Store(database)
    second = DeliveryWorker(again, Sending(20))
    second.start()
    eventually(lambda: again.deliveries_of([invoice_id])[0].state is DeliveryState.DELIVERED)
    second.stop()
    again.close()
    assert [attempt.number for attempt in attempts(store, invoice_id)] == [1, 2, 3]
    assert waiting.next_attempt_at
    assert attempts(store, invoice_id)[2].started_at >= waiting.next_attempt_at
    assert len({body["paymentSessionId"] for body in shop.heard}) == 1


def test_each_attempt_is_logged(
    invoice: MakeInvoice, store: Store, shop: Any, worker: DeliveryWorker, eventually: Eventually
) -> None:
    shop.answers = [500, 200]
    shop.reply = b"\xff\x00" + b"x" * 5000
    before = datetime.now(UTC)
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    worker.start()
    eventually(lambda: len(attempts(store, invoice_id)) == 2)
    for attempt in attempts(store, invoice_id):
        assert before <= attempt.started_at <= datetime.now(UTC)
        assert attempt.url == shop.callback_url
        assert 0 <= attempt.seconds < 5
        assert len(attempt.reply) == 2048
    assert json.loads(store.deliveries_of([invoice_id])[0].body) == shop.heard[0] == shop.heard[1]


def test_a_shop_that_is_down_or_answers_nonsense_is_a_failed_attempt(store: Store, invoice: MakeInvoice) -> None:
    store.pay(invoice()["invoiceId"])
    [waiting] = store.waiting_deliveries(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"

        def talk_nonsense() -> None:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(b"no http at all\r\n\r\n")
            connection.close()

        threading.Thread(target=talk_nonsense, daemon=True).start()
        nonsense = delivery.post(waiting, url, store.now())
    down = delivery.post(waiting, url, store.now())
    for attempt in (
        nonsense,
        down,
        delivery.post(waiting, "http://", store.now()),
        delivery.post(waiting, "http://[", store.now()),
    ):
        assert attempt.status is None
        assert attempt.error
        assert not attempt.succeeded


@pytest.mark.parametrize("status", [200, 500])
def test_a_reply_that_breaks_off_after_its_status_is_recorded(store: Store, invoice: MakeInvoice, status: int) -> None:
    store.pay(invoice()["invoiceId"])
    with socket.create_server(("127.0.0.1", 0)) as server:

        def break_off() -> None:
            connection, _ = server.accept()
            connection.recv(65536)
            head = f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(f"{head}5\r\nhello\r\nnonsense".encode())
            connection.close()

        threading.Thread(target=break_off, daemon=True).start()
        attempt = delivery.post(
            store.waiting_deliveries(1)[0], f"http://127.0.0.1:{server.getsockname()[1]}/", store.now()
        )
    assert attempt.status == status
    assert attempt.succeeded is (status == 200)
    assert attempt.error


def test_no_answer_in_time_is_a_failed_attempt(
    store: Store, invoice: MakeInvoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.1)
    store.pay(invoice()["invoiceId"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        attempt = delivery.post(
            store.waiting_deliveries(1)[0], f"http://127.0.0.1:{silent.getsockname()[1]}/", store.now()
        )
    assert attempt.status is None
    assert attempt.error == "no answer within 0.1 seconds"


def test_a_slow_answer_delays_no_other_callback(
    invoice: MakeInvoice, store: Store, shop: Any, worker: DeliveryWorker, eventually: Eventually
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow_url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        stuck, quick = invoice()["invoiceId"], invoice()["invoiceId"]
        store.keep_settings(callback_url=slow_url)
        store.pay(stuck)
        worker.start()
        held, _ = silent.accept()
        store.keep_settings(callback_url=shop.callback_url)
        store.pay(quick)
        eventually(lambda: store.deliveries_of([quick])[0].state is DeliveryState.DELIVERED)
        assert attempts(store, stuck) == []
        held.close()


def test_without_callback_url_nothing_is_sent(invoice: MakeInvoice, store: Store) -> None:
    store.keep_settings(callback_url="")
    invoice_id = invoice()["invoiceId"]
    assert store.pay(invoice_id)
    assert store.deliveries_of([invoice_id]) == []


def test_a_database_error_does_not_end_the_worker(
    invoice: MakeInvoice, store: Store, shop: Any, worker: DeliveryWorker, eventually: Eventually
) -> None:
    failed = threading.Event()

    def fail(limit: int) -> Any:
        failed.set()
        raise OSError("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "waiting_deliveries", fail)
        worker.start()
        assert failed.wait(5)
    store.pay(invoice()["invoiceId"])
    eventually(lambda: shop.heard)
