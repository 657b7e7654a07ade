"""`flask audit`: each broken invariant is reported, and nothing else is; a sound shop is left in peace, even in a rush.

What the shop's code and the database's constraints make impossible is planted by hand here, as a bug or a careless
repair would leave it.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import Connection, event, inspect, text

from models import (
    Attention,
    CallbackAttempt,
    Delivery,
    Heartbeat,
    Order,
    OrderLine,
    OutboxMessage,
    Payment,
    Refund,
    StockMovement,
    now,
)
from shop import orders, payments, reconcile, refunds, shipping, worker
from shop.db import db, engine, sqlite_library, write
from shop.limits import UNLIMITED
from shop.ops import audit, restore
from shop.ops.audit import Finding
from shop.states import CUSTOMER, WORKER, CallbackOutcome, DeliveryState, OrderState
from tests.children import ROOT
from tests.conftest import OrderFactory, rows, set_stock

ITEM, OTHER = "stoneware-cup", "brass-dallah"


@pytest.fixture(autouse=True)
def alive(app: Flask) -> None:
    """A worker that was here a moment ago."""
    with write() as session:
        session.add(Heartbeat(name="worker", at=now()))


def report(app: Flask) -> list[str]:
    """Run the command. Gives the lines that are not `ok`; what holds for all, and the exit code, is checked."""
    result = app.test_cli_runner().invoke(args=["audit"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    *lines, summary = result.output.splitlines()
    levels = [line[:5].strip() for line in lines]
    assert len(lines) == len([one for one in audit.CHECKS if one.only in ("", engine().dialect.name)])
    assert all(line.endswith(": none") == (level == "ok") for line, level in zip(lines, levels, strict=True)), lines
    assert summary == f"{levels.count('FAIL')} failed, {levels.count('warn')} to look at, {levels.count('ok')} fine."
    assert result.exit_code == (1 if "FAIL" in levels else 0)
    return [line for line, level in zip(lines, levels, strict=True) if level != "ok"]


def broken(number: int, words: str) -> str:
    """The line of an invariant that does not hold."""
    return f"FAIL  {number:2}  {words}"


def plant(*statements: str, losing: str = "") -> None:
    """Change rows by hand, after the table `losing` has lost all its constraints."""
    if losing:
        lose_constraints(losing)
    with write() as session:
        for statement in statements:
            session.execute(text(statement))


def lose_constraints(table: str) -> None:
    """Leave a table with its rows and its primary key."""
    if engine().dialect.name == "postgresql":
        found = inspect(engine())
        kinds = (found.get_unique_constraints, found.get_check_constraints, found.get_foreign_keys)
        for name in [one["name"] for kind in kinds for one in kind(table)]:
            plant(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
        for one in found.get_columns(table):
            if one["name"] != "id":
                plant(f'ALTER TABLE {table} ALTER "{one["name"]}" DROP NOT NULL')
        return
    columns = ", ".join(f'"{one["name"]}"' for one in inspect(engine()).get_columns(table) if one["name"] != "id")
    with closing(sqlite_library().connect(engine().url.database)) as raw:  # whose foreign keys are off
        raw.executescript(
            f"CREATE TABLE bare (id INTEGER PRIMARY KEY, {columns});"
            f"INSERT INTO bare (id, {columns}) SELECT id, {columns} FROM {table};"
            f"DROP TABLE {table}; ALTER TABLE bare RENAME TO {table};"
        )


def copy(table: str, where: str = "1 = 1", **changes: str) -> str:
    """A statement that repeats rows of a table, with other values in some columns."""
    names = [one["name"] for one in inspect(engine()).get_columns(table) if one["name"] != "id"]
    values = ", ".join(changes.get(name, name) for name in names)
    return f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {table} WHERE {where}"


def paid(order: OrderFactory, slug: str = ITEM, quantity: int = 1) -> Order:
    """An order that was paid in time."""
    waiting = order.awaiting(slug, quantity)
    assert order.pay(waiting) is CallbackOutcome.ACCEPTED
    return order.again(waiting)


def in_review(order: OrderFactory) -> Order:
    """An order that was paid after its buyer had cancelled it."""
    waiting = order.awaiting()
    orders.cancel(waiting.id, CUSTOMER)
    assert order.pay(waiting) is CallbackOutcome.ACCEPTED
    return order.again(waiting)


def refund(order_id: int, staff: int) -> None:
    """Record that all the money was sent back."""
    for payment in rows(Payment, order_id=order_id):
        refunds.record(payment.id, payment.amount, "", "by hand", staff)


def release(order_id: int, staff: int) -> None:
    """Let an order that is in review go out after all."""
    shipping.release(order_id, staff, "there is one left")


def send(order_id: int) -> None:
    """Hand the parcel over."""
    with write() as session:
        orders.lock(session, order_id).delivery.state = DeliveryState.SHIPPED


# --- What is right is left in peace ----------------------------------------------------------------------------------


def live_a_little(order: OrderFactory, staff: int) -> None:
    """Bring orders into every state, by every way that leads there."""
    order.placed()
    order.awaiting()
    paid(order, quantity=2)
    orders.record_return(order.awaiting().id)
    late = order.expired(OTHER, 2)
    order.pay(late)
    twice = paid(order)
    order.pay(twice, paymentSessionId="another")
    order.pay(twice, paymentSessionId="another")
    order.pay(order.awaiting(), paymentSessionId="", invoiceId="")
    in_review(order)
    gone = order.expired(OTHER, 3)
    set_stock(OTHER, 1)
    order.pay(gone)
    set_stock(OTHER, 9)
    order.expired()
    resumed = order.expired()
    orders.resume(resumed.id, UNLIMITED)
    order.run_out(resumed)
    orders.expire(resumed.id)
    orders.resume(resumed.id, UNLIMITED)
    order.pay(resumed)
    never_asked = order.placed()
    order.run_out(never_asked)
    orders.expire(never_asked.id)
    orders.resume(never_asked.id, UNLIMITED)
    orders.cancel(order.placed().id, CUSTOMER)
    refund(in_review(order).id, staff)
    release(in_review(order).id, staff)
    refund(paid(order, OTHER).id, staff)
    sent = paid(order)
    send(sent.id)
    refund(sent.id, staff)
    order.pay(sent, paymentSessionId="another")
    by_hand = order.awaiting()
    assert reconcile.confirm_by_hand(by_hand.invoice.gateway_id, staff, "seen in the account")
    assert order.pay(by_hand) is CallbackOutcome.DUPLICATE
    assert reconcile.confirm_by_hand(order.expired().invoice.gateway_id, staff, "seen in the account")
    till = order.placed()
    with write() as session:
        session.add(OrderLine(order_id=till.id, kind="custom", name={"en": "Tea"}, quantity=2, price=150))
        orders.lock(session, till.id).total += 300
    payments.request_invoice(till.id)
    for body in (b"", b"{}", b"x" * 9000, json.dumps(order.callback(till) | {"secret": "nobody's"}).encode()):
        payments.accept_callback(body, "127.0.0.1")
    order.pay(till, invoiceId="another")
    worker.tick()


def test_a_shop_with_orders_in_every_state_is_left_in_peace(app: Flask, order: OrderFactory, staff: int) -> None:
    live_a_little(order, staff)
    assert {one.state for one in rows(Order)} == set(OrderState)
    assert {one.outcome for one in rows(CallbackAttempt)} == set(CallbackOutcome) - {CallbackOutcome.TOO_MANY}
    assert report(app) == []
    assert audit.violations() == []


def test_an_empty_shop_is_left_in_peace(app: Flask) -> None:
    assert report(app) == []


# --- What is wrong is reported, and nothing else ---------------------------------------------------------------------


def test_invariant_1_an_accepted_callback_has_its_payment(app: Flask, order: OrderFactory) -> None:
    paid(order)
    plant(copy("callback_attempt"))
    assert report(app) == [broken(1, "callbacks accepted without their payment: 1 (callback 2)")]


@pytest.mark.parametrize("outcome", ["duplicate", "unknown_secret"])
def test_invariant_1_no_other_callback_gets_a_200_without_a_payment(
    app: Flask, order: OrderFactory, outcome: str
) -> None:
    paid(order)
    plant(copy("callback_attempt", outcome=f"'{outcome}'", session_id="'another'"))
    assert report(app) == [broken(1, "callbacks accepted without their payment: 1 (callback 2)")]


def test_invariant_1_a_payment_rests_on_an_accepted_callback(app: Flask, order: OrderFactory) -> None:
    paid(order)
    plant("UPDATE callback_attempt SET outcome = 'duplicate'")
    assert report(app) == [broken(1, "payments without an accepted callback or member of staff: 1 (payment 1)")]


@pytest.mark.parametrize("person", ["NULL", "99"])
def test_invariant_1_or_on_a_named_person(app: Flask, order: OrderFactory, staff: int, person: str) -> None:
    reconcile.confirm_by_hand(order.awaiting().invoice.gateway_id, staff, "seen in the account")
    plant(f"UPDATE payment SET staff_id = {person}", losing="payment")
    assert report(app) == [broken(1, "payments without an accepted callback or member of staff: 1 (payment 1)")]


def test_invariant_2_a_paid_order_has_a_payment(app: Flask, order: OrderFactory, staff: int) -> None:
    refund(in_review(order).id, staff)
    review = in_review(order)
    plant("DELETE FROM refund", "DELETE FROM payment", "DELETE FROM callback_attempt")
    assert report(app) == [broken(2, f"paid orders without a payment: 2 (A-1001, {review.number})")]


def test_invariant_2_a_payments_order_is_paid(app: Flask, order: OrderFactory, staff: int) -> None:
    waiting = order.awaiting()
    columns = "order_id, session_id, amount, source, staff_id, note, received_at"
    plant(
        f"INSERT INTO payment ({columns}) SELECT id, '', total, 'manual', {staff}, '', placed_at FROM orders "
        f"WHERE id = {waiting.id}"
    )
    assert report(app) == [broken(2, "payments of orders that are not paid: 1 (payment 1)")]


def test_invariant_2_a_payment_is_written_once(app: Flask, order: OrderFactory) -> None:
    twice = paid(order)
    order.pay(twice, paymentSessionId="another")
    plant("UPDATE payment SET session_id = 'same'", losing="payment")
    assert report(app) == [broken(2, f"payments written twice: 1 ({twice.number})")]


def test_invariant_3_a_paid_order_has_a_delivery(app: Flask, order: OrderFactory) -> None:
    number = paid(order).number
    plant("DELETE FROM delivery")
    assert report(app) == [broken(3, f"orders without exactly the delivery that is due: 1 ({number})")]


def test_invariant_3_and_only_one(app: Flask, order: OrderFactory) -> None:
    number = paid(order).number
    plant(copy("delivery"), losing="delivery")
    assert report(app) == [broken(3, f"orders without exactly the delivery that is due: 1 ({number})")]


def test_invariant_3_nothing_is_sent_while_a_person_must_decide(app: Flask, order: OrderFactory) -> None:
    review = in_review(order)
    with write() as session:
        session.add(Delivery(order_id=review.id))
    assert report(app) == [broken(3, f"orders without exactly the delivery that is due: 1 ({review.number})")]


def test_invariant_3_no_delivery_without_a_payment(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    with write() as session:
        session.add(Delivery(order_id=waiting.id))
    assert report(app) == [
        broken(3, f"orders without exactly the delivery that is due: 1 ({waiting.number})"),
        broken(3, "deliveries without a payment: 1 (delivery 1)"),
    ]


def test_invariant_4_stock_is_the_sum_of_its_ledger(app: Flask) -> None:
    plant("UPDATE product SET stock = stock + 1 WHERE id IN (2, 5)", "DELETE FROM stock_movement WHERE product_id = 7")
    assert report(app) == [broken(4, "stock other than its ledger's sum: 3 (product 2, product 5, product 7)")]


def test_invariant_4_stock_is_never_below_nothing(app: Flask) -> None:
    change = "UPDATE product SET stock = -1 WHERE id = 3"
    ledger = "UPDATE stock_movement SET quantity = -1 WHERE product_id = 3"
    plant(change, ledger, losing="product")
    assert report(app) == [broken(4, "stock below nothing: 1 (product 3)")]


def test_invariant_4_no_reservation_is_in_the_ledger_twice(app: Flask, order: OrderFactory) -> None:
    late = order.expired()  # taken and returned: twice each, they still come to nothing
    plant(copy("stock_movement", f"order_id = {late.id}"), losing="stock_movement")
    assert report(app) == [broken(4, f"ledger rows written twice: 1 ({late.number})")]


def test_invariant_5_an_unpaid_order_holds_its_units(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting(OTHER, 3)
    plant(
        f"DELETE FROM stock_movement WHERE order_id = {waiting.id}",
        f"UPDATE product SET stock = stock + 3 WHERE slug = '{OTHER}'",
    )
    assert report(app) == [broken(5, f"orders holding other units than the ledger says: 1 ({waiting.number})")]


def test_invariant_5_no_more_and_no_fewer_than_it_needs(app: Flask, order: OrderFactory) -> None:
    held = paid(order, OTHER, 3)
    plant(
        f"UPDATE stock_movement SET quantity = -2 WHERE order_id = {held.id}",
        f"UPDATE product SET stock = stock + 1 WHERE slug = '{OTHER}'",
    )
    assert report(app) == [broken(5, f"orders holding other units than the ledger says: 1 ({held.number})")]


@pytest.mark.parametrize("end", [OrderState.EXPIRED, OrderState.CANCELLED])
def test_invariant_5_an_order_that_ended_holds_none(app: Flask, order: OrderFactory, end: OrderState) -> None:
    over = order.awaiting(OTHER)
    with write() as session:
        actor = WORKER if end is OrderState.EXPIRED else CUSTOMER
        orders.transition(session, orders.lock(session, over.id), end, actor)
    assert report(app) == [broken(5, f"orders holding other units than the ledger says: 1 ({over.number})")]


def test_invariant_5_a_refund_before_the_goods_went_out_gives_them_back(
    app: Flask, order: OrderFactory, staff: int
) -> None:
    kept = paid(order)
    send(kept.id)
    refund(kept.id, staff)
    plant("UPDATE delivery SET state = 'preparing'")
    assert report(app) == [broken(5, f"orders holding other units than the ledger says: 1 ({kept.number})")]


def test_invariant_5_no_units_are_held_for_no_order(app: Flask, order: OrderFactory) -> None:
    late = order.expired()
    held = [row.id for row in rows(StockMovement, order_id=late.id)]
    plant("UPDATE stock_movement SET order_id = NULL, reservation = NULL WHERE order_id IS NOT NULL")
    names = ", ".join(f"ledger row {one}" for one in held)
    assert report(app) == [broken(5, f"ledger rows holding units for no order: 2 ({names})")]


def test_invariant_6_a_total_is_the_sum_of_its_lines(app: Flask, order: OrderFactory) -> None:
    waiting, bare = order.awaiting(), order.placed()
    plant(
        f"UPDATE order_line SET price = price + 1 WHERE order_id = {waiting.id} AND kind = 'product'",
        f"DELETE FROM order_line WHERE order_id = {bare.id} AND kind = 'delivery'",  # which was free
    )
    assert report(app) == [broken(6, f"totals other than the sum of their lines: 1 ({waiting.number})")]


def test_invariant_6_an_order_without_lines_comes_to_nothing(app: Flask, order: OrderFactory) -> None:
    review = in_review(order)
    plant(f"DELETE FROM order_line WHERE order_id = {review.id}")
    assert report(app) == [broken(6, f"totals other than the sum of their lines: 1 ({review.number})")]


def test_invariant_6_an_invoice_is_over_the_total(app: Flask, order: OrderFactory) -> None:
    order.awaiting()
    plant("UPDATE invoice SET amount = amount + 1")
    assert report(app) == [broken(6, "invoices over another amount than the order: 1 (invoice 1)")]


def test_invariant_6_and_so_is_a_payment(app: Flask, order: OrderFactory) -> None:
    paid(order)
    plant("UPDATE payment SET amount = amount - 1")
    assert report(app) == [broken(6, "payments over another amount than the order: 1 (payment 1)")]


def test_invariant_7_an_order_has_one_invoice(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    plant(copy("invoice", gateway_id="'another'", secret_digest="'another'"), losing="invoice")
    assert report(app) == [broken(7, f"orders with two invoices: 1 ({waiting.number})")]


@pytest.mark.parametrize(
    ("column", "words"),
    [("secret_digest", "secrets of two invoices"), ("gateway_id", "gateway's ids of two invoices")],
)
def test_invariant_7_no_id_or_secret_is_used_twice(app: Flask, order: OrderFactory, column: str, words: str) -> None:
    order.awaiting()
    other = order.awaiting()
    plant(f"UPDATE invoice SET {column} = 'the same'", losing="invoice")
    assert report(app) == [broken(7, f"{words}: 1 ({other.number})")]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE order_event SET seq = 5 WHERE seq = 4",
        "UPDATE order_event SET seq = 3 WHERE seq = 4",
        "UPDATE order_event SET seq = 4 WHERE seq = 3",
        "UPDATE order_event SET seq = seq + 1",
        "UPDATE orders SET events_count = 5",
    ],
)
def test_invariant_8_events_have_no_gap(app: Flask, order: OrderFactory, change: str) -> None:
    twice = paid(order)
    order.pay(twice, paymentSessionId="another")  # the fourth event
    plant(change, losing="order_event")
    assert report(app) == [broken(8, f"histories with a gap: 1 ({twice.number})")]


def test_invariant_8_every_order_has_a_history(app: Flask, order: OrderFactory) -> None:
    number = order.placed().number
    plant("DELETE FROM order_event", "UPDATE orders SET events_count = 0")
    assert report(app) == [
        broken(8, f"histories with a gap: 1 ({number})"),
        broken(8, f"states other than the last transition's: 1 ({number})"),
    ]


def test_invariant_8_only_allowed_moves_are_made(app: Flask, order: OrderFactory) -> None:
    never_asked = order.placed()
    order.run_out(never_asked)
    orders.expire(never_asked.id)
    orders.resume(never_asked.id, UNLIMITED)
    plant(
        "UPDATE order_event SET to_state = 'cancelled' WHERE seq = 2",
        "UPDATE order_event SET from_state = 'cancelled' WHERE seq = 3",
    )
    assert report(app) == [broken(8, f"transitions that are not allowed: 1 ({never_asked.number})")]


def test_invariant_8_each_actor_does_only_what_it_may(app: Flask, order: OrderFactory) -> None:
    paid(order)
    plant("UPDATE order_event SET actor = 'customer' WHERE to_state = 'paid'")
    assert report(app) == [broken(8, "transitions that are not allowed: 1 (A-1001)")]


def test_invariant_8_an_act_of_staff_carries_a_name(app: Flask, order: OrderFactory) -> None:
    cancelled = order.placed()
    orders.cancel(cancelled.id, CUSTOMER)
    plant("UPDATE order_event SET actor = 'staff' WHERE to_state = 'cancelled'", losing="order_event")
    assert report(app) == [broken(8, f"transitions that are not allowed: 1 ({cancelled.number})")]


def test_invariant_8_an_event_of_another_kind_moves_nothing(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    orders.record_return(waiting.id)
    plant("UPDATE order_event SET to_state = 'paid' WHERE seq = 3", losing="order_event")
    assert report(app) == [broken(8, f"transitions that are not allowed: 1 ({waiting.number})")]


def test_invariant_8_each_move_leaves_the_state_that_was_reached(app: Flask, order: OrderFactory) -> None:
    late = order.expired()
    orders.resume(late.id, UNLIMITED)
    plant("UPDATE order_event SET from_state = 'placed', actor = 'shop' WHERE seq = 4")  # allowed, had it not expired
    assert report(app) == [broken(8, f"transitions from a state that the order was not in: 1 ({late.number})")]


def test_invariant_8_the_state_is_the_last_events(app: Flask, order: OrderFactory) -> None:
    late = order.expired()
    plant("UPDATE orders SET state = 'cancelled'")
    assert report(app) == [broken(8, f"states other than the last transition's: 1 ({late.number})")]


@pytest.mark.sqlite
def test_invariant_9_the_file_is_sound(app: Flask) -> None:
    with closing(sqlite_library().connect(engine().url.database, isolation_level=None)) as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("UPDATE product SET price = 0 WHERE id = 4")
    assert report(app) == [broken(9, "damage in SQLite's file: 1 (CHECK constraint failed in product)")]


@pytest.mark.sqlite
def test_invariant_9_no_row_refers_to_a_missing_one(app: Flask, order: OrderFactory) -> None:
    order.awaiting()
    with closing(sqlite_library().connect(engine().url.database, isolation_level=None)) as raw:
        raw.execute("UPDATE gateway_call SET order_id = 99")
    assert report(app) == [broken(9, "rows that refer to missing ones: 1 (gateway_call 1 without its orders)")]


def test_invariant_10_no_more_is_refunded_than_was_paid(app: Flask, order: OrderFactory, staff: int) -> None:
    twice = paid(order)
    order.pay(twice, paymentSessionId="another")
    refund(twice.id, staff)
    assert report(app) == []
    with write() as session:
        session.add(Refund(payment_id=2, amount=1, staff_id=staff))
    assert report(app) == [broken(10, "refunds above their payment: 1 (payment 2)")]


def test_invariant_10_a_refunded_order_has_all_its_money_back(app: Flask, order: OrderFactory, staff: int) -> None:
    late, short = paid(order), paid(order, OTHER)
    for one in (late, short):
        refund(one.id, staff)
    order.pay(late, paymentSessionId="another")
    assert report(app) == [], "money on top of a refund is flagged, not lost"
    plant("UPDATE refund SET amount = amount - 1 WHERE id = 2")
    words = f"refunded orders whose refunds don't cover their payments: 1 ({short.number})"
    assert report(app) == [broken(10, words)]


@pytest.mark.parametrize(
    "column",
    [
        *("orders.state", "orders.total", "orders.events_count", "order_line.kind", "order_line.price"),
        *("order_line.quantity", "order_event.seq", "order_event.kind", "order_event.actor", "product.stock"),
        *("stock_movement.reason", "stock_movement.quantity", "invoice.amount", "payment.source", "payment.amount"),
        *("callback_attempt.outcome", "refund.amount"),
    ],
)
def test_what_is_missing_altogether_is_not_taken_for_right(
    app: Flask, order: OrderFactory, staff: int, column: str
) -> None:
    """NULL is neither equal to anything nor different from it."""
    paid(order)
    refund(in_review(order).id, staff)
    table, name = column.split(".")
    plant(f"UPDATE {table} SET {name} = NULL", losing=table)
    assert report(app)


def test_every_check_has_a_test_that_sees_it_report() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for check in audit.CHECKS:
        assert check.text in source, check.text


# --- Warnings --------------------------------------------------------------------------------------------------------


def test_warnings_tell_of_work_left_lying_and_fail_nothing(app: Flask, order: OrderFactory) -> None:
    late, later, waiting = order.placed(), order.awaiting(), order.awaiting()
    message = rows(OutboxMessage, key=f"mail_pay_here:{waiting.id}")[0].id
    with write() as session:
        session.get_one(Order, late.id).reserved_until = now() - timedelta(seconds=61)
        session.get_one(Order, later.id).reserved_until = now() - timedelta(seconds=50)
        session.get_one(OutboxMessage, message).due_at = now() - timedelta(seconds=301)
        session.get_one(Heartbeat, "worker").at = now() - timedelta(seconds=121)
    assert report(app) == [
        f"warn   -  unpaid orders past their reservation: 1 ({late.number})",
        f"warn   -  messages overdue: 1 (message {message})",
        "warn   -  silent workers: 1 (worker)",
    ]
    assert audit.violations() == []
    plant("DELETE FROM heartbeat")
    assert report(app)[-1] == "warn   -  silent workers: 1 (worker)"
    restore.mark_in_place()
    since = rows(Attention)[-1].subject
    assert report(app)[-1] == f"warn   -  restored backups not compared with the gateway: 1 (since {since})"


# --- How it goes about it --------------------------------------------------------------------------------------------


def test_some_are_named_and_all_are_counted_in_whatever_chunks(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(7):
        order.awaiting()
    plant("UPDATE invoice SET amount = amount + 1", "UPDATE orders SET state = 'placed'")
    expected = [
        broken(
            6, f"invoices over another amount than the order: 7 ({', '.join(f'invoice {n}' for n in range(1, 6))}, …)"
        ),
        broken(8, f"states other than the last transition's: 7 ({', '.join(f'A-{1000 + n}' for n in range(1, 6))}, …)"),
    ]
    for size in (1, 3, 7):
        chunked = tuple(replace(check, chunk=size if check.chunk > 1 else 1) for check in audit.CHECKS)
        with monkeypatch.context() as patched:
            patched.setattr(audit, "CHECKS", chunked)
            assert report(app) == expected


def test_the_page_counts_the_queries() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(\d+) queries", page)) == {str(len([one for one in audit.CHECKS if one.invariant]))}
    assert len([one for one in audit.CHECKS if not one.invariant]) == 4, "the page says so in a word"


def test_a_broken_table_hides_nothing_else(app: Flask, order: OrderFactory) -> None:
    number = paid(order).number
    plant("DROP TABLE refund", "DELETE FROM delivery")
    missing, *others = report(app)
    assert missing == broken(3, f"orders without exactly the delivery that is due: 1 ({number})")
    for words, other in zip(("refunds above their payment", "refunded orders whose refunds"), others, strict=True):
        assert other.startswith(broken(10, words))
        assert ": 1 (could not be checked: " in other
        assert "\n" not in other


@pytest.mark.sqlite
def test_a_database_that_is_not_there_is_not_made(new_app: Callable[..., Flask], tmp_path: Path) -> None:
    app = new_app(DATABASE_URL=f"sqlite:///{tmp_path / 'none.db'}")
    with app.app_context():
        result = app.test_cli_runner().invoke(args=["audit"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: There is no database")
    assert not (tmp_path / "none.db").exists()


def test_it_only_reads(app: Flask, order: OrderFactory, staff: int, tmp_path: Path) -> None:
    live_a_little(order, staff)
    statements: list[str] = []
    for one in db.engines.values():
        event.listen(one, "before_cursor_execute", lambda *args: statements.append(args[2]))
    # The index of the write-ahead log notes who reads; file and log must stay as they are.
    files = [tmp_path / name for name in ("shop.db", "shop.db-wal")]
    before = [file.read_bytes() for file in files if file.exists()]
    assert report(app) == []
    assert {statement.split()[0] for statement in statements} == {"SELECT"}
    assert [file.read_bytes() for file in files if file.exists()] == before


def test_it_waits_for_no_writer(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    with write() as session:
        orders.lock(session, waiting.id)
        assert report(app) == []


def sell_meanwhile(order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the audit, with an order placed and paid before each query."""
    chunks, sold = audit._chunks, []
    set_stock(ITEM, 99)

    def sell(connection: Connection, along: str, size: int) -> Iterator[dict[str, object]]:
        for chunk in chunks(connection, along, size):
            if along is not audit.SQLITE_TABLE:
                sold.append(paid(order))
            yield chunk

    monkeypatch.setattr(audit, "_chunks", sell)
    assert audit.violations() == []
    assert len(sold) > 15


def test_between_any_two_queries_the_shop_sells(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell_meanwhile(order, monkeypatch)


@pytest.mark.sqlite
def test_and_so_it_does_where_commits_wait_for_readers(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shop.db.journal_mode", lambda: "delete")
    db.session.remove()
    for one in db.engines.values():
        one.dispose()
    sell_meanwhile(order, monkeypatch)
    with engine().connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"


# --- In a rush -------------------------------------------------------------------------------------------------------


def watch(app: Flask, trade: Callable[[int], None]) -> tuple[int, list[Finding]]:
    """Run the audit over and over while eight customers trade. Gives how often it ran, and what it found."""
    found: list[Finding] = []
    rounds = 0

    def customer(number: int) -> None:
        with app.app_context():
            for turn in range(6):
                trade(number + turn)

    with ThreadPoolExecutor(8) as crowd:
        going = [crowd.submit(customer, number) for number in range(8)]
        while not all(one.done() for one in going):
            found += audit.violations()
            rounds += 1
        for one in going:
            one.result()
    return rounds, found


def trade_with(order: OrderFactory) -> Callable[[int], None]:
    """One customer's turn: an order, and what may become of it."""

    def trade(turn: int) -> None:
        placed = order.awaiting(ITEM, 1 + turn % 3)
        if turn % 4 == 1:
            order.run_out(placed)
            orders.expire(placed.id)
        elif turn % 4 == 2:
            orders.cancel(placed.id, CUSTOMER)
        elif turn % 4 == 3:
            orders.record_return(placed.id)
        assert order.pay(placed) is CallbackOutcome.ACCEPTED

    return trade


def test_it_gives_no_false_alarm_while_eight_customers_place_and_pay(app: Flask, order: OrderFactory) -> None:
    set_stock(ITEM, 500)
    rounds, found = watch(app, trade_with(order))
    assert found == []
    assert rounds >= 3
    assert len(rows(Order)) == 48
    assert report(app) == []


def test_and_would_see_a_delivery_that_comes_in_a_second_commit(app: Flask, order: OrderFactory) -> None:
    set_stock(ITEM, 500)

    def trade(turn: int) -> None:
        placed = order.awaiting()
        order.pay(placed)
        with write() as session:
            session.delete(session.query(Delivery).filter_by(order_id=placed.id).one())
        time.sleep(0.05)
        with write() as session:
            session.add(Delivery(order_id=placed.id))

    _, found = watch(app, trade)
    assert {finding.check.invariant for finding in found} == {3}
    assert report(app) == []
