"""Erasing contact data, row 68 of docs/faults.md: orders, payments and tax records are kept."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import String, inspect, select, update

from models import (
    Attention,
    Basket,
    BasketItem,
    Delivery,
    Order,
    OrderEvent,
    OrderLine,
    OrderNote,
    OutboxMessage,
    Payment,
    Staff,
    now,
)
from shop import baskets, catalogue, orders, privacy, worker
from shop.attention import flag
from shop.db import Base, db, engine, write
from shop.limits import UNLIMITED
from shop.ops import audit
from shop.states import CUSTOMER, AttentionKind, CallbackOutcome, DeliveryState, OrderState, OutboxKind
from tests.conftest import CheckingClient, OrderFactory, attention, rows, stock_of
from tests.test_worker import mails

PERSON = {
    "name": "Canary Haddad",
    "email": "Canary@Example.com",
    "phone": "+962 7 canary",
    "address": "12 Canary Street",
    "city": "Canary City",
    "region": "Canary Region",
    "postcode": "CANARY1",
    "note": "canary at the door",
}


def forget(app: Flask, email: str = "canary@example.COM ") -> Result:
    return app.test_cli_runner().invoke(args=["forget", email])


def placed(order: OrderFactory, state: str = "awaiting") -> Order:
    """The person's order, in some state."""
    factory = {"awaiting": order.awaiting, "expired": order.expired}[state]
    made = factory()
    set_order(made, **PERSON)
    return order.again(made)


def delivered(order: OrderFactory) -> Order:
    made = placed(order)
    order.pay(made)
    with write() as session:
        session.execute(update(Delivery).filter_by(order_id=made.id).values(state=DeliveryState.DELIVERED))
    return order.again(made)


def set_order(order: Order, **values: Any) -> None:
    with write() as session:
        stored = session.get_one(Order, order.id)
        for name, value in values.items():
            setattr(stored, name, value)


def contact(order: Order) -> set[str]:
    return {getattr(order, name) for name in privacy.CONTACT}


def everything() -> str:
    """All that the database says, in words."""
    with engine().connect() as connection:
        return "\n".join(str(row) for table in Base.metadata.sorted_tables for row in connection.execute(select(table)))


def test_row_68_every_column_that_holds_something_about_a_person_is_known() -> None:
    """A field that a fork adds to the order must be cleared, or be named here."""
    kept = {"token", "key", "state", "locale", "currency", "tax_number"}
    texts = {column.key for column in inspect(Order).columns if isinstance(column.type, String)}
    unknown = texts - kept - set(privacy.CONTACT)
    assert not unknown, f"add {unknown} to shop.privacy.CONTACT, or to `kept` here if nothing personal is in it"
    assert set(privacy.CONTACT) <= texts


def test_row_68_a_customer_is_forgotten_and_the_books_stay_whole(app: Flask, order: OrderFactory) -> None:
    done, other = delivered(order), order.awaiting()
    with write() as session:
        staff = Staff(email="maha@example.com", name="Maha", password_hash="-")
        session.add(staff)
        session.flush()
        session.add(OrderNote(order_id=done.id, staff_id=staff.id, text="Canary called"))
    before = {model: len(rows(model)) for model in (OrderLine, OrderEvent, Payment, Delivery, OrderNote)}
    result = forget(app)
    assert result.exit_code == 0, result.output
    assert f"Erased: {done.number}." in result.output
    cleared = order.again(done)
    assert contact(cleared) == {""}
    assert (cleared.basket_id, cleared.basket_version) == (None, None)
    assert (cleared.state, cleared.total, len(cleared.payments)) == (OrderState.PAID, done.total, 1)
    assert {model: len(rows(model)) for model in before} == before
    assert order.again(other).email == "sara@example.com"
    assert "canary" not in everything().lower()
    assert not audit.violations()


def test_row_68_an_unknown_address_is_told(app: Flask, order: OrderFactory) -> None:
    order.awaiting()
    result = forget(app, "sara@example.co")
    assert result.exit_code == 1
    assert "No order has this address." in result.output


@pytest.mark.parametrize("form", ["mailto:{}", "Sara <{}>", " {} ", "\u200b{}"])
def test_row_68_an_address_is_known_as_it_is_pasted(app: Flask, order: OrderFactory, form: str) -> None:
    waiting = order.awaiting()
    assert [one.id for one in privacy.forget(form.format(waiting.email))[1]] == [waiting.id]


def test_row_68_what_is_not_over_is_left_and_told(app: Flask, order: OrderFactory) -> None:
    waiting, to_deliver, review, over = placed(order), placed(order), placed(order), placed(order, "expired")
    order.pay(to_deliver)
    orders.cancel(review.id, CUSTOMER)
    order.pay(review)
    result = forget(app)
    assert result.exit_code == 1
    assert f"Erased: {over.number}." in result.output
    left = f"{waiting.number} (awaiting_payment), {to_deliver.number} (paid), {review.number} (needs_review)"
    assert f"Kept: {left}." in result.output
    assert order.again(to_deliver).address == "12 Canary Street"
    set_order(review, state=OrderState.REFUNDED)
    order.run_out(waiting)
    orders.expire(waiting.id)
    with write() as session:
        session.execute(update(Delivery).values(state=DeliveryState.DELIVERED))
    assert forget(app).exit_code == 0
    assert "canary" not in everything().lower()


def test_row_68_a_forgotten_order_cannot_be_resumed_and_its_payment_reaches_a_person(
    app: Flask, client: CheckingClient, order: OrderFactory
) -> None:
    late = placed(order, "expired")
    stock = stock_of("stoneware-cup")
    assert forget(app).exit_code == 0
    assert not orders.resume(late.id, UNLIMITED)
    assert order.pay(late) is CallbackOutcome.ACCEPTED
    assert order.again(late).state is OrderState.NEEDS_REVIEW
    assert attention(AttentionKind.PAID_CANCELLED) is not None
    assert not rows(Delivery)
    assert stock_of("stoneware-cup") == stock
    assert client.get(f"/orders/{late.token}?key={late.key}").status_code == 200
    assert not audit.violations()


def test_row_68_mails_in_the_queue_go_nowhere_and_their_complaints_are_cleared(
    app: Flask, order: OrderFactory, tmp_path: Path
) -> None:
    late = placed(order, "expired")
    with write() as session:
        complaint = "SMTPRecipientsRefused: {'canary@example.com': (550, b'no such user')}"
        session.execute(update(OutboxMessage).values(error=complaint, attempts=9))
        flag(session, AttentionKind.OUTBOX_STUCK, "mail_pay_here:1", complaint, late.id)
        flag(session, AttentionKind.POSSIBLY_PAID, late.number, "something else", late.id)
    assert forget(app).exit_code == 0
    assert "canary" not in everything().lower()
    assert [item.detail for item in rows(Attention, order_id=late.id)] == ["", "something else"]
    worker.tick()
    assert not [name for name in mails(tmp_path) if "digest" not in name]
    assert rows(OutboxMessage)[0].done_at


@pytest.mark.sqlite
def test_row_68_nothing_of_it_is_left_in_the_file(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    """What SQLite gives free it leaves as it was, unless it is told otherwise."""
    for _ in range(30):
        delivered(order)
    assert b"Canary" in b"".join(file.read_bytes() for file in tmp_path.glob("shop.db*"))
    db.session.remove()
    assert forget(app).exit_code == 0
    assert app.test_cli_runner().invoke(args=["backup", str(tmp_path / "copy")]).exit_code == 0
    for file in (*tmp_path.glob("shop.db*"), tmp_path / "copy"):
        assert b"canary" not in file.read_bytes().lower(), file


def age(order: Order, days: float) -> None:
    set_order(order, reserved_until=now() - timedelta(days=days))


def test_row_68_the_worker_forgets_who_never_paid_after_thirty_days(app: Flask, order: OrderFactory) -> None:
    expired, cancelled, young, paid = placed(order, "expired"), placed(order), placed(order, "expired"), placed(order)
    orders.cancel(cancelled.id, CUSTOMER)
    order.pay(paid)
    for one, days in ((expired, 31), (cancelled, 31), (young, 29), (paid, 31)):
        age(one, days)
    worker.tick()
    assert contact(order.again(expired)) == contact(order.again(cancelled)) == {""}
    assert [event.actor for event in order.again(expired).events][-2:] == ["worker", "worker"]
    assert order.again(expired).state is OrderState.CANCELLED
    for one in (young, paid):
        assert order.again(one).address == "12 Canary Street"
    assert not audit.violations()


def test_row_68_the_worker_looks_once_an_hour(app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    monkeypatch.setattr(privacy, "tidy", lambda: rounds.append(1))
    worker.tick()
    worker.tick()
    assert len(rounds) == 1


def test_row_68_resumed_at_the_last_moment_is_not_forgotten(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = placed(order, "expired")
    age(late, 31)
    lock = orders.lock

    def lock_after_it_was_resumed(session: Any, order_id: int) -> Order:
        monkeypatch.setattr(orders, "lock", lock)
        session.execute(update(Order).filter_by(id=order_id).values(state=OrderState.AWAITING_PAYMENT))
        return lock(session, order_id)

    monkeypatch.setattr(orders, "lock", lock_after_it_was_resumed)
    privacy.tidy()
    assert order.again(late).address == "12 Canary Street"


def test_row_68_who_came_back_from_paying_is_not_forgotten_while_a_person_should_look(
    app: Flask, order: OrderFactory
) -> None:
    late = placed(order, "expired")
    orders.record_return(late.id)
    month_ago = now() - timedelta(days=31)
    set_order(late, returned_at=month_ago, reserved_until=month_ago)
    worker.tick()
    privacy.tidy()
    assert order.again(late).address == "12 Canary Street"
    with write() as session:
        session.execute(update(Attention).values(closed_at=now()))
    privacy.tidy()
    assert order.again(late).address == ""


def test_row_68_a_mail_that_fails_meanwhile_brings_no_address_back(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is speaking to the mail server while the customer is forgotten."""
    late = placed(order, "expired")
    address = late.email

    def refuse(message: OutboxMessage) -> None:
        assert forget(app).exit_code == 0
        raise OSError(f"no such mailbox: {address}")

    monkeypatch.setitem(worker.HANDLERS, OutboxKind.MAIL_PAY_HERE, refuse)
    with write() as session:
        session.execute(update(OutboxMessage).values(done_at=None, due_at=now(), attempts=worker.ALERT_AFTER))
    worker.tick()
    assert address not in everything()
    assert rows(OutboxMessage)[0].done_at is not None


def test_row_68_the_worker_deletes_baskets_that_nobody_touched_for_long(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy, "CHUNK", 2)
    cup = catalogue.product("stoneware-cup")
    assert cup is not None
    old, young = [baskets.add(None, cup, 1) for _ in range(5)], baskets.add(None, cup, 1)
    ordered = order.awaiting()
    with write() as session:
        session.execute(update(Basket).where(Basket.token != young).values(updated_at=now() - timedelta(days=91)))
        session.execute(update(Basket).filter_by(token=young).values(updated_at=now() - timedelta(days=89)))
    privacy.tidy()
    assert [basket.token for basket in rows(Basket)] == [young, order.again(ordered).basket.token]
    assert len(rows(BasketItem)) == 2
    assert baskets.add(old[0], cup, 1) != old[0]  # its owner, come back, begins a new one


def test_row_68_a_forgotten_orders_basket_goes_in_time(app: Flask, order: OrderFactory) -> None:
    placed(order, "expired")
    assert forget(app).exit_code == 0
    with write() as session:
        session.execute(update(Basket).values(updated_at=now() - timedelta(days=91)))
    privacy.tidy()
    assert not rows(Basket)
