"""`flask --app app audit`: whether the books are right, asked of a database while the shop goes on working with it.

Each check is a query that must return nothing; `CHECKS`, at the end, has them under the numbers of the invariants.
They only read, and no lock outlives a statement: large tables are gone through in chunks. What must agree is compared
inside one statement, which sees one moment, so an order that is paid meanwhile is never seen half-way. Where a
constraint forbids what a query looks for, the query is there all the same: a database that was copied or mended by
hand may have lost its constraints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    case,
    column,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    table,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute

from models import (
    CallbackAttempt,
    Delivery,
    Heartbeat,
    Invoice,
    Order,
    OrderEvent,
    OrderLine,
    OutboxMessage,
    Payment,
    Product,
    Refund,
    Staff,
    StockMovement,
    now,
)
from shop.db import UTCDateTime, db
from shop.ops.health import WORKER_TIMEOUT
from shop.states import (
    TRANSITIONS,
    Actor,
    CallbackOutcome,
    DeliveryState,
    EventKind,
    LineKind,
    OrderState,
    PaymentSource,
    StockReason,
)

EXAMPLES = 5  # that a finding names

Column = InstrumentedAttribute[Any] | ColumnClause[Any]
Query = Select[Any]


@dataclass(frozen=True)
class Check:
    """A query that must return nothing. What it does return are ids, or words for what has none."""

    invariant: int
    """Its number. 0 is a warning: work was left lying, but the books are right."""
    text: str
    """What must not be there."""
    subject: str
    """What the ids are ids of."""
    query: Query
    along: Column | None = None
    """The column whose values are gone through in chunks. None: an index answers the query at once."""
    chunk: int = 5000
    """How many values at a time."""
    only: str = ""
    """The one kind of database that it is for."""


@dataclass(frozen=True)
class Finding:
    """What a check found: how much, and some of it by order number or id."""

    check: Check
    count: int
    examples: Sequence[str]

    @property
    def level(self) -> Literal["ok", "warn", "FAIL"]:
        """`FAIL` if an invariant does not hold."""
        return "ok" if not self.count else "FAIL" if self.check.invariant else "warn"

    def __str__(self) -> str:
        """A line for people."""
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.check.text}: " + (f"{self.count} ({', '.join(self.examples)}{more})" if self.count else "none")


def run() -> Iterator[Finding]:
    """Make all checks, and give each finding as soon as it is there. A check that cannot be made has not held.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot be reached.
    """
    with db.engine.connect() as connection:
        for check in CHECKS:
            if check.only in ("", connection.dialect.name):
                yield _make(connection, check)


def violations() -> list[Finding]:
    """The invariants that do not hold: empty if the books are right. Warnings are not among them."""
    return [finding for finding in run() if finding.level == "FAIL"]


def _make(connection: Connection, check: Check) -> Finding:
    count, found = 0, list[int | str]()
    try:
        for chunk in _chunks(connection, check.along, check.chunk):
            values = connection.scalars(check.query, chunk).all()
            count += len(values)
            found += values[: EXAMPLES - len(found)]
    except SQLAlchemyError as error:  # one broken table must not hide what the others have to tell
        connection.rollback()
        return Finding(check, 1, ["could not be checked: " + str(getattr(error, "orig", error)).partition("\n")[0]])
    return Finding(check, count, [_name(check.subject, value) for value in found])


def _chunks(connection: Connection, along: Column | None, size: int) -> Iterator[dict[str, Any]]:
    """The first and the last value of each chunk, as parameters for `_within`."""
    if along is None:
        yield {}
        return
    start = select(along.label("value")).where(along.is_not(None)).order_by(along).limit(size)
    head, further = (
        select(func.count(), func.min(part.c.value), func.max(part.c.value))
        for part in (start.subquery(), start.where(along > bindparam("last")).subquery())
    )
    count, first, last = connection.execute(head).one()
    while count:
        yield {"first": first, "last": last}
        if count < size:  # what came in meanwhile is for the next audit, or there might be no end
            return
        count, first, last = connection.execute(further, {"last": last}).one()


def _name(subject: str, value: int | str) -> str:
    if isinstance(value, str):
        return value
    return Order(id=value).number if subject == "order" else f"{subject} {value}"


def _within(along: Column) -> ColumnElement[bool]:
    """That a row belongs to the chunk that a query is run for."""
    return along.between(bindparam("first"), bindparam("last"))


def _rows(along: Column, *wrong: ColumnElement[bool]) -> Query:
    """The ids of a chunk's rows that have something wrong with them."""
    return select(along).where(_within(along), *wrong)


def _twice(*same: InstrumentedAttribute[Any]) -> Query:
    """The orders whose rows agree in what each must have for itself. What that is, is not told: nobody needs it."""
    orders = select(func.max(same[0].class_.order_id)).where(_within(same[0]))
    return orders.group_by(*same).having(func.count() > 1).distinct()


def _ago(**period: float) -> ColumnElement[Any]:
    """The time that long before a query is run."""
    return bindparam(None, callable_=lambda: now() - timedelta(**period), type_=UTCDateTime)


# --- 1 to 3: callbacks, payments, deliveries -------------------------------------------------------------------------

PAID_FOR = (OrderState.PAID, OrderState.NEEDS_REVIEW, OrderState.REFUNDED)
"""The states that only money leads to."""


def _accepted_for_nothing() -> Query:
    # A duplicate's payment came with an earlier callback of the same session. Any other success has none to show.
    duplicate = CallbackAttempt.outcome == CallbackOutcome.DUPLICATE
    success = or_(CallbackAttempt.outcome == CallbackOutcome.ACCEPTED, duplicate, CallbackAttempt.status < 300)
    earlier = and_(duplicate, Payment.session_id == CallbackAttempt.session_id)
    own = or_(Payment.callback_id == CallbackAttempt.id, earlier)
    return _rows(CallbackAttempt.id, success, ~exists().where(Payment.order_id == CallbackAttempt.order_id, own))


def _groundless_payments() -> Query:
    own = and_(CallbackAttempt.id == Payment.callback_id, CallbackAttempt.order_id == Payment.order_id)
    callback = exists().where(own, CallbackAttempt.outcome == CallbackOutcome.ACCEPTED)
    person = exists().where(Staff.id == Payment.staff_id)
    by_callback, by_hand = Payment.source == PaymentSource.CALLBACK, Payment.source == PaymentSource.MANUAL
    return _rows(Payment.id, ~or_(and_(by_callback, callback), and_(by_hand, person)))


def _unpaid_though_paid() -> Query:
    # As two conditions, SQLite would go through all orders of these states for each chunk.
    payment = exists().where(Payment.order_id == Order.id)
    return _rows(Order.id, case((Order.state.in_(PAID_FOR), ~payment), else_=false()))


def _stray_payments() -> Query:
    return _rows(Payment.id, ~exists().where(Order.id == Payment.order_id, Order.state.in_(PAID_FOR)))


def _wrong_deliveries() -> Query:
    # One for each order that ever became paid. Only a refund leads on from there; in review nothing is sent.
    was_paid = exists().where(OrderEvent.order_id == Order.id, OrderEvent.to_state == OrderState.PAID.value)
    due = or_(Order.state == OrderState.PAID, and_(Order.state == OrderState.REFUNDED, was_paid))
    there = select(func.count(Delivery.id)).where(Delivery.order_id == Order.id).scalar_subquery()
    return _rows(Order.id, there != case((due, 1), else_=0))


def _unpaid_deliveries() -> Query:
    return _rows(Delivery.id, ~exists().where(Payment.order_id == Delivery.order_id))


# --- 4 and 5: stock --------------------------------------------------------------------------------------------------


def _wrong_stock() -> Query:
    ledger = select(func.sum(StockMovement.quantity)).where(StockMovement.product_id == Product.id)
    return _rows(Product.id, Product.stock != func.coalesce(ledger.scalar_subquery(), 0))


def _repeated_movements() -> Query:
    one = StockMovement
    return _twice(one.order_id, one.reservation, one.product_id, one.reason)


def _wrongly_held() -> Query:
    # What its lines want held counts up, what the ledger took for it counts down: each product must come to nothing.
    # (`holding` as a condition would lead SQLite to go through all orders of these states for each chunk.)
    states = [state for state in OrderState if state.holds_stock_unpaid or state is OrderState.PAID]
    sent = exists().where(Delivery.order_id == Order.id, Delivery.state != DeliveryState.PREPARING)
    holding = or_(Order.state.in_(states), and_(Order.state == OrderState.REFUNDED, sent))
    units = case((holding, OrderLine.quantity), else_=0).label("units")
    lines = select(OrderLine.order_id, OrderLine.product_id, units).join(Order, Order.id == OrderLine.order_id)
    wanted = lines.where(_within(OrderLine.order_id), OrderLine.kind == LineKind.PRODUCT)
    taken = select(StockMovement.order_id, StockMovement.product_id, StockMovement.quantity)
    both = wanted.union_all(taken.where(_within(StockMovement.order_id))).subquery().c
    groups = select(both.order_id).group_by(both.order_id, both.product_id)
    return groups.having(func.sum(both.units) != 0).distinct()


def _held_for_nobody() -> Query:
    nobody = ~exists().where(Order.id == StockMovement.order_id)
    return _rows(StockMovement.id, StockMovement.reason.in_([StockReason.RESERVED, StockReason.RETURNED]), nobody)


# --- 6: amounts ------------------------------------------------------------------------------------------------------


def _wrong_totals() -> Query:
    lines = select(func.sum(OrderLine.price * OrderLine.quantity)).where(OrderLine.order_id == Order.id)
    return _rows(Order.id, Order.total != func.coalesce(lines.scalar_subquery(), 0))


def _other_amount(kind: type[Invoice | Payment]) -> Query:
    return _rows(kind.id, ~exists().where(Order.id == kind.order_id, Order.total == kind.amount))


# --- 8: events -------------------------------------------------------------------------------------------------------

STATE_CHANGED = OrderEvent.kind == EventKind.STATE_CHANGED


def _gaps() -> Query:
    seq, count, first = OrderEvent.seq, func.count(OrderEvent.seq), func.coalesce(func.min(OrderEvent.seq), 0)
    wrong = or_(first != 1, func.max(seq) != count, func.count(seq.distinct()) != count, Order.events_count != count)
    events = select(Order.id).join(OrderEvent, OrderEvent.order_id == Order.id, isouter=True).where(_within(Order.id))
    return events.group_by(Order.id, Order.events_count).having(wrong)


def _forbidden_transitions() -> Query:
    leaving, to = func.coalesce(OrderEvent.from_state, ""), func.coalesce(OrderEvent.to_state, "")
    allowed = [
        and_(STATE_CHANGED, leaving == (start or ""), to == end.value, OrderEvent.actor.in_(actors))
        for start, ends in TRANSITIONS.items()
        for end, actors in ends.items()
    ]
    nameless = OrderEvent.actor.in_([actor for actor in Actor if actor.is_person]) != OrderEvent.staff_id.is_not(None)
    changes_nothing = and_(~STATE_CHANGED, leaving == "", to == "")
    return _rows(OrderEvent.order_id, or_(~or_(changes_nothing, *allowed), nameless)).distinct()


def _jumps() -> Query:
    reached = func.lag(OrderEvent.to_state).over(partition_by=OrderEvent.order_id, order_by=OrderEvent.seq)
    changes = select(OrderEvent.order_id, OrderEvent.from_state, reached.label("reached"))
    each = changes.where(_within(OrderEvent.order_id), STATE_CHANGED).subquery().c
    return select(each.order_id).where(each.from_state.is_distinct_from(each.reached)).distinct()


def _strayed() -> Query:
    changes = select(OrderEvent.to_state).where(OrderEvent.order_id == Order.id, STATE_CHANGED)
    last = changes.order_by(OrderEvent.seq.desc()).limit(1).scalar_subquery()
    return _rows(Order.id, last.is_distinct_from(Order.state))


# --- 9, 10, and the warnings -----------------------------------------------------------------------------------------

SQLITE_TABLE: Column = column("tbl_name", String, _selectable=table("sqlite_master"))


def _damage() -> Query:
    # Table by table: without a write-ahead log, commits wait for a reader. Only what no table uses is left out.
    said = func.pragma_integrity_check(bindparam("first")).table_valued("integrity_check").c.integrity_check
    return select(said).where(said != "ok")


def _orphans() -> Query:
    row = func.pragma_foreign_key_check(bindparam("first")).table_valued("table", "rowid", "parent").c
    return select(func.printf("%s %s without its %s", row.table, row.rowid, row.parent))


def _excessive_refunds() -> Query:
    refunds = select(func.sum(Refund.amount)).where(Refund.payment_id == Payment.id)
    return _rows(Payment.id, func.coalesce(refunds.scalar_subquery(), 0) > Payment.amount)


def _overdue_orders() -> Query:
    unpaid = [state for state in OrderState if state.holds_stock_unpaid]
    return select(Order.id).where(Order.state.in_(unpaid), Order.reserved_until < _ago(minutes=1))


def _overdue_messages() -> Query:
    return select(OutboxMessage.id).where(OutboxMessage.done_at.is_(None), OutboxMessage.due_at < _ago(minutes=5))


def _silent_worker() -> Query:
    alive = exists().where(Heartbeat.name == "worker", Heartbeat.at >= _ago(seconds=WORKER_TIMEOUT.total_seconds()))
    return select(literal("worker")).where(~alive)


CHECKS = (
    Check(1, "callbacks accepted without their payment", "callback", _accepted_for_nothing(), CallbackAttempt.id),
    Check(1, "payments without an accepted callback or a person", "payment", _groundless_payments(), Payment.id),
    Check(2, "paid orders without a payment", "order", _unpaid_though_paid(), Order.id),
    Check(2, "payments of orders that are not paid", "payment", _stray_payments(), Payment.id),
    Check(2, "payments written twice", "order", _twice(Payment.order_id, Payment.session_id), Payment.order_id),
    Check(3, "orders without exactly the delivery that is due", "order", _wrong_deliveries(), Order.id),
    Check(3, "deliveries without a payment", "delivery", _unpaid_deliveries(), Delivery.id),
    Check(4, "stock other than its ledger's sum", "product", _wrong_stock(), Product.id, 100),
    Check(4, "stock below nothing", "product", _rows(Product.id, Product.stock < 0), Product.id),
    Check(4, "ledger rows written twice", "order", _repeated_movements(), StockMovement.order_id),
    Check(5, "orders holding other units than the ledger says", "order", _wrongly_held(), Order.id),
    Check(5, "ledger rows holding units for no order", "ledger row", _held_for_nobody(), StockMovement.id),
    Check(6, "totals other than the sum of their lines", "order", _wrong_totals(), Order.id),
    Check(6, "invoices over another amount than the order", "invoice", _other_amount(Invoice), Invoice.id),
    Check(6, "payments over another amount than the order", "payment", _other_amount(Payment), Payment.id),
    Check(7, "orders with two invoices", "order", _twice(Invoice.order_id), Invoice.order_id),
    Check(7, "secrets of two invoices", "order", _twice(Invoice.secret_digest), Invoice.secret_digest),
    Check(7, "gateway's ids of two invoices", "order", _twice(Invoice.gateway_id), Invoice.gateway_id),
    Check(8, "histories with a gap", "order", _gaps(), Order.id),
    Check(8, "transitions that are not allowed", "order", _forbidden_transitions(), OrderEvent.order_id),
    Check(8, "transitions from a state that the order was not in", "order", _jumps(), OrderEvent.order_id),
    Check(8, "states other than the last transition's", "order", _strayed(), Order.id),
    Check(9, "damage in SQLite's file", "", _damage(), SQLITE_TABLE, 1, "sqlite"),
    Check(9, "rows that refer to missing ones", "", _orphans(), SQLITE_TABLE, 1, "sqlite"),
    Check(10, "refunds above their payment", "payment", _excessive_refunds(), Payment.id),
    Check(0, "unpaid orders past their reservation", "order", _overdue_orders()),
    Check(0, "messages overdue", "message", _overdue_messages()),
    Check(0, "silent workers", "", _silent_worker()),
)
