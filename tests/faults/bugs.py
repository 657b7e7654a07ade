"""Bugs to seed, on purpose: a harness that has never failed proves nothing.

Each bug is a switch (a context manager that patches the running shop) and the check that must catch it. No production
code knows of them. A race's window is opened wide by a fail point: a place in the code where somebody else comes first.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

from flask import Flask
from sqlalchemy import Engine, NullPool, create_engine, event, select, update
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

import amwal
from models import (
    CallbackAttempt,
    Delivery,
    Invoice,
    Order,
    OrderEvent,
    OutboxMessage,
    Payment,
    Product,
    StockMovement,
    now,
)
from shop import orders, outbox, payments, refusals, stock, worker
from shop.db import db, sqlite_library, write
from shop.outbox import enqueue
from shop.states import GATEWAY, WORKER, By, CallbackOutcome, EventKind, OrderState, OutboxKind
from shop.views import order as order_page
from shop.views.guards import csrf
from tests.conftest import CheckingClient, OrderFactory, rows, set_stock
from tests.pages import Page

PATIENCE = 20.0
"""Seconds that a fail point waits for what a bug lets happen; it goes on as soon as that has happened."""
BRIEFLY = 0.3
"""Seconds that it waits where a lock keeps the others out."""
ITEM = "finjan-set"


@dataclass
class Shop:
    """What a check works with. Its app's context is pushed."""

    app: Flask
    client: CheckingClient
    order: OrderFactory
    gateway: Any
    patience: float = BRIEFLY
    """How long its fail points wait for somebody who may be locked out."""

    def deliver(self, message: dict[str, Any], tries: int = 1) -> list[int]:
        """What the gateway does: send a callback until it is answered 200. Gives the statuses."""
        statuses: list[int] = []
        while 200 not in statuses and len(statuses) < tries:
            statuses.append(self.app.test_client().post("/amwal/callback", data=json.dumps(message)).status_code)
        return statuses

    def together(self, *jobs: Callable[[], Any]) -> list[Any]:
        """Do several things at the same time, each in a thread of its own. Gives what came of them."""

        def run(job: Callable[[], Any]) -> Any:
            with self.app.app_context():
                return job()

        with ThreadPoolExecutor(len(jobs)) as crowd:
            return list(crowd.map(run, jobs))

    def message_for(self, gateway_id: str) -> dict[str, Any]:
        """The callback of an invoice that was paid, whether the shop knows it or not."""
        known = self.gateway.invoice(gateway_id)
        return {"invoiceId": known.id, "paymentSessionId": "6545360496c8b48eeab3837e", "secret": known.secret}


@dataclass(frozen=True)
class Bug:
    """A bug to seed, and what must catch it."""

    name: str
    """As docs/reliability.md calls it."""
    switch: Callable[[Shop], Any]
    """Seeds it: gives a context manager."""
    check: Callable[[Shop], None]
    """Asserts the promise that it breaks. Holds without it."""
    caught: str
    """What the failing check says: a regular expression."""
    audit: frozenset[int] = frozenset()
    """The invariants that the audit reports then."""
    refused_by: str = ""
    """The table whose constraint steps in before any harm is done."""
    without: tuple[str, ...] = ()
    """Tables whose constraints stand before the audit. Without them …"""
    audit_without: frozenset[int] = frozenset()
    """… it reports these."""
    only: str = ""
    """The one kind of database that can have it."""


# --- Fail points -----------------------------------------------------------------------------------------------------


@contextmanager
def before(module: Any, name: str, rival: Callable[[], object], *, once: bool = True) -> Iterator[None]:
    """Somebody else comes first, just before a function of a module or class begins: the first time, or every time."""
    original, called = getattr(module, name), False

    def late(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        if not called:
            called = once
            rival()
        return original(*args, **kwargs)

    with patch.object(module, name, late):
        yield


@contextmanager
def before_statement(pattern: str, rival: Callable[[], object]) -> Iterator[None]:
    """Somebody else comes first, before each statement that begins with a pattern, on whichever engine."""

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if re.match(pattern, statement):
            rival()

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", listen)


@contextmanager
def after_commit_of(model: type[Any], error: type[BaseException]) -> Iterator[None]:
    """The process breaks off right after the commit that stores such a row."""

    def note(session: Session, _context: Any) -> None:
        session.info["stored"] = any(isinstance(one, model) for one in session.new) or session.info.get("stored")

    def die(session: Session) -> None:
        if session.info.get("stored"):
            raise error

    event.listen(Session, "after_flush", note)
    event.listen(Session, "after_commit", die)
    try:
        yield
    finally:
        event.remove(Session, "after_flush", note)
        event.remove(Session, "after_commit", die)


class Crowd:
    """Holds every thread but the main one until two are there, or the first has waited long enough. Then all may pass,
    for good."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.came = 0
        self._open = threading.Event()
        self._lock = threading.Lock()

    def __call__(self) -> None:
        if threading.current_thread() is threading.main_thread():  # which prepares the race, and has no part in it
            return
        with self._lock:
            self.came += 1
            if self.came > 1:
                self._open.set()
        self._open.wait(self.patience)
        self._open.set()


@contextmanager
def refused_by_constraints() -> Iterator[list[str]]:
    """What the database's constraints refuse meanwhile, in its own words."""
    found: list[str] = []

    def listen(context: Any) -> None:
        if isinstance(context.sqlalchemy_exception, IntegrityError):
            found.append(str(context.original_exception))

    event.listen(Engine, "handle_error", listen)
    try:
        yield found
    finally:
        event.remove(Engine, "handle_error", listen)


class Killed(BaseException):
    """The process dies here: nothing in the shop catches this."""


# --- Guards to take away ---------------------------------------------------------------------------------------------


@contextmanager
def without_locks() -> Iterator[None]:
    """Every statement is its own transaction: no lock outlives it, and writers need not take turns."""
    real = db.engines["write"]
    on_sqlite = real.dialect.name == "sqlite"
    options: dict[str, Any] = {"module": sqlite_library(), "connect_args": {"timeout": 5}} if on_sqlite else {}
    unlocked = create_engine(real.url, isolation_level="AUTOCOMMIT", poolclass=NullPool, **options)
    prepare = "PRAGMA foreign_keys = ON" if on_sqlite else "SET default_transaction_isolation = 'read committed'"
    event.listen(unlocked, "connect", lambda connection, _: connection.execute(prepare))
    event.listen(unlocked, "before_cursor_execute", _take_no_lock, retval=True)
    engines: Any = db.engines
    engines["write"] = unlocked
    try:
        yield
    finally:
        engines["write"] = real
        unlocked.dispose()


def _take_no_lock(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    # Even a lock that ends with its statement would let SKIP LOCKED part two workers now and then.
    return re.sub(r" FOR (NO KEY )?UPDATE( OF \w+)?( SKIP LOCKED)?$", "", statement), parameters


def blind_transition(session: Session, order: Order, to: OrderState, by: By, detail: str = "", **values: Any) -> bool:
    """`orders.transition` without its condition: whoever comes last wins."""
    counted = {"state": to, "events_count": Order.events_count + 1, **values}
    change = update(Order).where(Order.id == order.id).values(counted).returning(Order.events_count)
    event = OrderEvent(order_id=order.id, seq=session.scalar(change), kind=EventKind.STATE_CHANGED, detail=detail)
    event.from_state, event.to_state, event.actor, event.staff_id = order.state, to, by.actor, by.staff_id
    session.add(event)
    return True


@contextmanager
def without_condition() -> Iterator[None]:
    """An order's state is written whatever it has become meanwhile."""
    with patch.object(orders, "transition", blind_transition):
        yield


@contextmanager
def all_of(*switches: Any) -> Iterator[None]:
    """Several switches at once."""
    with ExitStack() as stack:
        for one in switches:
            stack.enter_context(one)
        yield


# --- The bugs --------------------------------------------------------------------------------------------------------


@contextmanager
def answer_before_commit(_: Shop) -> Iterator[None]:
    """The commit is left to the background, for speed."""
    background: list[threading.Thread] = []

    def commit(session: Session) -> None:
        with suppress(SQLAlchemyError), session:
            session.commit()

    @contextmanager
    def hasty_write() -> Iterator[Session]:
        session = Session(db.engines["write"], expire_on_commit=False)
        yield session
        session.flush()
        background.append(threading.Thread(target=commit, args=(session,)))
        background[-1].start()

    accept = payments.accept_callback

    def hastily(*args: Any) -> CallbackOutcome:
        with patch.object(payments, "write", hasty_write):
            return accept(*args)

    with patch.object(payments, "accept_callback", hastily):
        yield
    for thread in background:
        thread.join()


def a_200_means_that_the_payment_is_stored(shop: Shop) -> None:
    """Even if the disk is full at the commit."""
    waiting = shop.order.awaiting()
    full = iter([True])

    def disk_full(_: Any) -> None:
        if next(full, False):
            raise OperationalError("COMMIT", {}, Exception("database or disk is full"))

    engine = db.engines["write"]
    event.listen(engine, "commit", disk_full)
    try:
        statuses = shop.deliver(shop.order.callback(waiting), tries=3)
    finally:
        event.remove(engine, "commit", disk_full)
    assert shop.order.again(waiting).state is OrderState.PAID, f"answered {statuses}, and not paid"
    assert statuses == [503, 200]


@contextmanager
def unknown_secret_accepted(_: Shop) -> Iterator[None]:
    """A 200 for everything, so that the gateway stops asking."""
    with patch.dict(payments.STATUS_OF, {CallbackOutcome.UNKNOWN_SECRET: 200}):
        yield


def an_unknown_secret_is_no_success(shop: Shop) -> None:
    """It is answered 404, and nothing is paid."""
    waiting = shop.order.awaiting()
    forged = shop.order.callback(waiting) | {"secret": "0927f7cc-98a7-4b67-a8b5-254fe46227dd"}
    assert shop.deliver(forged) == [404], "an unknown secret was accepted"
    assert shop.order.again(waiting).state is OrderState.AWAITING_PAYMENT


@contextmanager
def shown_before_stored(_: Shop) -> Iterator[None]:
    """The page shows what the gateway replied, and storing it has time. (Here it is never done.)"""
    replies: dict[int, Any] = {}
    load = order_page.order_or_404

    def store(order_id: int, _started: Any, _milliseconds: int, result: Any) -> None:
        replies[order_id] = result

    def loaded(token: str) -> Order:
        order = load(token)
        if reply := replies.get(order.id):
            shown = Invoice(gateway_id=reply.id, url=reply.url, qr=reply.qr, amount=order.total)
            set_committed_value(order, "invoice", shown)
            set_committed_value(order, "state", OrderState.AWAITING_PAYMENT)
        return order

    with patch.object(payments, "_store", store), patch.object(order_page, "order_or_404", loaded):
        yield


def whoever_sees_the_link_can_pay(shop: Shop) -> None:
    """The quickest customer's callback finds the invoice."""
    shop.client.fill_basket()
    page = shop.client.follow(shop.client.post("/checkout", data=shop.client.checkout_form())).text
    [link] = {one["href"] for one in Page(page).all("a") if "/en/invoice/" in one.get("href", "")}
    assert shop.deliver(shop.message_for(link.rpartition("/")[2])) == [200], "the link was shown before it was stored"


@contextmanager
def no_dedupe(_: Shop) -> Iterator[None]:
    """A callback that came before is a payment again."""
    classify = payments.classify

    def gullible(*args: Any) -> payments.Verdict:
        verdict = classify(*args)
        duplicate = verdict.outcome is CallbackOutcome.DUPLICATE
        return payments.Verdict(CallbackOutcome.ACCEPTED) if duplicate else verdict

    with patch.object(payments, "classify", gullible):
        yield


def copies_are_harmless(shop: Shop) -> None:
    """Each is answered 200, and nothing happens twice."""
    waiting = shop.order.awaiting()
    message = shop.order.callback(waiting)
    statuses = [shop.deliver(message)[0] for _ in range(5)]
    worker.tick()
    assert len(rows(Payment, order_id=waiting.id)) == 1, "paid twice"
    assert len(rows(Delivery, order_id=waiting.id)) == 1, "delivered twice"
    receipts = [
        one for one in rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT) if one.payload["order_id"] == waiting.id
    ]
    assert len(receipts) == 1, "two receipts"
    assert statuses == [200] * 5, "a copy was turned away"


@contextmanager
def stock_read_then_written(_: Shop) -> Iterator[None]:
    """What is left is looked up before the transaction begins, and the difference written in it."""
    place, seen = orders.place, threading.local()

    def place_by_what_was_seen(*args: Any, **kwargs: Any) -> Order:
        seen.stock = {row.id: row.stock for row in db.session.execute(select(Product.id, Product.stock))}
        return place(*args, **kwargs)

    def change(session: Session, order: Order, line: Any, units: int, reason: Any) -> bool:
        left = seen.stock[line.product_id] + units
        if left < 0:
            return False
        session.execute(update(Product).where(Product.id == line.product_id).values(stock=left))
        moved = {"product_id": line.product_id, "order_id": order.id, "reservation": order.reservation}
        session.add(StockMovement(**moved, quantity=units, reason=reason))
        return True

    with patch.object(orders, "place", place_by_what_was_seen), patch.object(stock, "_change", change):
        yield


def the_last_one_is_sold_once(shop: Shop) -> None:
    """Though another buyer was quicker by a moment."""
    set_stock(ITEM, 1)
    known = len(rows(Order))
    with before(orders, "write", lambda: shop.order.placed(ITEM)), suppress(refusals.SoldOut):
        shop.order.placed(ITEM)
    assert len(rows(Order)) == known + 1, "sold twice"


@contextmanager
def deferred_and_swallowed(shop: Shop) -> Iterator[None]:
    """A transaction takes the write lock only when it first writes, and where it does not get it, nobody is told."""
    real = db.engines["write"]
    options = {"module": sqlite_library(), "connect_args": {"timeout": 1}}
    deferred = create_engine(real.url, poolclass=NullPool, **options)
    event.listen(deferred, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(deferred, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))

    @contextmanager
    def silent_write() -> Iterator[Session]:
        with suppress(OperationalError), write() as session:
            yield session

    engines: Any = db.engines
    engines["write"] = deferred
    try:
        with patch.object(payments, "write", silent_write):
            yield
    finally:
        engines["write"] = real
        deferred.dispose()


def of_two_payments_at_once_each_200_is_stored(shop: Shop) -> None:
    """Whoever is locked out is told to come again."""
    pair = [shop.order.awaiting(), shop.order.awaiting()]
    messages = [shop.order.callback(one) for one in pair]
    with before_statement("INSERT INTO callback_attempt", Crowd(shop.patience)):
        shop.together(*[partial(shop.deliver, message, tries=3) for message in messages])
    assert [shop.order.again(one).state for one in pair] == [OrderState.PAID] * 2, "answered 200, and not paid"


@contextmanager
def whole_object_saved(_: Shop) -> Iterator[None]:
    """Cancelling loads the order, changes it, and saves all of it."""

    def cancel(order_id: int, by: By) -> bool:
        seen = db.session.get_one(Order, order_id, populate_existing=True)
        if not seen.is_cancellable:
            return False
        whole = {column.key: getattr(seen, column.key) for column in Order.__mapper__.column_attrs}
        whole |= {"state": OrderState.CANCELLED, "events_count": seen.events_count + 1}
        moved = OrderEvent(order_id=order_id, seq=whole["events_count"], kind=EventKind.STATE_CHANGED, actor=by.actor)
        moved.from_state, moved.to_state = seen.state, OrderState.CANCELLED
        with orders.write() as session:  # type: ignore[attr-defined]  # which the check holds up
            session.execute(update(Order).where(Order.id == order_id).values(whole))
            session.add(moved)
            stock.give_back(session, orders.lock(session, order_id))
        return True

    with patch.object(orders, "cancel", cancel):
        yield


def a_paid_order_is_not_cancelled(shop: Shop) -> None:
    """Though the customer's button was pressed before the payment came."""
    waiting = shop.order.awaiting()
    message = shop.order.callback(waiting)
    token = shop.client.csrf_token(f"/orders/{waiting.token}?key={waiting.key}")
    with before(orders, "write", lambda: shop.deliver(message)):
        answer = shop.client.post(f"/orders/{waiting.token}/cancellation?key={waiting.key}", data={"csrf_token": token})
    assert shop.order.again(waiting).state is OrderState.PAID, "cancelled, though it was paid"
    assert answer.status_code == 303, f"the customer was told {answer.status}"


@contextmanager
def outbox_outside(_: Shop) -> Iterator[None]:
    """What is to be done after the payment is queued after the payment."""
    queue: list[Callable[[Session], None]] = []

    def later(_: Session, *kinds: OutboxKind, **of: Any) -> None:
        queue.append(lambda session: outbox.enqueue(session, *kinds, **of))

    @contextmanager
    def two_writes() -> Iterator[Session]:
        queue.clear()  # what a process had in mind dies with it
        with write() as session:
            yield session
        with write() as session:
            while queue:
                queue.pop()(session)

    with patch.object(payments, "enqueue", later), patch.object(payments, "write", two_writes):
        yield


def a_receipt_outlives_a_crash(shop: Shop) -> None:
    """The process dies after the commit; the gateway repeats its callback."""
    waiting = shop.order.awaiting()
    message = shop.order.callback(waiting)

    with after_commit_of(Payment, Killed), suppress(Killed):
        shop.deliver(message)
    assert shop.order.again(waiting).state is OrderState.PAID
    assert shop.deliver(message) == [200]
    assert rows(OutboxMessage, key=f"mail_receipt:{waiting.id}"), "the receipt was forgotten"


@contextmanager
def effects_repeated(_: Shop) -> Iterator[None]:
    """A duplicate is recognised, and then everything is done once more."""
    act = payments._act

    def diligent(session: Session, attempt: CallbackAttempt) -> None:
        act(session, attempt)
        if attempt.outcome is CallbackOutcome.DUPLICATE and attempt.order:
            session.add(Delivery(order_id=attempt.order.id))
            enqueue(session, OutboxKind.MAIL_RECEIPT, order_id=attempt.order.id)

    with patch.object(payments, "_act", diligent):
        yield


@contextmanager
def expiry_overwrites(_: Shop) -> Iterator[None]:
    """The worker gives up what it saw unpaid a moment ago."""

    def expire(order_id: int) -> bool:
        seen = db.session.get_one(Order, order_id, populate_existing=True)
        if not seen.state.holds_stock_unpaid or seen.reserved_until > now():
            return False
        with orders.write() as session:  # type: ignore[attr-defined]  # which the check holds up
            blind_transition(session, seen, OrderState.EXPIRED, WORKER)
            stock.give_back(session, orders.lock(session, order_id))
        return True

    with patch.object(orders, "expire", expire):
        yield


def a_paid_order_does_not_expire(shop: Shop) -> None:
    """Though its payment came in the last moment."""
    waiting = shop.order.awaiting()
    message = shop.order.callback(waiting)
    shop.order.run_out(waiting)
    with before(orders, "write", lambda: shop.deliver(message)):
        orders.expire(waiting.id)
    assert shop.order.again(waiting).state is OrderState.PAID, "expired, though it was paid"


@contextmanager
def http_inside(_: Shop) -> Iterator[None]:
    """One transaction around claiming, asking and storing."""
    request = payments.request_invoice

    def in_one(order_id: int) -> None:
        with write() as session:

            @contextmanager
            def the_same() -> Iterator[Session]:
                yield session
                session.flush()

            with patch.object(payments, "write", the_same):
                request(order_id)

    with patch.object(payments, "request_invoice", in_one):
        yield


def nothing_is_locked_while_the_gateway_thinks(shop: Shop) -> None:
    """Callbacks for other orders are taken meanwhile, and no transaction is open."""
    other, placed = shop.order.awaiting(), shop.order.placed()
    message, pool = shop.order.callback(other), db.engines["write"].pool
    met: list[Any] = []

    def think(*_: Any, **__: Any) -> None:
        met.append(pool.checkedout())  # type: ignore[attr-defined]
        met.extend(*shop.together(lambda: shop.deliver(message)))

    with before(amwal.Client, "create_invoice", think), patch.object(pool, "_timeout", BRIEFLY):
        payments.request_invoice(placed.id)
    assert met == [0, 200], f"transactions open during the request, and the callback's answer: {met}"
    assert shop.order.again(placed).state is OrderState.AWAITING_PAYMENT


@contextmanager
def float_money(_: Shop) -> Iterator[None]:
    """Totals are added up in floating point, and sent that way."""
    make = orders._new_order

    def approximate(lines: Any, *args: Any, **values: Any) -> Order:
        order = make(lines, *args, **values)
        order.total = int(sum(line.price / 100 * line.quantity for line in lines) * 100)
        return order

    with patch.object(orders, "_new_order", approximate):
        yield


def every_cent_arrives(shop: Shop) -> None:
    """The gateway is asked for exactly what the lines come to."""
    with write() as session:
        session.execute(update(Product).filter_by(slug=ITEM).values(price=435))
    set_stock(ITEM, 9)
    waiting = shop.order.awaiting(ITEM)
    assert waiting.invoice is not None
    asked = shop.gateway.invoice(waiting.invoice.gateway_id).amount
    assert f"{asked:f}" == "4.35", f"the gateway was asked for {asked}"


@contextmanager
def success_url_pays(_: Shop) -> Iterator[None]:
    """Coming back from the payment page is taken for a payment."""

    def mark_paid(order_id: int) -> None:
        with write() as session:
            order = orders.lock(session, order_id)
            orders.transition(session, order, OrderState.PAID, GATEWAY, paid_at=now())
            session.add(Delivery(order_id=order_id))

    with patch.object(orders, "record_return", mark_paid):
        yield


def only_a_callback_pays(shop: Shop) -> None:
    """Whoever opens the success address, which is only a link, gets nothing."""
    waiting = shop.order.awaiting()
    shop.client.get(f"/orders/{waiting.token}?returned=success")
    assert shop.order.again(waiting).state is OrderState.AWAITING_PAYMENT, "delivered, and nobody paid"


@contextmanager
def callback_behind_csrf(_: Shop) -> Iterator[None]:
    """The framework's protection against forged forms is on for every POST."""
    with patch.object(csrf, "_exempt_blueprints", set()):
        yield


def a_program_can_post(shop: Shop) -> None:
    """The gateway has no cookie and no token, and gives up after 30 tries."""
    waiting = shop.order.awaiting()
    statuses = shop.deliver(shop.order.callback(waiting), tries=30)
    told = f"answered {statuses[0]}, {len(statuses)} times, for good"
    assert shop.order.again(waiting).state is OrderState.PAID, told


@contextmanager
def late_payment_refused(_: Shop) -> Iterator[None]:
    """A payment for an order that is over is turned away, as there is nothing to sell any more."""
    classify = payments.classify

    def strict(message: Any, order: Order | None) -> payments.Verdict:
        if order and order.state in (OrderState.EXPIRED, OrderState.CANCELLED):
            return payments.Verdict(CallbackOutcome.UNKNOWN_SECRET, "this order is over")
        return classify(message, order)

    with patch.object(payments, "classify", strict):
        yield


def money_is_never_refused(shop: Shop) -> None:
    """It can't be sent back by refusing it: it is stored, and somebody decides."""
    late = shop.order.expired()
    statuses = shop.deliver(shop.order.callback(late), tries=30)
    assert rows(Payment, order_id=late.id), f"answered {statuses[0]}, {len(statuses)} times, for good"
    assert statuses == [200]


BUGS = (
    Bug(
        "200 before the commit",
        answer_before_commit,
        a_200_means_that_the_payment_is_stored,
        caught="answered .200., and not paid",
    ),
    Bug(
        "unknown secret answered 200",
        unknown_secret_accepted,
        an_unknown_secret_is_no_success,
        caught="an unknown secret was accepted",
        audit=frozenset({1}),
    ),
    Bug(
        "URL shown before the invoice is stored",
        shown_before_stored,
        whoever_sees_the_link_can_pay,
        caught="the link was shown before it was stored",
    ),
    Bug(
        "no dedupe",
        no_dedupe,
        copies_are_harmless,
        caught="a copy was turned away",
        refused_by="payment",
        without=("payment",),
        audit_without=frozenset({2}),
    ),
    Bug(
        "read-then-write stock",
        stock_read_then_written,
        the_last_one_is_sold_once,
        caught="sold twice",
        audit=frozenset({4}),
    ),
    Bug(
        "deferred transactions with a swallowed lock error",
        deferred_and_swallowed,
        of_two_payments_at_once_each_200_is_stored,
        caught="answered 200, and not paid",
        only="sqlite",
    ),
    Bug(
        "state saved as a whole object",
        whole_object_saved,
        a_paid_order_is_not_cancelled,
        caught="the customer was told 500",
        refused_by="order_event",
        without=("order_event",),
        audit_without=frozenset({2, 3, 8}),
    ),
    Bug(
        "outbox outside the transaction",
        outbox_outside,
        a_receipt_outlives_a_crash,
        caught="the receipt was forgotten",
    ),
    Bug(
        "effects repeated on a duplicate",
        effects_repeated,
        copies_are_harmless,
        caught="a copy was turned away",
        refused_by="delivery",
        without=("delivery", "outbox_message"),
        audit_without=frozenset({3}),
    ),
    Bug(
        "expiry that overwrites paid",
        expiry_overwrites,
        a_paid_order_does_not_expire,
        caught="expired, though it was paid",
        audit=frozenset({2, 3, 8}),
    ),
    Bug(
        "HTTP inside a transaction",
        http_inside,
        nothing_is_locked_while_the_gateway_thinks,
        caught="transactions open during the request",
    ),
    Bug(
        "float money",
        float_money,
        every_cent_arrives,
        caught="the gateway was asked for 4.34",
        audit=frozenset({6}),
    ),
    Bug(
        "success address that pays",
        success_url_pays,
        only_a_callback_pays,
        caught="delivered, and nobody paid",
        audit=frozenset({2, 3}),
    ),
    Bug(
        "callback behind CSRF protection",
        callback_behind_csrf,
        a_program_can_post,
        caught="answered 400, 30 times, for good",
    ),
    Bug(
        "late payment refused",
        late_payment_refused,
        money_is_never_refused,
        caught="answered 404, 30 times, for good",
    ),
)
"""The fifteen of docs/reliability.md."""
