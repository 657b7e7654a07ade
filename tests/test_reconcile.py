"""Confirming by hand, row 65 of docs/faults.md: the money is at the gateway, and no callback tells of it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from models import CallbackAttempt, Delivery, Invoice, Order, OutboxMessage, Payment, Staff
from shop import orders, payments, reconcile
from shop.db import write
from shop.ops import audit
from shop.states import CUSTOMER, Actor, AttentionKind, CallbackOutcome, OrderState, OutboxKind, PaymentSource
from tests.conftest import OrderFactory, attention, rows, set_stock, stock_of

SESSION = "6545360496c8b48eeab3837e"


def invoice_id(order: Order) -> str:
    assert order.invoice is not None
    return order.invoice.gateway_id


def confirm(order: Order, staff_id: int, note: str = "seen in the account, 47.20") -> bool:
    return reconcile.confirm_by_hand(invoice_id(order), staff_id, note)


def test_row_65_a_person_confirms_what_no_callback_told(app: Flask, order: OrderFactory, staff: int) -> None:
    waiting = order.awaiting()
    assert confirm(waiting, staff, "  seen in the account  ")
    paid = order.again(waiting)
    assert paid.state is OrderState.PAID
    assert paid.paid_at is not None
    assert paid.delivery is not None
    assert (paid.events[-1].to_state, paid.events[-1].actor) == ("paid", Actor.COMPARISON)
    assert paid.events[-1].staff_id == staff
    [payment] = paid.payments
    assert (payment.source, payment.staff_id, payment.note) == (PaymentSource.MANUAL, staff, "seen in the account")
    assert (payment.amount, payment.callback_id, payment.session_id) == (paid.total, None, "")
    assert rows(OutboxMessage, key=f"mail_receipt:{paid.id}")
    assert not audit.violations()


def test_row_65_a_later_callback_is_a_duplicate_that_tells_the_session(
    app: Flask, order: OrderFactory, staff: int
) -> None:
    waiting = order.awaiting()
    assert confirm(waiting, staff)
    assert [order.pay(waiting) for _ in range(3)] == [CallbackOutcome.DUPLICATE] * 3
    assert payments.STATUS_OF[CallbackOutcome.DUPLICATE] == 200
    [payment] = rows(Payment)
    assert (payment.source, payment.staff_id, payment.session_id) == (PaymentSource.MANUAL, staff, SESSION)
    assert payment.callback_id == rows(CallbackAttempt)[0].id
    assert len(rows(Delivery)) == len(rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT)) == 1
    assert attention(AttentionKind.PAID_TWICE) is None
    assert not audit.violations()


def test_row_65_another_session_after_that_is_paid_twice(app: Flask, order: OrderFactory, staff: int) -> None:
    waiting = order.awaiting()
    assert confirm(waiting, staff)
    assert order.pay(waiting) is CallbackOutcome.DUPLICATE
    assert order.pay(waiting, paymentSessionId="another") is CallbackOutcome.ACCEPTED
    assert order.pay(waiting, paymentSessionId="another") is CallbackOutcome.DUPLICATE
    assert [payment.session_id for payment in rows(Payment)] == [SESSION, "another"]
    assert attention(AttentionKind.PAID_TWICE) is not None
    assert len(rows(Delivery)) == 1
    assert not audit.violations()


def test_row_65_a_callback_without_a_session_is_the_same_payment_too(
    app: Flask, order: OrderFactory, staff: int
) -> None:
    waiting = order.awaiting()
    assert confirm(waiting, staff)
    assert order.pay(waiting, paymentSessionId="") is CallbackOutcome.DUPLICATE
    assert order.pay(waiting) is CallbackOutcome.ACCEPTED
    assert [payment.session_id for payment in rows(Payment)] == ["", SESSION]
    assert not audit.violations()


def test_row_65_what_is_paid_already_is_not_confirmed_again(app: Flask, order: OrderFactory, staff: int) -> None:
    by_callback, by_hand = order.awaiting(), order.awaiting()
    order.pay(by_callback)
    assert confirm(by_hand, staff)
    assert not confirm(by_callback, staff)
    assert not confirm(by_hand, staff)
    assert len(rows(Payment)) == 2


def test_row_65_confirmed_after_the_reservation_ran_out(app: Flask, order: OrderFactory, staff: int) -> None:
    before = stock_of("brass-dallah")
    there, gone = order.expired("brass-dallah", 1), order.expired("brass-dallah", 2)
    assert confirm(there, staff)
    assert order.again(there).paid_late
    assert stock_of("brass-dallah") == before - 1
    set_stock("brass-dallah", 1)
    assert confirm(gone, staff)
    assert order.again(gone).state is OrderState.NEEDS_REVIEW
    assert attention(AttentionKind.PAID_SOLD_OUT) is not None
    assert not audit.violations()


def test_row_65_confirmed_after_it_was_cancelled_waits_for_a_person(
    app: Flask, order: OrderFactory, staff: int
) -> None:
    waiting = order.awaiting()
    assert orders.cancel(waiting.id, CUSTOMER)
    assert confirm(waiting, staff)
    assert order.again(waiting).state is OrderState.NEEDS_REVIEW
    assert not rows(Delivery)


@pytest.mark.parametrize("fault", ["no note", "nobody", "left the shop"])
def test_row_65_it_takes_a_person_and_a_note(app: Flask, order: OrderFactory, staff: int, fault: str) -> None:
    waiting = order.awaiting()
    with write() as session:
        session.get_one(Staff, staff).active = fault != "left the shop"
    with pytest.raises(ValueError, match=r"note|staff"):
        confirm(waiting, 77 if fault == "nobody" else staff, "  " if fault == "no note" else "seen")
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
    assert not rows(Payment)


def test_row_4_a_callback_that_matched_nothing_leads_to_no_payment_by_hand_either(
    app: Flask, order: OrderFactory, staff: int
) -> None:
    waiting = order.awaiting()
    assert order.pay(waiting, secret="forged", invoiceId="their-invoice") is CallbackOutcome.UNKNOWN_SECRET
    assert order.pay(waiting, secret="forged") is CallbackOutcome.UNKNOWN_SECRET
    assert not reconcile.confirm_by_hand("their-invoice", staff, "it says so in the inbox")
    assert not rows(Payment)
    assert confirm(waiting, staff)  # of the gateway's account; the forged callback that named it has no part in this
    [payment] = rows(Payment)
    assert payment.callback_id is None
    assert order.pay(waiting, secret="forged") is CallbackOutcome.UNKNOWN_SECRET
    assert rows(Payment)[0].callback_id is None


def test_row_65_two_people_and_the_callback_at_once_make_one_payment(
    app: Flask, order: OrderFactory, staff: int
) -> None:
    for _ in range(4):
        waiting = order.awaiting()
        callback = order.callback(waiting)

        def race(who: int, callback: dict[str, str] = callback) -> object:
            with app.app_context():
                if who:
                    return reconcile.confirm_by_hand(callback["invoiceId"], staff, "seen")
                return payments.accept_callback(json.dumps(callback).encode(), "")

        with ThreadPoolExecutor(3) as crowd:
            answers = list(crowd.map(race, [0, 1, 2]))
        assert answers.count(True) + answers.count(CallbackOutcome.ACCEPTED) == 1
        assert len(rows(Payment, order_id=waiting.id)) == 1
        assert order.again(waiting).state is OrderState.PAID
    assert attention(AttentionKind.PAID_TWICE) is None
    assert not audit.violations()


@pytest.mark.postgres
def test_row_65_without_the_lock_they_would_make_two(
    app: Flask, order: OrderFactory, staff: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the race above. (SQLite's writers take turns anyway.)"""
    waiting = order.awaiting()
    body = json.dumps(order.callback(waiting)).encode()
    both, settle = threading.Barrier(2, timeout=20), payments.apply_payment

    def unlocked(session: Session, which: ColumnElement[bool]) -> Order | None:
        return session.scalar(select(Order).join(Order.invoice).where(which))

    def settle_together(*args: Any) -> None:
        both.wait()
        settle(*args)

    def race(who: int) -> None:
        with app.app_context():
            if who:
                confirm(waiting, staff)
            else:
                payments.accept_callback(body, "")

    for module in (payments, reconcile):
        monkeypatch.setattr(module, "lock_by_invoice", unlocked)
        monkeypatch.setattr(module, "apply_payment", settle_together)
    with ThreadPoolExecutor(2) as pair:
        list(pair.map(race, [0, 1]))
    assert len(rows(Payment)) == 2
    assert attention(AttentionKind.PAID_TWICE) is None  # and nobody would know


def test_row_65_compared_with_the_gateways_account(app: Flask, order: OrderFactory, staff: int) -> None:
    paid, by_hand, unpaid, expired = order.awaiting(), order.awaiting(), order.awaiting(), order.expired()
    order.pay(paid)
    assert confirm(by_hand, staff)
    pasted = [invoice_id(one) for one in (expired, paid, by_hand, unpaid)]
    pasted = [f"  {pasted[0]}\n", "", "somebody-else's", *pasted, *(f"unknown-{number}" for number in range(1200))]
    found = reconcile.compare(pasted)
    assert [one.id for one in found.unpaid] == [expired.id, unpaid.id]
    assert [one.id for one in found.paid] == [paid.id, by_hand.id]
    assert found.unknown == ["somebody-else's", *(f"unknown-{number}" for number in range(1200))]
    assert reconcile.compare([]) == reconcile.Comparison()


@pytest.mark.parametrize("before", [0, 499, 500, 1001])
def test_row_100_an_id_of_another_form_is_found_wherever_it_stands(
    app: Flask, order: OrderFactory, before: int
) -> None:
    """Among more words than a statement takes parameters, too."""
    waiting = order.awaiting()
    with write() as session:
        session.execute(update(Invoice).values(gateway_id="inv_7Qx"))
    others = [f"{number:024x}" for number in range(before)]
    ids, without = reconcile.read_ids("\n".join([*others, "inv_7Qx", "Total"]))
    assert ids == [*others, "inv_7Qx"]
    assert without == ["Total"]
    found = reconcile.compare(ids)
    assert (found.unpaid, found.unknown) == ([order.again(waiting)], others)
