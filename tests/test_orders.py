"""The order's states, its reservations and its stock."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from models import Basket, Order, OrderEvent, OrderLine, Payment, Product, Shop, StockMovement, now
from shop import baskets, orders, payments, refusals
from shop.db import write
from shop.limits import UNLIMITED
from shop.states import (
    CUSTOMER,
    TRANSITIONS,
    Actor,
    By,
    CallbackOutcome,
    EventKind,
    OrderState,
    PaymentSource,
    StockReason,
)
from shop.text import fold
from tests.conftest import CheckingClient, OrderFactory, rows, set_stock, stock_of

ALLOWED = {
    ("placed", "awaiting_payment"): "shop",
    ("placed", "expired"): "worker",
    ("placed", "cancelled"): "customer staff",
    ("awaiting_payment", "expired"): "worker",
    ("awaiting_payment", "cancelled"): "customer staff",
    ("awaiting_payment", "paid"): "gateway comparison",
    ("expired", "placed"): "customer",
    ("expired", "awaiting_payment"): "customer",
    ("expired", "paid"): "gateway comparison",
    ("expired", "needs_review"): "gateway comparison",
    ("expired", "cancelled"): "worker operator",
    ("cancelled", "needs_review"): "gateway comparison",
    ("needs_review", "paid"): "staff",
    ("needs_review", "refunded"): "staff",
    ("paid", "refunded"): "staff",
}
"""For each transition, who may make it. All else is refused."""


def test_only_the_transitions_of_the_table_are_made(app: Flask, order: OrderFactory, staff: int) -> None:
    placed = order.placed()
    for leaving, to, actor in itertools.product(OrderState, OrderState, Actor):
        with write() as session:
            session.get_one(Order, placed.id).state = leaving
        by = By(actor, staff if actor.is_person else None)
        with write() as session:
            loaded = orders.lock(session, placed.id)
            if actor.value in ALLOWED.get((leaving.value, to.value), "").split():
                assert orders.transition(session, loaded, to, by)
            else:
                with pytest.raises(ValueError, match="cannot go"):
                    orders.transition(session, loaded, to, by)
    made = {(one, other) for one in TRANSITIONS if one for other in TRANSITIONS[one]}
    assert made == set(ALLOWED)


def test_staff_make_an_order_paid_out_of_review_alone() -> None:
    """Everything else goes by the gateway, or by a comparison with its account."""
    to_paid = {start: ends[OrderState.PAID] for start, ends in TRANSITIONS.items() if OrderState.PAID in ends}
    assert [start for start, actors in to_paid.items() if Actor.STAFF in actors] == [OrderState.NEEDS_REVIEW]
    others = set().union(*(actors for start, actors in to_paid.items() if start is not OrderState.NEEDS_REVIEW))
    assert others == {Actor.GATEWAY, Actor.COMPARISON}
    assert {start for start, ends in TRANSITIONS.items() for actors in ends.values() if Actor.STAFF in actors} == {
        None,
        OrderState.PLACED,
        OrderState.AWAITING_PAYMENT,
        OrderState.NEEDS_REVIEW,
        OrderState.PAID,
    }


def test_an_act_of_a_person_names_the_member_of_staff(app: Flask, order: OrderFactory, staff: int) -> None:
    waiting = order.awaiting()
    for by in (By(Actor.STAFF), By(Actor.CUSTOMER, staff)):
        with pytest.raises(IntegrityError, match="person_is_named"), write() as session:
            orders.transition(session, orders.lock(session, waiting.id), OrderState.CANCELLED, by)
    with write() as session:
        by = By(Actor.STAFF, staff)
        assert orders.transition(session, orders.lock(session, waiting.id), OrderState.CANCELLED, by)
    last = order.again(waiting).events[-1]
    assert (last.actor, last.staff_id) == (Actor.STAFF, staff)


def test_order_ids_are_given_out_by_the_shop_and_never_twice(app: Flask, order: OrderFactory) -> None:
    first = order.placed()
    with write() as session:
        session.get_one(Shop, 1).next_order_id = 4000
    second = order.placed()
    assert (second.id, second.number, order.placed().id) == (4000, "A-5000", 4001)
    assert first.id < 4000


def test_of_two_who_move_an_order_one_wins(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    with write() as session:
        loaded = orders.lock(session, waiting.id)
        faster = update(Order).values(state="paid")
        session.execute(faster, execution_options={"synchronize_session": False})
        assert not orders.transition(session, loaded, OrderState.CANCELLED, CUSTOMER)
    assert order.again(waiting).state is OrderState.PAID
    assert [event.to_state for event in order.again(waiting).events] == ["placed", "awaiting_payment"]


def test_the_history_has_no_gaps(app: Flask, order: OrderFactory) -> None:
    late = order.expired()
    orders.resume(late.id, UNLIMITED)
    orders.record_return(late.id)
    order.pay(late)
    order.pay(late, paymentSessionId="again")
    events = order.again(late).events
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert order.again(late).events_count == len(events)
    moved = [event.to_state for event in events if event.kind is EventKind.STATE_CHANGED]
    assert moved == ["placed", "awaiting_payment", "expired", "awaiting_payment", "paid"]
    assert [event.kind for event in events[4:]] == ["reservation_extended", "state_changed", "payment_added"]


# --- Reservations ----------------------------------------------------------------------------------------------------


def test_an_order_that_ran_out_gives_its_stock_back_once(app: Flask, order: OrderFactory) -> None:
    before = stock_of("brass-dallah")
    waiting = order.awaiting("brass-dallah", 3)
    assert stock_of("brass-dallah") == before - 3
    assert not orders.expire(waiting.id), "its time is not over yet"
    order.run_out(waiting)
    assert orders.expire(waiting.id)
    assert not orders.expire(waiting.id)
    assert order.again(waiting).state is OrderState.EXPIRED
    assert stock_of("brass-dallah") == before


def test_resuming_takes_the_stock_again_and_keeps_the_invoice(app: Flask, order: OrderFactory) -> None:
    before = stock_of("brass-dallah")
    late = order.expired("brass-dallah", 3)
    assert late.invoice is not None
    invoice = late.invoice.gateway_id
    assert orders.resume(late.id, UNLIMITED)
    assert not orders.resume(late.id, UNLIMITED)
    held = order.again(late)
    assert (held.state, held.reservation) == (OrderState.AWAITING_PAYMENT, 2)
    assert held.invoice is not None
    assert held.invoice.gateway_id == invoice
    assert held.reserved_until > now() + timedelta(minutes=29)
    assert stock_of("brass-dallah") == before - 3


def test_resuming_without_an_invoice_leads_back_to_placed(app: Flask, order: OrderFactory) -> None:
    placed = order.placed()
    order.run_out(placed)
    orders.expire(placed.id)
    assert orders.resume(placed.id, UNLIMITED)
    assert order.again(placed).state is OrderState.PLACED


def test_resuming_what_was_sold_meanwhile_changes_nothing(app: Flask, order: OrderFactory) -> None:
    late = order.expired("brass-dallah", 3)
    set_stock("brass-dallah", 2)
    with pytest.raises(refusals.SoldOut):
        orders.resume(late.id, UNLIMITED)
    unchanged = order.again(late)
    assert (unchanged.state, unchanged.reservation) == (OrderState.EXPIRED, 1)
    assert stock_of("brass-dallah") == 2


def test_row_66_the_first_return_extends_the_reservation_once(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    until = waiting.reserved_until
    orders.record_return(waiting.id)
    orders.record_return(waiting.id)
    assert order.again(waiting).reserved_until == until + timedelta(minutes=120)
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT


def test_row_66_a_return_is_recorded_once_and_only_of_an_order_that_waits(app: Flask, order: OrderFactory) -> None:
    waiting, paid = order.awaiting(), order.awaiting()
    order.pay(paid)
    orders.record_return(waiting.id)
    first = order.again(waiting).returned_at
    for one in (waiting, paid):
        orders.record_return(one.id)
    assert order.again(waiting).returned_at == first
    assert order.again(paid).returned_at is None


def test_row_66_holding_again_gives_no_second_extension_and_a_second_return_counts(
    app: Flask, order: OrderFactory
) -> None:
    waiting = order.awaiting()
    orders.record_return(waiting.id)
    order.run_out(waiting)
    orders.expire(waiting.id)
    orders.resume(waiting.id, UNLIMITED)
    assert not order.again(waiting).buyer_returned
    orders.record_return(waiting.id)
    again = order.again(waiting)
    assert again.buyer_returned
    assert again.reserved_until < now() + timedelta(minutes=31)


def test_row_66_a_slow_confirmation_is_paid_with_its_stock(app: Flask, order: OrderFactory) -> None:
    before = stock_of("brass-dallah")
    waiting = order.awaiting("brass-dallah", 2)
    orders.record_return(waiting.id)  # at minute 29
    with write() as session:  # a quarter of an hour after the 30 minutes
        stored = session.get_one(Order, waiting.id)
        stored.reserved_until -= timedelta(minutes=45)
    assert not orders.expire(waiting.id)
    assert order.pay(waiting) is CallbackOutcome.ACCEPTED
    paid = order.again(waiting)
    assert (paid.state, paid.paid_late, paid.reservation) == (OrderState.PAID, False, 1)
    assert stock_of("brass-dallah") == before - 2


def test_cancelling_gives_stock_and_basket_back(app: Flask, order: OrderFactory) -> None:
    before = stock_of("brass-dallah")
    waiting = order.awaiting("brass-dallah", 2)
    assert orders.cancel(waiting.id, CUSTOMER)
    assert not orders.cancel(waiting.id, CUSTOMER)
    assert stock_of("brass-dallah") == before
    [basket] = rows(Basket)
    assert basket.open
    assert waiting.basket_version is not None
    assert basket.version == waiting.basket_version + 1, "the form of the cancelled order would lead back to it"
    assert baskets.units(basket.token) == 2


@pytest.mark.parametrize("state", [OrderState.PAID, OrderState.NEEDS_REVIEW, OrderState.EXPIRED, OrderState.REFUNDED])
def test_what_is_paid_or_over_cannot_be_cancelled(app: Flask, order: OrderFactory, state: OrderState) -> None:
    waiting = order.awaiting()
    with write() as session:
        session.get_one(Order, waiting.id).state = state
    assert not orders.cancel(waiting.id, CUSTOMER)
    assert order.again(waiting).state is state


def test_payment_and_expiry_at_once_end_in_one_of_two_good_ways(app: Flask, order: OrderFactory) -> None:
    for _round in range(5):
        waiting = order.awaiting("brass-dallah", 1)
        before = stock_of("brass-dallah") + 1
        order.run_out(waiting)
        body = order.callback(waiting)

        def race(what: int, order_id: int = waiting.id, message: dict[str, str] = body) -> None:
            with app.app_context():
                if what:
                    orders.expire(order_id)
                else:
                    payments.accept_callback(json.dumps(message).encode(), "")

        with ThreadPoolExecutor(2) as pair:
            list(pair.map(race, [0, 1]))
        assert order.again(waiting).state is OrderState.PAID
        assert stock_of("brass-dallah") == before - 1


# --- What the database itself refuses --------------------------------------------------------------------------------


def test_the_same_reservation_cannot_be_taken_twice(app: Flask, order: OrderFactory) -> None:
    placed = order.placed()
    product = placed.product_lines[0].product_id
    movement = StockMovement(product_id=product, order_id=placed.id, reservation=1, quantity=-1)
    movement.reason = StockReason.RESERVED
    with pytest.raises(IntegrityError), write() as session:
        session.add(movement)


def test_stock_cannot_fall_below_nothing(app: Flask) -> None:
    with pytest.raises(IntegrityError), write() as session:
        session.get_one(Product, 1).stock = -1


def test_a_payment_rests_on_a_callback_or_a_person(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    for source in PaymentSource:
        with pytest.raises(IntegrityError), write() as session:
            session.add(Payment(order_id=waiting.id, session_id="x", amount=1, source=source))


def test_a_line_without_a_product_is_possible_only_where_it_says_so(app: Flask, order: OrderFactory) -> None:
    placed = order.placed()
    with write() as session:
        session.add(OrderLine(order_id=placed.id, kind="custom", name={"en": "Tea"}, quantity=2, price=150))
    with pytest.raises(IntegrityError), write() as session:
        session.add(OrderLine(order_id=placed.id, kind="product", name={"en": "Tea"}, quantity=2, price=150))


def test_an_event_number_is_used_once(app: Flask, order: OrderFactory) -> None:
    placed = order.placed()
    with pytest.raises(IntegrityError), write() as session:
        session.add(OrderEvent(order_id=placed.id, seq=1, kind=EventKind.PAYMENT_ADDED, actor=Actor.GATEWAY))


def test_a_state_that_does_not_exist_is_refused(app: Flask, client: CheckingClient, order: OrderFactory) -> None:
    order.placed()
    with pytest.raises(IntegrityError), write() as session:
        session.connection().exec_driver_sql("UPDATE orders SET state = 'payed'")


@pytest.mark.parametrize("name", ["ﷺ" * 120, "½" * 120, "ǅ" * 120, "Sara " * 24])
def test_the_longest_name_fits_folded(app: Flask, order: OrderFactory, name: str) -> None:
    placed = order.placed()
    with write() as session:
        orders.lock(session, placed.id).name = name[:120]
    assert order.again(placed).name == name[:120]
    assert order.again(placed).name_key == fold(name[:120])[:240]
