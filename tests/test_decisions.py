"""What staff decide: items of the queue, refunds, orders in review, payments found by comparing; and the inbox."""

import json
import re
from io import BytesIO
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select, text

from models import Attention, CallbackAttempt, Delivery, Heartbeat, Order, OutboxMessage, Payment, Refund, Staff, now
from shop import attention as queue
from shop import orders, refunds, shipping, staff, worker
from shop.db import db, write
from shop.ops import audit, restore
from shop.payments import STATUS_OF
from shop.refusals import Refusal, SoldOut
from shop.states import CUSTOMER, AttentionKind, CallbackOutcome, DeliveryState, OrderState, OutboxKind
from shop.views.dashboard.callbacks import CallbackList
from tests.conftest import CheckingClient, OrderFactory, attention, rows, set_stock, sign_in, stock_of
from tests.test_dashboard import explain, press, told

ITEM = "stoneware-cup"
PASSWORD = "four words are enough"
SECOND = "65453604ffffffffeeab3837"
ATTENTION, COMPARE, CALLBACKS = "/dashboard/attention", "/dashboard/compare", "/dashboard/callbacks"


@pytest.fixture
def maha(app: Flask, client: CheckingClient) -> Staff:
    """Somebody with a password, who is signed in."""
    staff.add("maha@example.com", "Maha", PASSWORD)
    found = staff.find("maha@example.com")
    assert found is not None
    sign_in(app, client, found.id)
    return found


def in_review(order: OrderFactory) -> Order:
    """An order that was paid after its buyer had cancelled it."""
    made = order.awaiting(ITEM)
    orders.cancel(made.id, CUSTOMER)
    order.pay(made)
    return order.again(made)


def paid(order: OrderFactory) -> Order:
    """An order that was paid in time."""
    made = order.awaiting(ITEM)
    order.pay(made)
    return order.again(made)


def set_delivery(order: Order, state: DeliveryState) -> None:
    """Bring the delivery of an order somewhere."""
    with write() as session:
        session.scalars(select(Delivery).filter_by(order_id=order.id)).one().state = state


# --- Refunds ---------------------------------------------------------------------------------------------------------


def refund(client: CheckingClient, order: Order, payment: Payment | None = None, **fields: str) -> Any:
    """Record a refund on the order's page."""
    page = f"/dashboard/orders/{order.number}"
    payment = payment or order.payments[0]
    typed = {"amount": "12.50", "reference": "TR-77", "note": "she changed her mind", "password": PASSWORD}
    return press(client, f"{page}/payments/{payment.id}/refunds", page, **typed | fields)


def test_a_refund_is_recorded_and_never_pretended(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    before, made = stock_of(ITEM), paid(order)
    page = client.get(f"/dashboard/orders/{made.number}").text
    assert "Amwal can't send money back. Send it by other means first, then record it here." in page
    assert refund(client, made).status_code == 303
    [stored] = rows(Refund)
    assert (stored.amount, stored.reference, stored.note) == (1250, "TR-77", "she changed her mind")
    assert stored.staff_id == maha.id
    assert order.again(made).state is OrderState.REFUNDED
    assert stock_of(ITEM) == before, "what wasn't handed over returns to the stock"
    assert ("Maha", "Refund recorded", "TR-77 · she changed her mind") in told(order.again(made))
    assert ("Maha", "Refunded", "") in told(order.again(made))
    assert "Record a refund" not in client.get(f"/dashboard/orders/{made.number}").text, "nothing is left"
    assert audit.violations() == []


@pytest.mark.parametrize(
    ("state", "returns"),
    [
        (DeliveryState.PREPARING, 1),
        (DeliveryState.READY, 1),
        (DeliveryState.SHIPPED, 0),
        (DeliveryState.DELIVERED, 0),
        (DeliveryState.COLLECTED, 0),
    ],
)
def test_goods_return_to_the_stock_unless_they_were_handed_over(
    app: Flask, order: OrderFactory, maha: Staff, state: DeliveryState, returns: int
) -> None:
    made = paid(order)
    set_delivery(made, state)
    left = stock_of(ITEM)
    refunds.record(made.payments[0].id, 1250, "", "by hand", maha.id)
    assert stock_of(ITEM) == left + returns
    assert audit.violations() == []


def test_an_order_is_refunded_once_all_its_money_is_back(app: Flask, order: OrderFactory, maha: Staff) -> None:
    made = order.awaiting(ITEM)
    order.pay(made)
    order.pay(made, paymentSessionId=SECOND)
    assert attention(AttentionKind.PAID_TWICE)
    first, second = order.again(made).payments
    refunds.record(second.id, 1000, "", "a part", maha.id)
    assert attention(AttentionKind.PAID_TWICE), "more is kept than the order costs"
    refunds.record(second.id, 250, "", "the rest", maha.id)
    assert attention(AttentionKind.PAID_TWICE) is None
    assert rows(Attention)[0].closed_by == maha.id
    assert order.again(made).state is OrderState.PAID
    refunds.record(first.id, 1249, "", "nearly all", maha.id)
    assert order.again(made).state is OrderState.PAID
    refunds.record(first.id, 1, "", "the last cent", maha.id)
    assert order.again(made).state is OrderState.REFUNDED
    with pytest.raises(Refusal):
        refunds.record(first.id, 1, "", "too much", maha.id)
    assert audit.violations() == []


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"amount": "12.51"}, "This is more than what is left of the payment."),
        ({"amount": "0"}, "This is more than what is left of the payment."),
        ({"amount": "12,50"}, "Enter an amount such as 12.50."),
        ({"amount": "-1"}, "Enter an amount such as 12.50."),
        ({"amount": "1e1"}, "Enter an amount such as 12.50."),
        ({"amount": "12.505"}, "Enter an amount such as 12.50."),
        ({"amount": ""}, "Enter an amount such as 12.50."),
        ({"note": " \u200b"}, "Enter what you did."),
        ({"password": "guess"}, "The password is wrong."),
        ({"password": ""}, "Enter your password."),
    ],
)
def test_a_refund_that_cannot_be_is_refused_at_its_field(
    client: CheckingClient, order: OrderFactory, maha: Staff, fields: dict[str, str], wrong: str
) -> None:
    made = paid(order)
    refused = refund(client, made, None, **fields)
    assert refused.status_code == 422
    assert wrong in refused.text
    assert 'value="TR-77"' in refused.text, "what was typed is kept"
    assert PASSWORD not in refused.text
    assert not rows(Refund)
    assert order.again(made).state is OrderState.PAID


def test_a_refund_belongs_to_a_payment_of_its_order(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    made, other = paid(order), paid(order)
    assert refund(client, made, other.payments[0]).status_code == 404
    assert refund(client, made, amount="١٢.٥٠").status_code == 303, "digits of any script"
    assert [one.payment_id for one in rows(Refund)] == [made.payments[0].id]


# --- Review ----------------------------------------------------------------------------------------------------------


def decide(client: CheckingClient, kind: AttentionKind, action: str = "", **fields: str) -> Any:
    """Press a button of the open item of a kind."""
    item = attention(kind)
    assert item is not None
    return press(client, f"{ATTENTION}/{item.id}{action}", ATTENTION, **{"note": "she still wants it"} | fields)


def test_an_order_in_review_is_handed_over_after_all(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    made = in_review(order)
    left = stock_of(ITEM)
    page = client.get(ATTENTION).text
    assert "The payment arrived after the order was cancelled." in page
    done = decide(client, AttentionKind.PAID_CANCELLED, "/release")
    assert done.headers["Location"] == f"/dashboard/orders/{made.number}"
    now_paid = order.again(made)
    assert (now_paid.state, now_paid.delivery.state) == (OrderState.PAID, DeliveryState.PREPARING)
    assert stock_of(ITEM) == left - 1
    assert attention(AttentionKind.PAID_CANCELLED) is None
    assert ("Maha", "Decided: the goods are handed over", "") in told(now_paid)
    assert ("Maha", "Settled: Paid after cancellation", "she still wants it") in told(now_paid)
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT)) == 1
    assert audit.violations() == []
    with pytest.raises(Refusal, match="decided already"):
        shipping.release(made.id, maha.id, "again")


def test_without_stock_nothing_is_promised(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    made = in_review(order)
    set_stock(ITEM, 0)
    refused = decide(client, AttentionKind.PAID_CANCELLED, "/release")
    assert "Not enough Stoneware Cup left." in client.follow(refused).text
    assert order.again(made).state is OrderState.NEEDS_REVIEW
    assert attention(AttentionKind.PAID_CANCELLED)
    assert not rows(Delivery)
    assert audit.violations() == []
    with pytest.raises(SoldOut):
        shipping.release(made.id, maha.id, "again")


def test_an_order_in_review_is_refunded(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    left, made = stock_of(ITEM), in_review(order)
    assert refund(client, made).status_code == 303
    assert order.again(made).state is OrderState.REFUNDED
    assert stock_of(ITEM) == left
    assert attention(AttentionKind.PAID_CANCELLED) is None
    assert audit.violations() == []


def test_a_note_alone_leaves_no_money_undecided(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    in_review(order)
    assert decide(client, AttentionKind.PAID_CANCELLED).status_code == 404
    assert attention(AttentionKind.PAID_CANCELLED)


# --- The queue -------------------------------------------------------------------------------------------------------


def test_each_kind_says_what_happened_and_what_to_do_the_most_urgent_first(client: CheckingClient, maha: Staff) -> None:
    with write() as session:
        for kind in reversed(AttentionKind):
            queue.flag(session, kind, f"of {kind.value}", "a detail")
    page = client.get(ATTENTION).text
    assert page.count("<dt>What happened</dt>") == page.count("<dt>What to do</dt>") == len(AttentionKind)
    places = [page.index(f'id="{kind.value}"') for kind in AttentionKind]
    assert places == sorted(places)
    assert f'count-open">{len(AttentionKind)}</span>' in page


def test_an_item_is_settled_with_a_note_and_a_name(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    made = order.awaiting()
    with write() as session:
        queue.flag(session, AttentionKind.POSSIBLY_PAID, made.number, "", made.id)
    assert decide(client, AttentionKind.POSSIBLY_PAID, note="").status_code == 422
    assert attention(AttentionKind.POSSIBLY_PAID)
    assert decide(client, AttentionKind.POSSIBLY_PAID, act="told", note="not paid").status_code == 303
    [item] = rows(Attention)
    assert (item.closed_by, item.resolution) == (maha.id, "Told the customer: not paid")
    settled = client.get(f"{ATTENTION}?settled=1").text
    assert "Told the customer: not paid" in settled
    assert "Maha" in settled
    assert press(client, f"{ATTENTION}/{item.id}", ATTENTION, note="again").status_code == 404
    assert "Nothing needs your attention." in client.get(ATTENTION).text


def test_many_of_a_kind_crowd_nothing_out(client: CheckingClient, maha: Staff) -> None:
    """Anybody can cause *possibly paid*, and a payment that arrived twice must still be seen."""
    with write() as session:
        for number in range(70):
            queue.flag(session, AttentionKind.POSSIBLY_PAID, f"subject {number}")
        queue.flag(session, AttentionKind.PAID_TWICE, "A-1001")
    page = client.get(ATTENTION).text
    assert page.count("subject ") == 20
    assert page.index("A-1001") < page.index("subject 0")
    first = client.get(f"{ATTENTION}?kind=possibly_paid").text
    assert first.count("subject ") == 50
    assert "A-1001" not in first
    [link] = re.findall(r'class="paging"><a [^>]*href="([^"]*)"', first)
    assert client.get(link.replace("&amp;", "&")).text.count("subject ") == 20


def test_a_kind_that_only_a_later_version_knows_can_be_read_and_settled(client: CheckingClient, maha: Staff) -> None:
    with write() as session:
        queue.flag(session, AttentionKind.PAID_TWICE, "A-1001", "words of a later version")
        session.execute(text("UPDATE attention SET kind = 'stolen'"))
    page = client.get(ATTENTION).text
    assert "words of a later version" in page
    [item] = rows(Attention)
    assert press(client, f"{ATTENTION}/{item.id}", ATTENTION, note="seen").status_code == 303


# --- Comparing -------------------------------------------------------------------------------------------------------


def compare(client: CheckingClient, ids: str, **fields: Any) -> Any:
    """Send a list."""
    return client.post(COMPARE, data={"ids": ids, "csrf_token": client.csrf_token(COMPARE)} | fields)


def confirm(client: CheckingClient, gateway_id: str, **fields: str) -> Any:
    """Confirm a payment that was seen in the account."""
    typed = {"gateway_id": gateway_id, "note": "seen in the account", "password": PASSWORD}
    return press(client, f"{COMPARE}/confirmation", COMPARE, **typed | fields)


def test_row_65_a_missed_callback_is_found_by_comparing_and_confirmed(
    client: CheckingClient, order: OrderFactory, maha: Staff
) -> None:
    missed, known, unknown = order.awaiting(), paid(order), "65448ddef4924a5dd1b241a9"
    ids = f"x {missed.invoice.gateway_id}\n{known.invoice.gateway_id.upper()};12.50\n{unknown}\nnothing here"
    page = compare(client, ids).text
    for heading, count in (("Paid there, unpaid here", 1), ("Paid there, unknown here", 1), ("Paid in both", 1)):
        assert f'{heading} <span class="count">{count}</span>' in page
    assert missed.number in page
    assert known.number not in page
    assert "1 line without an id" in page
    assert order.again(missed).state is OrderState.AWAITING_PAYMENT, "comparing changes nothing"
    for fields in ({"note": ""}, {"password": "guess"}):
        refused = confirm(client, missed.invoice.gateway_id, **fields)
        assert refused.status_code == 422
        assert "aria-invalid" in refused.text
    assert not order.again(missed).payments
    done = confirm(client, missed.invoice.gateway_id)
    assert done.headers["Location"] == f"/dashboard/orders/{missed.number}"
    assert order.again(missed).state is OrderState.PAID
    [payment] = order.again(missed).payments
    assert (payment.staff_id, payment.note) == (maha.id, "seen in the account")
    assert ("Maha", "Payment confirmed by hand", "seen in the account") in told(order.again(missed))
    again = confirm(client, missed.invoice.gateway_id)
    assert "the order has a payment already" in client.follow(again).text
    assert order.pay(missed) is CallbackOutcome.DUPLICATE
    assert audit.violations() == []


def test_a_list_comes_as_a_file_too(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    missed = order.awaiting()
    for encoding in ("utf-8-sig", "utf-16"):
        content = f"id;amount\n{missed.invoice.gateway_id};12,50\n".encode(encoding)
        page = compare(client, "", file=(BytesIO(content), "paid.csv")).text
        assert missed.number in page
    assert missed.invoice.gateway_id in page.partition("</textarea>")[0], "it can be sent again without the file"


@pytest.mark.parametrize("ids", ["", "nothing here", "\u200b"])
def test_a_list_without_an_id_is_refused(client: CheckingClient, maha: Staff, ids: str) -> None:
    refused = compare(client, ids)
    assert refused.status_code == 422
    assert "There is no invoice id in it." in refused.text


def test_a_restore_is_compared_until_somebody_says_that_it_was_all(
    app: Flask, client: CheckingClient, order: OrderFactory, maha: Staff
) -> None:
    lost, known = order.awaiting(), paid(order)
    with write() as session:
        restore.mark(session)
    page = client.get("/dashboard/orders").text
    assert "A backup was restored, and payments since" in page
    ids = f"{lost.invoice.gateway_id}\n{known.invoice.gateway_id}\n65448ddef4924a5dd1b241a9"
    assert compare(client, ids).status_code == 200
    assert attention(AttentionKind.RESTORED), "a part of the list ends nothing"
    wrong = compare(client, ids, total="4")
    assert wrong.status_code == 422
    assert "There are 3 in the list: some are missing, or there are too many." in wrong.text
    assert compare(client, ids, total="3").headers["Location"] == ATTENTION
    assert attention(AttentionKind.RESTORED) is None
    assert rows(Attention, kind=AttentionKind.RESTORED)[0].closed_by == maha.id
    assert attention(AttentionKind.PAID_UNCONFIRMED).subject == lost.number
    assert attention(AttentionKind.PAID_UNKNOWN).subject == "65448ddef4924a5dd1b241a9"
    assert "A backup was restored, and payments since" not in client.get("/dashboard/orders").text


def test_nothing_paid_at_all_ends_a_comparison_too(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    order.awaiting()
    with write() as session:
        restore.mark(session)
    assert compare(client, "", total="0").headers["Location"] == ATTENTION
    assert attention(AttentionKind.RESTORED) is None


def test_a_list_does_not_repeat_a_secret_that_was_pasted_with_it(
    app: Flask, client: CheckingClient, order: OrderFactory, maha: Staff
) -> None:
    made = order.awaiting()
    key = app.extensions["settings"].amwal_api_key
    page = compare(client, f"{made.invoice.gateway_id}\nAPI key: {key}").text
    shown = page.partition("without an id")[2]
    assert "1 line" in page
    assert key not in shown


# --- The inbox -------------------------------------------------------------------------------------------------------


def test_the_inbox_shows_each_outcome_with_its_answer_and_reason(
    client: CheckingClient, order: OrderFactory, maha: Staff
) -> None:
    made = order.awaiting()
    secret = order.callback(made)["secret"]
    order.pay(made)
    order.pay(made)
    order.pay(made, invoiceId="another")
    bodies = (b"nonsense", b"x" * 9000, json.dumps({"secret": "nobody's"}).encode())
    for body in bodies:
        client.post("/amwal/callback", data=body)
    page = client.get(CALLBACKS).text
    outcomes = [one for one in CallbackOutcome if one is not CallbackOutcome.TOO_MANY]
    assert {one.outcome for one in rows(CallbackAttempt)} == set(outcomes)
    for outcome in outcomes:
        words = f"{STATUS_OF[outcome]} · {outcome.label}"
        assert f">{words}</span>" in page
        only = client.get(f"{CALLBACKS}?outcome={outcome.value}").text
        assert only.count('class="badge badge-answer') == 1
        assert words in only
    for attempt in rows(CallbackAttempt):
        shown = client.get(f"{CALLBACKS}/{attempt.id}").text
        assert attempt.reason.replace("'", "&#39;") in shown
        assert attempt.order is None or made.number in shown
        assert secret not in shown
    assert secret not in page


def test_the_inbox_is_searched_by_order_and_invoice(client: CheckingClient, order: OrderFactory, maha: Staff) -> None:
    one, other = paid(order), paid(order)
    client.post("/amwal/callback", data=json.dumps({"secret": "nobody's", "invoiceId": "of-nobody"}))

    def found(query: str) -> int:
        return client.get(CALLBACKS, query_string={"q": query}).text.count('class="badge badge-answer')

    queries = (one.number, other.invoice.gateway_id, one.invoice.gateway_id.upper(), "of-nobody", "A-9999", "nothing")
    assert [found(query) for query in queries] == [1, 1, 1, 1, 0, 0]


def test_the_inbox_says_what_is_dropped_and_why_nothing_is_replayed(client: CheckingClient, maha: Staff) -> None:
    page = client.get(CALLBACKS).text
    days, most = worker.MISSES_KEPT_FOR.days, f"{worker.MISSES_KEPT:,}"
    assert f"They are deleted after {days} days, and beyond the newest {most}" in page
    assert "There is no button to replay a callback: its secret is not stored" in page
    gone = client.get(f"{CALLBACKS}/77")
    assert gone.status_code == 404
    assert "Callbacks without a known secret are deleted after a while; all others are kept." in gone.text


@pytest.mark.parametrize(
    "wanted",
    [
        *(CallbackList(outcome=outcome) for outcome in CallbackOutcome),
        *(CallbackList(query) for query in ("A-1001", "65448ddef4924a5dd1b241a9")),
        CallbackList("A-1001", CallbackOutcome.ACCEPTED),
    ],
    ids=lambda wanted: "&".join(wanted.args.values()),
)
def test_every_list_of_callbacks_uses_an_index(
    app: Flask, client: CheckingClient, maha: Staff, order: OrderFactory, wanted: CallbackList
) -> None:
    paid(order)
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM callback_attempt" in statement:
            statements.append((statement, parameters))

    event.listen(db.engine, "before_cursor_execute", note)
    client.get(CALLBACKS, query_string=wanted.args)
    event.remove(db.engine, "before_cursor_execute", note)
    [(statement, parameters)] = statements
    with db.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))
        plan = explain(connection, statement, parameters)
    assert not re.search(r"SCAN callback_attempt(?! USING)|Seq Scan on callback_attempt", plan), plan


# --- What is wrong with the shop -------------------------------------------------------------------------------------


def test_row_67_a_silent_worker_is_said_on_every_page(client: CheckingClient, maha: Staff) -> None:
    words = "The worker isn't running"
    assert words in client.get("/dashboard/orders").text
    worker.tick()
    assert words not in client.get("/dashboard/orders").text
    with write() as session:
        session.get_one(Heartbeat, "worker").at = now() + worker.DIGEST_EVERY
    assert words in client.get("/dashboard/settings").text, "a time in the future is no sign of life"
