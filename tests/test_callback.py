"""The callback, rows 1 to 16 of docs/faults.md: what arrives, what is answered, what is stored."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

import amwal
from models import Attention, CallbackAttempt, Delivery, Invoice, Order, OutboxMessage, Payment, digest
from shop import orders, payments
from shop.db import db, write
from shop.states import CUSTOMER, AttentionKind, CallbackOutcome, OrderState, OutboxKind, PaymentSource
from tests import vectors
from tests.conftest import CheckingClient, OrderFactory, attention, rows, set_stock, stock_of

URL = "/amwal/callback"


def post(client: CheckingClient, message: Any, **options: Any) -> int:
    """Send a callback's body, as JSON unless it is bytes; gives the status."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    options.setdefault("content_type", "application/json")
    return client.post(URL, data=body, **options).status_code


BY_CALLBACK = Payment(session_id="first", callback_id=1)
BY_HAND = Payment(session_id="", callback_id=None)
VERDICTS = [
    (("id-1", "first"), [], CallbackOutcome.ACCEPTED),
    (("", ""), [], CallbackOutcome.ACCEPTED),
    (("id-1", "first"), [BY_CALLBACK], CallbackOutcome.DUPLICATE),
    (("id-1", "second"), [BY_CALLBACK], CallbackOutcome.ACCEPTED),
    (("id-1", "any"), [BY_HAND], CallbackOutcome.DUPLICATE),
    (("id-2", "first"), [], CallbackOutcome.OTHER_INVOICE),
    (("id-2", "first"), [BY_CALLBACK], CallbackOutcome.OTHER_INVOICE),
]


@pytest.mark.parametrize(("ids", "payments_so_far", "outcome"), VERDICTS)
def test_what_a_callback_is_depends_on_its_ids_and_the_orders_payments(
    ids: tuple[str, str], payments_so_far: list[Payment], outcome: CallbackOutcome
) -> None:
    order = Order(invoice=Invoice(gateway_id="id-1"), payments=payments_so_far)
    assert payments.classify(amwal.Callback("secret", *ids), order).outcome is outcome
    assert payments.classify(amwal.Callback("secret", *ids), None).outcome is CallbackOutcome.UNKNOWN_SECRET
    unreadable = payments.Verdict(CallbackOutcome.MALFORMED, "no clean JSON")
    assert payments.classify(unreadable, order) is unreadable


FIXTURE = vectors.read("callbacks.json")["fixture"]


def in_state(order: OrderFactory, state: str) -> Order:
    """An order with the vectors' invoice, in the state that a vector names."""
    made = order.awaiting("brass-dallah")
    with write() as session:
        invoice = session.get_one(Order, made.id).invoice
        invoice.gateway_id, invoice.secret_digest = FIXTURE["invoiceId"], digest(FIXTURE["secret"])
    if state == "paid":
        assert payments.accept_callback(json.dumps(FIXTURE).encode(), "") is CallbackOutcome.ACCEPTED
    elif state == "cancelled":
        assert orders.cancel(made.id, CUSTOMER)
    elif state in ("expired", "sold-out"):
        order.run_out(made)
        assert orders.expire(made.id)
        set_stock("brass-dallah", 0 if state == "sold-out" else 1)
    else:
        assert state == "awaiting"
    return made


@vectors.each("callbacks.json")
def test_rows_1_to_15_every_callback_of_the_vectors(
    client: CheckingClient, order: OrderFactory, vector: dict[str, Any]
) -> None:
    made, expect = in_state(order, vector["order"]), vector["expect"]
    content_type = vector.get("contentType", "application/json")
    for _ in range(2):
        assert post(client, vectors.body(vector), content_type=content_type) == expect["status"]
        now = order.again(made)
        assert (now.state is OrderState.PAID, len(now.payments)) == (expect["paid"], expect["payments"])
        attempt = rows(CallbackAttempt)[-1]
        assert attempt.status == expect["status"]
        assert attempt.reason or attempt.status == 200
        assert FIXTURE["secret"] not in f"{attempt.body} {attempt.reason}".lower().replace("�", "")
        assert len(attempt.body) <= 500


def test_row_1_a_good_callback_pays_starts_the_delivery_and_queues_the_receipt(
    client: CheckingClient, order: OrderFactory
) -> None:
    waiting = order.awaiting()
    assert post(client, order.callback(waiting)) == 200
    paid = order.again(waiting)
    assert paid.state is OrderState.PAID
    assert paid.paid_at is not None
    assert not paid.paid_late
    [payment] = paid.payments
    assert (payment.amount, payment.source) == (paid.total, PaymentSource.CALLBACK)
    assert paid.delivery is not None
    assert rows(OutboxMessage, key=f"mail_receipt:{paid.id}")
    [attempt] = rows(CallbackAttempt)
    assert (attempt.outcome, attempt.status, attempt.order_id) == (CallbackOutcome.ACCEPTED, 200, paid.id)


def test_row_2_the_same_thirty_more_times_changes_nothing(client: CheckingClient, order: OrderFactory) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)
    assert [post(client, message) for _ in range(31)] == [200] * 31
    assert len(rows(Payment)) == 1
    assert len(rows(Delivery)) == 1
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT)) == 1
    assert len(rows(CallbackAttempt, outcome=CallbackOutcome.DUPLICATE)) == 30
    assert attention(AttentionKind.PAID_TWICE) is None


def test_row_3_fifty_copies_at_once_make_one_payment(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    message = json.dumps(order.callback(waiting)).encode()

    def send(_: int) -> int:
        return app.test_client().post(URL, data=message).status_code

    with ThreadPoolExecutor(16) as crowd:
        statuses = list(crowd.map(send, range(50)))
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 1
    while 503 in statuses:  # the gateway would repeat these
        statuses = [send(0)]
    assert len(rows(Payment)) == 1
    assert len(rows(Delivery)) == 1
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT)) == 1


def test_row_4_an_unknown_secret_is_recorded_and_counted_and_pays_nothing(
    client: CheckingClient, order: OrderFactory
) -> None:
    waiting = order.awaiting()
    forged = order.callback(waiting) | {"secret": "0927f7cc-98a7-4b67-a8b5-254fe46227dd"}
    assert [post(client, forged) for _ in range(3)] == [404] * 3
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
    item = attention(AttentionKind.UNKNOWN_SECRET)
    assert item is not None
    assert item.count == 3
    assert len(rows(Attention)) == 1
    assert all(attempt.order_id is None for attempt in rows(CallbackAttempt))


def test_row_5_an_early_callback_is_refused_and_its_retry_pays(
    app: Flask, client: CheckingClient, order: OrderFactory, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    early: list[int] = []
    store = payments._store

    def store_after_the_callback(order_id: int, started: Any, milliseconds: int, result: Any) -> None:
        known = gateway.invoice(result.id)
        message = {"invoiceId": known.id, "paymentSessionId": "6545360496c8b48eeab3837e", "secret": known.secret}
        early.append(post(client, message))
        store(order_id, started, milliseconds, result)

    monkeypatch.setattr(payments, "_store", store_after_the_callback)
    waiting = order.awaiting()
    assert early == [404]
    assert post(client, order.callback(waiting)) == 200
    assert order.again(waiting).state is OrderState.PAID


def test_row_6_the_right_secret_with_another_invoice_is_refused(client: CheckingClient, order: OrderFactory) -> None:
    waiting, other = order.awaiting(), order.awaiting()
    crossed = order.callback(waiting) | {"invoiceId": order.callback(other)["invoiceId"]}
    assert post(client, crossed) == 409
    assert not rows(Payment)
    item = attention(AttentionKind.OTHER_INVOICE)
    assert item is not None
    assert item.order_id == waiting.id


def test_row_7_a_second_payment_is_recorded_beside_the_first(client: CheckingClient, order: OrderFactory) -> None:
    waiting = order.awaiting()
    assert post(client, order.callback(waiting)) == 200
    assert post(client, order.callback(waiting, "another-session")) == 200
    assert [payment.session_id for payment in order.again(waiting).payments] == [
        "6545360496c8b48eeab3837e",
        "another-session",
    ]
    assert len(rows(Delivery)) == 1
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT)) == 1
    assert attention(AttentionKind.PAID_TWICE) is not None


@pytest.mark.parametrize("name", ["paymentSessionId", "invoiceId"])
@pytest.mark.parametrize("value", [None, True])
def test_row_8_a_missing_id_does_not_turn_money_away(
    client: CheckingClient, order: OrderFactory, name: str, value: object
) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting) | {name: value}
    if value is None:
        del message[name]
    assert post(client, message) == 200
    [payment] = order.again(waiting).payments
    assert payment.session_id == ("" if name == "paymentSessionId" else "6545360496c8b48eeab3837e")
    assert attention(AttentionKind.MISSING_IDS) is not None


def test_row_9_paid_after_the_reservation_ran_out_with_stock_left(client: CheckingClient, order: OrderFactory) -> None:
    before = stock_of("brass-dallah")
    late = order.expired("brass-dallah", 2)
    assert stock_of("brass-dallah") == before
    assert post(client, order.callback(late)) == 200
    paid = order.again(late)
    assert (paid.state, paid.paid_late, paid.reservation) == (OrderState.PAID, True, 2)
    assert stock_of("brass-dallah") == before - 2
    assert paid.delivery is not None


def test_row_10_paid_after_the_stock_was_sold(client: CheckingClient, order: OrderFactory) -> None:
    late = order.expired("brass-dallah", 2)
    set_stock("brass-dallah", 1)
    assert post(client, order.callback(late)) == 200
    review = order.again(late)
    assert review.state is OrderState.NEEDS_REVIEW
    assert len(review.payments) == 1
    assert review.delivery is None
    assert review.reservation == 1
    assert stock_of("brass-dallah") == 1
    assert attention(AttentionKind.PAID_SOLD_OUT) is not None


def test_row_10_paid_after_it_was_cancelled(client: CheckingClient, order: OrderFactory) -> None:
    cancelled = order.awaiting()
    assert orders.cancel(cancelled.id, CUSTOMER)
    assert post(client, order.callback(cancelled)) == 200
    review = order.again(cancelled)
    assert review.state is OrderState.NEEDS_REVIEW
    assert review.delivery is None
    assert attention(AttentionKind.PAID_CANCELLED) is not None


@pytest.mark.parametrize(
    "body",
    [
        b'{"Secret": "plain-text"}',
        b"{'secret': 'plain-text'}",
        b"secret=plain-text&invoiceId=1",
        b"secret: plain-text",
        b'{"secret": "plain-text',
        rb'{"s\u0065cret": "plain-text", "x": 1, "x": 2}',
        rb'{"\u0053\u0045\u0043\u0052\u0045\u0054": "plain-text", "x": 1, "x": 2}',
    ],
)
def test_row_11_a_secret_that_is_no_uuid_is_not_stored_either(client: CheckingClient, body: bytes) -> None:
    assert post(client, body) == 400
    [attempt] = rows(CallbackAttempt)
    assert "secret" in attempt.body.lower()
    assert "plain" not in attempt.body


@pytest.mark.parametrize("path", [URL, URL + "/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_row_14_other_methods_get_405_with_allow(client: CheckingClient, path: str, method: str) -> None:
    response = client.open(path, method=method)
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize("path", [URL, URL + "/"])
@pytest.mark.parametrize("base_url", ["http://127.0.0.1:9", "http://localhost:9"])
def test_row_14_both_paths_work_and_none_redirects(new_app: Any, gateway: Any, path: str, base_url: str) -> None:
    app = new_app(DEMO="on")
    with app.app_context():
        factory = OrderFactory(gateway)
        waiting = factory.awaiting()
        message = json.dumps(factory.callback(waiting))
        assert app.test_client().post(path, data=message, base_url=base_url).status_code == 200


def test_row_15_numbers_for_ids_are_taken_as_text(client: CheckingClient, order: OrderFactory) -> None:
    waiting = order.awaiting()
    assert post(client, order.callback(waiting) | {"paymentSessionId": 42}) == 200
    assert post(client, order.callback(waiting) | {"paymentSessionId": "42"}) == 200
    assert [payment.session_id for payment in rows(Payment)] == ["42"]


@pytest.mark.sqlite
def test_row_16_a_locked_database_is_a_503_that_writes_nothing_and_the_retry_pays(
    client: CheckingClient, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)
    with db.engines["write"].begin() as other:  # the pool of one: nobody else can write now
        monkeypatch.setattr(db.engines["write"].pool, "_timeout", 0.05)
        assert post(client, message) == 503
        other.rollback()
    assert not rows(CallbackAttempt)
    assert post(client, message) == 200


def test_a_failure_in_the_middle_leaves_nothing_half_written(
    client: CheckingClient, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)

    def disk_full(*_: object, **__: object) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    with monkeypatch.context() as patched:
        patched.setattr(payments, "enqueue", disk_full)
        assert post(client, message) == 503
    assert not rows(Payment)
    assert not rows(Delivery)
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
    assert post(client, message) == 200
    assert order.again(waiting).state is OrderState.PAID


def test_a_callback_is_stored_without_its_secret(client: CheckingClient, order: OrderFactory) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)
    post(client, message)
    post(client, message | {"secret": "an-unknown-secret"})
    kept = " ".join(f"{attempt.body} {attempt.reason}" for attempt in rows(CallbackAttempt))
    assert message["secret"] not in kept
    assert "an-unknown-secret" not in kept
    assert message["invoiceId"] in kept


def test_accepting_takes_eight_statements(client: CheckingClient, order: OrderFactory) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)
    statements: list[str] = []
    event.listen(db.engines["write"], "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert post(client, message) == 200
    assert len([one for one in statements if not one.startswith("BEGIN")]) <= 8
