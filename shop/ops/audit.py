"""`flask --app app audit`: checks the invariants on a live database, each by a query that must return nothing.

The queries only read, and no lock outlives a statement: large tables are read in chunks. What must agree is compared
within one statement, which sees one moment, so an order that is paid meanwhile is never seen half-way. What a
constraint forbids is checked as well: a database that was copied or repaired by hand may have lost its constraints.
`CHECKS`, at the end, has the queries under the numbers of docs/reliability.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Connection, TextClause, bindparam, text
from sqlalchemy.exc import SQLAlchemyError

from models import Delivery, Order, now
from shop.db import UTCDateTime, db
from shop.ops.health import WORKER_TIMEOUT
from shop.states import TRANSITIONS, Actor, OrderState

EXAMPLES = 5  # named in a finding

AGES = {
    "minute_ago": timedelta(minutes=1),
    "five_minutes_ago": timedelta(minutes=5),
    "worker_timeout": WORKER_TIMEOUT,
    "soon": timedelta(seconds=-10),
}
"""Parameters of the queries: the time that long before a query runs."""


@dataclass(frozen=True)
class Check:
    """A query that must return nothing. What it returns are ids, or words for what has none."""

    invariant: int
    """Its number. 0 is a warning: work is late, but all data agrees."""
    text: str
    """What must not exist."""
    subject: str
    """What the ids are ids of."""
    sql: str
    """The query. `:first` and `:last` bound the chunk that it is for."""
    along: str = ""
    """The column that is read in chunks, as `table.column`. Empty: an index answers the query at once."""
    chunk: int = 5000
    """Values in a chunk."""
    only: str = ""
    """The one kind of database that it is for."""


@dataclass(frozen=True)
class Finding:
    """The result of a check: how much it found, and some examples by order number or id."""

    check: Check
    count: int
    examples: Sequence[str]

    @property
    def level(self) -> Literal["ok", "warn", "FAIL"]:
        """`FAIL` if an invariant doesn't hold."""
        return "ok" if not self.count else "FAIL" if self.check.invariant else "warn"

    def __str__(self) -> str:
        """Return a line for people."""
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.check.text}: " + (f"{self.count} ({', '.join(self.examples)}{more})" if self.count else "none")


def run() -> Iterator[Finding]:
    """Run all checks, and yield each finding at once. A check that can't be run counts as failed.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database can't be reached.
    """
    with db.engine.connect() as connection:
        for check in CHECKS:
            if check.only in ("", connection.dialect.name):
                yield _run(connection, check)


def violations() -> list[Finding]:
    """Return the invariants that don't hold. Warnings are not among them."""
    return [finding for finding in run() if finding.level == "FAIL"]


def _run(connection: Connection, check: Check) -> Finding:
    count, found = 0, list[int | str]()
    try:
        for chunk in _chunks(connection, check.along, check.chunk):
            values = connection.scalars(_query(check), chunk).all()
            count += len(values)
            found += values[: EXAMPLES - len(found)]
    except SQLAlchemyError as error:  # one broken table must not hide the findings of the others
        connection.rollback()
        return Finding(check, 1, ["could not be checked: " + str(getattr(error, "orig", error)).partition("\n")[0]])
    return Finding(check, count, [_name(check.subject, value) for value in found])


def _query(check: Check) -> TextClause:
    ages = [bindparam(name, now() - age, UTCDateTime) for name, age in AGES.items() if f":{name}" in check.sql]
    return text(check.sql).bindparams(*ages)


def _chunks(connection: Connection, along: str, size: int) -> Iterator[dict[str, Any]]:
    """Yield the first and the last value of each chunk of a column."""
    if not along:
        yield {}
        return
    table, column = along.split(".")
    head = f"SELECT {column} AS value FROM {table} WHERE {column} IS NOT NULL"  # noqa: S608  (our own names)
    tail = f"ORDER BY {column} LIMIT {size}) AS part"
    bounds = "SELECT count(*), min(value), max(value) FROM ("
    count, first, last = connection.execute(text(f"{bounds}{head} {tail}")).one()
    while count:
        yield {"first": first, "last": last}
        if count < size:  # rows added meanwhile are for the next audit, or there might be no end
            return
        further = text(f"{bounds}{head} AND {column} > :last {tail}")
        count, first, last = connection.execute(further, {"last": last}).one()


def _name(subject: str, value: int | str) -> str:
    if isinstance(value, str):
        return value
    return Order(id=value).number if subject == "order" else f"{subject} {value}"


# --- The queries -----------------------------------------------------------------------------------------------------


def _words(values: Iterable[str]) -> str:
    """Return enum members as a list in SQL."""
    return ", ".join(f"'{value}'" for value in sorted(values))


def _twice(table: str, *columns: str) -> str:
    """Return a query for orders with duplicate values in columns that must be unique."""
    return f"""
        SELECT DISTINCT max(order_id) FROM {table} WHERE {columns[0]} BETWEEN :first AND :last
        GROUP BY {", ".join(columns)} HAVING count(*) > 1"""  # noqa: S608


def _other_amount(table: str) -> str:
    return f"""
        SELECT id FROM {table} WHERE id BETWEEN :first AND :last AND NOT EXISTS (
            SELECT 1 FROM orders WHERE orders.id = {table}.order_id AND total = amount)"""  # noqa: S608


UNPAID = _words(state for state in OrderState if state.holds_stock_unpaid)
HOLDING = _words(state for state in OrderState if state.holds_stock_unpaid or state is OrderState.PAID)
PAID_FOR = _words({OrderState.PAID, OrderState.NEEDS_REVIEW, OrderState.REFUNDED})  # states that only money leads to
PEOPLE = _words(actor for actor in Actor if actor.is_person)
TO_HAND_OVER = _words(Delivery.TO_HAND_OVER)
ALLOWED = " OR ".join(
    f"coalesce(from_state, '') = '{start or ''}' AND to_state = '{end}' AND actor IN ({_words(actors)})"
    for start, ends in TRANSITIONS.items()
    for end, actors in ends.items()
)

# A CASE instead of a second condition on an order's state: SQLite would read all orders of that state for each chunk.

ACCEPTED_FOR_NOTHING = """
    SELECT id FROM callback_attempt AS attempt WHERE id BETWEEN :first AND :last
    AND (outcome IN ('accepted', 'duplicate') OR status < 300)
    AND NOT EXISTS (
        SELECT 1 FROM payment WHERE payment.order_id = attempt.order_id AND (
            callback_id = attempt.id  -- or that of an earlier callback of the same session
            OR attempt.outcome = 'duplicate' AND payment.session_id = attempt.session_id))"""

GROUNDLESS_PAYMENTS = """
    SELECT id FROM payment WHERE id BETWEEN :first AND :last AND NOT coalesce(
        source = 'callback' AND EXISTS (
            SELECT 1 FROM callback_attempt AS attempt WHERE attempt.id = callback_id
            AND attempt.order_id = payment.order_id AND outcome = 'accepted')
        OR source = 'manual' AND EXISTS (SELECT 1 FROM staff WHERE staff.id = staff_id), false)"""

UNPAID_THOUGH_PAID = f"""
    SELECT id FROM orders WHERE id BETWEEN :first AND :last AND CASE WHEN state IN ({PAID_FOR})
        THEN NOT EXISTS (SELECT 1 FROM payment WHERE order_id = orders.id) ELSE false END"""  # noqa: S608

STRAY_PAYMENTS = f"""
    SELECT id FROM payment WHERE id BETWEEN :first AND :last AND NOT EXISTS (
        SELECT 1 FROM orders WHERE orders.id = order_id AND state IN ({PAID_FOR}))"""  # noqa: S608

# One for each order that was ever paid. A refund is the only way on from there; in review nothing is sent.
WRONG_DELIVERIES = """
    SELECT id FROM orders WHERE id BETWEEN :first AND :last
    AND (SELECT count(*) FROM delivery WHERE order_id = orders.id) <> CASE
        WHEN state = 'paid' THEN 1
        WHEN state = 'refunded' AND EXISTS (
            SELECT 1 FROM order_event WHERE order_id = orders.id AND to_state = 'paid') THEN 1
        ELSE 0 END"""

UNPAID_DELIVERIES = """
    SELECT id FROM delivery WHERE id BETWEEN :first AND :last AND NOT EXISTS (
        SELECT 1 FROM payment WHERE payment.order_id = delivery.order_id)"""

WRONG_STOCK = """
    SELECT id FROM product WHERE id BETWEEN :first AND :last AND coalesce(stock, -1) <> (
        SELECT coalesce(sum(quantity), 0) FROM stock_movement WHERE product_id = product.id)"""

# What the lines of an order should hold counts up, what the ledger took for it counts down: the sum must be zero.
WRONGLY_HELD = f"""
    SELECT DISTINCT order_id FROM (
        SELECT order_id, product_id, CASE
            WHEN state IN ({HOLDING}) THEN quantity
            WHEN state = 'refunded' AND EXISTS (
                SELECT 1 FROM delivery WHERE delivery.order_id = orders.id AND delivery.state NOT IN ({TO_HAND_OVER}))
                THEN quantity
            ELSE 0 END AS units
        FROM order_line JOIN orders ON orders.id = order_id
        WHERE order_id BETWEEN :first AND :last AND kind = 'product'
        UNION ALL
        SELECT order_id, product_id, quantity FROM stock_movement WHERE order_id BETWEEN :first AND :last
    ) AS held GROUP BY order_id, product_id HAVING sum(units) <> 0"""  # noqa: S608

HELD_FOR_NO_ORDER = """
    SELECT id FROM stock_movement WHERE id BETWEEN :first AND :last
    AND coalesce(reason, '') NOT IN ('intake', 'corrected')
    AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.id = order_id)"""

WRONG_TOTALS = """
    SELECT id FROM orders WHERE id BETWEEN :first AND :last AND total <> (
        SELECT coalesce(sum(price * quantity), 0) FROM order_line WHERE order_id = orders.id)"""

GAPS = """
    SELECT orders.id FROM orders LEFT JOIN order_event ON order_id = orders.id
    WHERE orders.id BETWEEN :first AND :last GROUP BY orders.id, events_count
    HAVING coalesce(min(seq), 0) <> 1 OR max(seq) <> count(seq) OR count(DISTINCT seq) <> count(seq)
    OR coalesce(events_count, 0) <> count(seq)"""

FORBIDDEN_TRANSITIONS = f"""
    SELECT DISTINCT order_id FROM order_event WHERE order_id BETWEEN :first AND :last AND (
        (actor IN ({PEOPLE})) <> (staff_id IS NOT NULL)
        OR NOT CASE kind WHEN 'state_changed' THEN coalesce({ALLOWED}, false)
            ELSE from_state IS NULL AND to_state IS NULL END)"""  # noqa: S608

JUMPS = """
    SELECT DISTINCT order_id FROM (
        SELECT order_id, from_state, lag(to_state) OVER (PARTITION BY order_id ORDER BY seq) AS reached
        FROM order_event WHERE order_id BETWEEN :first AND :last AND kind = 'state_changed'
    ) AS change WHERE coalesce(from_state, '') <> coalesce(reached, '')"""

STRAYED = """
    SELECT id FROM orders WHERE id BETWEEN :first AND :last AND coalesce(state, '') <> coalesce((
        SELECT to_state FROM order_event WHERE order_id = orders.id AND kind = 'state_changed'
        ORDER BY seq DESC LIMIT 1), '')"""

# Table by table: without a write-ahead log, commits wait for a reader. Only what no table uses is left out.
DAMAGE = "SELECT integrity_check FROM pragma_integrity_check(:first) WHERE integrity_check <> 'ok'"
ORPHANS = """SELECT printf('%s %s without its %s', "table", rowid, parent) FROM pragma_foreign_key_check(:first)"""
SQLITE_TABLE = "sqlite_master.tbl_name"

EXCESSIVE_REFUNDS = """
    SELECT id FROM payment WHERE id BETWEEN :first AND :last AND amount < (
        SELECT coalesce(sum(coalesce(refund.amount, payment.amount + 1)), 0)
        FROM refund WHERE payment_id = payment.id)"""

# Money may arrive for an order that was refunded already: that is flagged, and not compared here.
UNCOVERED = """
    SELECT id FROM orders WHERE id BETWEEN :first AND :last AND CASE WHEN state = 'refunded' THEN (
        SELECT coalesce(sum(amount), 0) FROM payment WHERE order_id = orders.id AND received_at <= (
            SELECT max(at) FROM order_event WHERE order_id = orders.id AND to_state = 'refunded')
        ) > (SELECT coalesce(sum(refund.amount), 0) FROM refund JOIN payment ON payment.id = payment_id
            WHERE order_id = orders.id) ELSE false END"""

NEGATIVE_STOCK = "SELECT id FROM product WHERE id BETWEEN :first AND :last AND stock < 0"
OVERDUE_ORDERS = f"SELECT id FROM orders WHERE state IN ({UNPAID}) AND reserved_until < :minute_ago"  # noqa: S608
OVERDUE_MESSAGES = "SELECT id FROM outbox_message WHERE done_at IS NULL AND due_at < :five_minutes_ago"
SILENT_WORKER = """
    SELECT 'worker' WHERE NOT EXISTS (
        SELECT 1 FROM heartbeat WHERE name = 'worker' AND at BETWEEN :worker_timeout AND :soon)"""
UNCOMPARED = "SELECT 'since ' || subject FROM attention WHERE kind = 'restored' AND closed_at IS NULL"

CHECKS = (
    Check(1, "callbacks accepted without their payment", "callback", ACCEPTED_FOR_NOTHING, "callback_attempt.id"),
    Check(1, "payments without an accepted callback or member of staff", "payment", GROUNDLESS_PAYMENTS, "payment.id"),
    Check(2, "paid orders without a payment", "order", UNPAID_THOUGH_PAID, "orders.id"),
    Check(2, "payments of orders that are not paid", "payment", STRAY_PAYMENTS, "payment.id"),
    Check(2, "payments written twice", "order", _twice("payment", "order_id", "session_id"), "payment.order_id"),
    Check(3, "orders without exactly the delivery that is due", "order", WRONG_DELIVERIES, "orders.id"),
    Check(3, "deliveries without a payment", "delivery", UNPAID_DELIVERIES, "delivery.id"),
    Check(4, "stock other than its ledger's sum", "product", WRONG_STOCK, "product.id", 100),
    Check(4, "stock below nothing", "product", NEGATIVE_STOCK, "product.id"),
    Check(
        *(4, "ledger rows written twice", "order"),
        _twice("stock_movement", "order_id", "reservation", "product_id", "reason"),
        "stock_movement.order_id",
    ),
    Check(5, "orders holding other units than the ledger says", "order", WRONGLY_HELD, "orders.id"),
    Check(5, "ledger rows holding units for no order", "ledger row", HELD_FOR_NO_ORDER, "stock_movement.id"),
    Check(6, "totals other than the sum of their lines", "order", WRONG_TOTALS, "orders.id"),
    Check(6, "invoices over another amount than the order", "invoice", _other_amount("invoice"), "invoice.id"),
    Check(6, "payments over another amount than the order", "payment", _other_amount("payment"), "payment.id"),
    Check(7, "orders with two invoices", "order", _twice("invoice", "order_id"), "invoice.order_id"),
    Check(7, "secrets of two invoices", "order", _twice("invoice", "secret_digest"), "invoice.secret_digest"),
    Check(7, "gateway's ids of two invoices", "order", _twice("invoice", "gateway_id"), "invoice.gateway_id"),
    Check(8, "histories with a gap", "order", GAPS, "orders.id"),
    Check(8, "transitions that are not allowed", "order", FORBIDDEN_TRANSITIONS, "order_event.order_id"),
    Check(8, "transitions from a state that the order was not in", "order", JUMPS, "order_event.order_id"),
    Check(8, "states other than the last transition's", "order", STRAYED, "orders.id"),
    Check(9, "damage in SQLite's file", "", DAMAGE, SQLITE_TABLE, 1, "sqlite"),
    Check(9, "rows that refer to missing ones", "", ORPHANS, SQLITE_TABLE, 1, "sqlite"),
    Check(10, "refunds above their payment", "payment", EXCESSIVE_REFUNDS, "payment.id"),
    Check(10, "refunded orders whose refunds don't cover their payments", "order", UNCOVERED, "orders.id"),
    Check(0, "unpaid orders past their reservation", "order", OVERDUE_ORDERS),
    Check(0, "messages overdue", "message", OVERDUE_MESSAGES),
    Check(0, "silent workers", "", SILENT_WORKER),
    Check(0, "restored backups not compared with the gateway", "", UNCOMPARED),
)
