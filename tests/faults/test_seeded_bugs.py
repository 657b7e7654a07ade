"""A harness that can fail: fifteen bugs are seeded on purpose and caught, and no race test passes without its guard."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from flask import Flask

import amwal
from models import Basket, GatewayCall, Order, OutboxMessage, Payment, Staff
from shop import orders, payments, worker
from shop.db import db, write
from shop.ops import audit
from shop.states import CUSTOMER, OrderState, OutboxKind
from tests import test_callback, test_checkout, test_db, test_orders, test_reconcile
from tests.children import ROOT, Start
from tests.conftest import CheckingClient, OrderFactory, rows
from tests.faults.bugs import (
    BUGS,
    PATIENCE,
    Bug,
    Crowd,
    Shop,
    all_of,
    before,
    before_statement,
    refused_by_constraints,
    stock_read_then_written,
    without_condition,
    without_locks,
)
from tests.test_audit import lose_constraints


@pytest.fixture
def shop(app: Flask, client: CheckingClient, order: OrderFactory, gateway: Any) -> Shop:
    """The shop, to be broken."""
    return Shop(app, client, order, gateway)


def violated() -> set[int]:
    """The numbers of the invariants that do not hold."""
    return {finding.check.invariant for finding in audit.violations()}


# --- Seeded bugs -----------------------------------------------------------------------------------------------------


def test_there_are_fifteen_bugs_and_the_page_shows_each() -> None:
    page = (ROOT / "docs" / "how-to-lose-a-payment.md").read_text(encoding="utf-8")
    shown = re.findall(r'`"([^"]+)"`', page)
    assert sorted(shown) == sorted(bug.name for bug in BUGS)
    assert len(shown) == 15


@pytest.mark.slow
@pytest.mark.sqlite
def test_a_loss_can_be_watched(start: Start) -> None:
    """Word by word as the page prints it."""
    page = (ROOT / "docs" / "how-to-lose-a-payment.md").read_text(encoding="utf-8")
    [printed] = re.findall(r"```text\n(The bug:.*?)```", page, re.DOTALL)
    shown, _ = start("-m", "tests.faults.lose", "no dedupe").communicate(timeout=60)
    assert re.sub(r"A-\d+", "A-…", shown) == re.sub(r"A-\d+", "A-…", printed)


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_a_seeded_bug_is_caught(shop: Shop, bug: Bug) -> None:
    if bug.only not in ("", db.engine.dialect.name):
        pytest.skip(f"a bug that {bug.only} alone can have")
    bug.check(shop)
    assert not violated(), "the promise is kept without the bug"
    shop.patience = PATIENCE
    with refused_by_constraints() as refused, bug.switch(shop), pytest.raises(AssertionError, match=bug.caught):
        bug.check(shop)
    assert violated() == bug.audit
    assert bool(refused) == bool(bug.refused_by)
    assert all(bug.refused_by in words for words in refused)
    for table in bug.without:
        lose_constraints(table)
    if bug.without:
        with bug.switch(shop), suppress(AssertionError):
            bug.check(shop)
        assert violated() == bug.audit_without, "without the constraint, the audit must see it"


# --- Races and their twins -------------------------------------------------------------------------------------------


def two_workers_at_once_send_each_message_once(shop: Shop) -> None:
    """Each of them is handed to one of the two."""
    worker.tick()  # the first round leaves a sign of life, which is none of this
    waiting = [shop.order.awaiting(email=f"{number}@example.com") for number in range(4)]
    handled: list[int] = []

    def send(message: OutboxMessage) -> None:
        handled.append(message.payload["order_id"])

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(worker.HANDLERS, OutboxKind.MAIL_PAY_HERE, send)
        shop.together(worker.tick, worker.tick)
    assert sorted(handled) == [one.id for one in waiting], "a message was sent twice"
    assert all(message.attempts == 1 for message in rows(OutboxMessage))


def cancelled_and_paid_at_once_is_never_both(shop: Shop) -> None:
    """Either the payment was first, or a person decides what becomes of the money."""
    waiting = shop.order.awaiting()
    message = shop.order.callback(waiting)
    was_cancelled, [status] = shop.together(
        partial(orders.cancel, waiting.id, CUSTOMER), partial(shop.deliver, message)
    )
    assert status == 200
    assert shop.order.again(waiting).state is (OrderState.NEEDS_REVIEW if was_cancelled else OrderState.PAID)
    assert not violated()


def two_requests_at_once_ask_the_gateway_once(shop: Shop) -> None:
    """Whoever has the lease asks, and the other shows "preparing"."""
    placed = shop.order.placed()
    asked: list[int] = []
    with before(amwal.Client, "create_invoice", lambda: asked.append(placed.id), once=False):
        shop.together(*[partial(payments.request_invoice, placed.id)] * 2)
    assert len(asked) == 1
    assert shop.order.again(placed).state is OrderState.AWAITING_PAYMENT


def two_people_and_the_callback_at_once(shop: Shop) -> None:
    """The race of tests/test_reconcile.py, with somebody who confirms."""
    with write() as session:
        somebody = Staff(email="maha@example.com", name="Maha", password_hash="-")
        session.add(somebody)
    test_reconcile.test_row_65_two_people_and_the_callback_at_once_make_one_payment(shop.app, shop.order, somebody.id)


@dataclass(frozen=True)
class Race:
    """A race test, the place where everybody meets, and the guards that make it safe."""

    name: str
    run: Callable[[Shop], None]
    meet: Callable[[Callable[[], object]], AbstractContextManager[None]]
    """The fail point: who gets there waits until another is there, too."""
    unguarded: Callable[[Shop], AbstractContextManager[None]]
    """Takes the guards away …"""
    harm: Callable[[], object] = lambda: True
    """… and then this is what has happened, …"""
    said: str = ""
    """… or what the test says: a regular expression."""
    losing: str = ""
    """A table whose constraints are guards, too."""
    marks: tuple[pytest.MarkDecorator, ...] = ()


def statement(pattern: str) -> Callable[[Callable[[], object]], AbstractContextManager[None]]:
    """They meet before a statement."""
    return partial(before_statement, pattern)


def unlocked(_: Shop) -> AbstractContextManager[None]:
    """No lock."""
    return without_locks()


def blind(_: Shop) -> AbstractContextManager[None]:
    """No lock, and no condition on the state."""
    return all_of(without_locks(), without_condition())


RACES = (
    Race(
        "fifty copies of a callback",
        lambda shop: test_callback.test_row_3_fifty_copies_at_once_make_one_payment(shop.app, shop.order),
        statement("INSERT INTO callback_attempt"),
        unlocked,
        harm=lambda: len(rows(Payment)) > 1,
        losing="payment",
    ),
    Race(
        "the last one for fifty buyers",
        lambda shop: test_checkout.test_row_36_the_last_one_goes_to_one_of_fifty(shop.app),
        lambda rival: before(orders, "write", rival, once=False),
        stock_read_then_written,
        harm=lambda: len(rows(Order)) > 1,
        marks=(pytest.mark.slow,),
    ),
    Race(
        "two tabs submitting",
        lambda shop: test_checkout.test_row_35_submitted_from_two_tabs_at_once_it_is_one_order(shop.app, shop.client),
        statement("INSERT INTO orders"),
        unlocked,
        harm=lambda: len(rows(Order)) > 1,
        losing="orders",
    ),
    Race(
        "expiry and payment",
        lambda shop: test_orders.test_payment_and_expiry_at_once_end_in_one_of_two_good_ways(shop.app, shop.order),
        statement("UPDATE orders"),
        blind,
        harm=violated,
    ),
    Race(
        "cancelling and payment",
        cancelled_and_paid_at_once_is_never_both,
        statement("UPDATE orders"),
        blind,
        harm=violated,
    ),
    Race(
        "two workers on the outbox",
        two_workers_at_once_send_each_message_once,
        statement("UPDATE outbox_message"),
        unlocked,
        said="a message was sent twice",
    ),
    Race(
        "two people and a callback",
        two_people_and_the_callback_at_once,
        statement("INSERT INTO payment"),
        unlocked,
        harm=lambda: len(rows(Payment)) > 1,
        losing="payment",
    ),
    Race(
        "two requests for an invoice",
        two_requests_at_once_ask_the_gateway_once,
        statement("UPDATE orders"),
        unlocked,
        harm=lambda: len(rows(GatewayCall)) > 1,
    ),
    Race(
        "two changes of a basket",
        lambda shop: test_db.test_two_changes_at_once_both_count(shop.app),
        statement("UPDATE basket"),
        unlocked,
        harm=lambda: rows(Basket)[0].version < 20,
    ),
)


each_race = pytest.mark.parametrize("race", [pytest.param(race, id=race.name, marks=race.marks) for race in RACES])


@each_race
def test_a_race_ends_well_with_its_window_wide_open(shop: Shop, race: Race) -> None:
    with race.meet(Crowd(shop.patience)):
        race.run(shop)
    assert not violated()


@each_race
def test_and_fails_without_its_guard(shop: Shop, race: Race) -> None:
    if race.losing:
        lose_constraints(race.losing)
    crowd = Crowd(PATIENCE)
    with race.unguarded(shop), race.meet(crowd), pytest.raises((AssertionError, KeyError), match=race.said or None):
        race.run(shop)
    assert crowd.came > 1
    assert race.harm()
