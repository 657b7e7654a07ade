"""The database: one SQLite file for project, invoices, callbacks and attempts.

Its times follow the project's clock. Advancing the clock makes three days of retries pass in seconds.
"""

import json
import secrets
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sandbox.records import Attempt, Delivery, Invoice, NewInvoice, Project, Request

FIRST_CALLBACK_URL = "http://127.0.0.1:8000/amwal/callback"
REQUESTS_KEPT = 1000
LEASE = timedelta(seconds=15)
"""How long another sender may hold a callback before the worker sends it. Longer than an attempt."""

# Amounts are decimal text. Times are UTC in ISO 8601 with a fixed width, so that they sort as text.
SCHEMA = """
CREATE TABLE IF NOT EXISTS project (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    id TEXT NOT NULL,
    api_key TEXT NOT NULL,
    callback_url TEXT NOT NULL,
    callbacks_on INTEGER NOT NULL DEFAULT 1,
    failure_mails_on INTEGER NOT NULL DEFAULT 0,
    clock_ahead REAL NOT NULL DEFAULT 0
);
-- Fault cases for the next requests for an invoice, in this order.
CREATE TABLE IF NOT EXISTS troubles (number INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY,
    received_at TEXT NOT NULL,
    trouble TEXT NOT NULL,
    status INTEGER NOT NULL,
    invoice_id TEXT REFERENCES invoices (id),
    body TEXT NOT NULL,
    refusal TEXT NOT NULL,
    bait TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS invoices (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    secret TEXT NOT NULL UNIQUE,
    amount TEXT NOT NULL,
    header TEXT NOT NULL,
    description TEXT NOT NULL,
    success_url TEXT NOT NULL,
    cancel_url TEXT NOT NULL,
    created_at TEXT NOT NULL,
    paid_at TEXT
);
-- The body is created with the payment and the same at each attempt.
-- next_attempt_at is NULL when the delivery has ended: delivered or given up.
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY,
    invoice_id TEXT NOT NULL REFERENCES invoices (id),
    body TEXT NOT NULL,
    attempts_made INTEGER NOT NULL DEFAULT 0,
    next_attempt_at TEXT,
    delivered_at TEXT,
    trouble TEXT NOT NULL DEFAULT '',
    once INTEGER NOT NULL DEFAULT 0,
    CHECK (next_attempt_at IS NULL OR delivered_at IS NULL)
);
CREATE INDEX IF NOT EXISTS invoices_paid ON invoices (number) WHERE paid_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_waiting ON deliveries (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_of_invoice ON deliveries (invoice_id);
CREATE TABLE IF NOT EXISTS attempts (
    delivery_id INTEGER NOT NULL REFERENCES deliveries (id),
    number INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    url TEXT NOT NULL,
    seconds REAL NOT NULL,
    status INTEGER,
    reply TEXT NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY (delivery_id, number)
);
"""


class Store:
    """The database. All methods are thread-safe; each change is one short transaction."""

    def __init__(self, database: str | Path, *, callback_url: str | None = None, api_key: str | None = None) -> None:
        """Open or create the file `database`, and store the given settings.

        None keeps the stored setting, at first the default. Raises `sqlite3.Error` or `OSError` if the file can't be
        used.
        """
        Path(database).parent.mkdir(parents=True, exist_ok=True)
        # One connection behind a lock is fast enough here.
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(database, timeout=5, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        # NORMAL survives a killed process; a power failure may lose the last transactions, which is fine here.
        self._connection.executescript(
            f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; {SCHEMA}"
        )
        # Bodies of requests that meet no fault case: a conformance run knows them from earlier orders.
        self.spared: set[str] = set()
        # Set when a delivery becomes due earlier, to wake the worker.
        self.delivery_changed = threading.Event()
        with self._write() as write:
            write.execute(
                "INSERT OR IGNORE INTO project (only_one, id, api_key, callback_url) VALUES (1, ?, ?, ?)",
                (secrets.token_hex(12), secrets.token_urlsafe(24), FIRST_CALLBACK_URL),
            )
        self.keep_settings(callback_url=callback_url, api_key=api_key)
        self.clock_goal = self._ahead = self.project().clock_ahead

    def close(self) -> None:
        """Close the file; no method may be called afterwards."""
        with self._lock:
            self._connection.close()

    # --- the project and its clock ---

    def project(self) -> Project:
        """Return the project."""
        query = "SELECT id, api_key, callback_url, callbacks_on, failure_mails_on, clock_ahead FROM project"
        [row] = self._rows(query)
        return Project(**dict(row) | {name: bool(row[name]) for name in ("callbacks_on", "failure_mails_on")})

    def keep_settings(
        self,
        *,
        callback_url: str | None = None,
        api_key: str | None = None,
        callbacks_on: bool | None = None,
        failure_mails_on: bool | None = None,
    ) -> None:
        """Change the project's settings; None keeps one."""
        with self._write() as write:
            write.execute(
                "UPDATE project SET callback_url = coalesce(?, callback_url), api_key = coalesce(?, api_key),"
                " callbacks_on = coalesce(?, callbacks_on), failure_mails_on = coalesce(?, failure_mails_on)",
                (callback_url, api_key, callbacks_on, failure_mails_on),
            )
        self.delivery_changed.set()

    def now(self) -> datetime:
        """Return the time on the project's clock (UTC)."""
        return datetime.now(UTC) + timedelta(seconds=self._ahead)

    def move_clock(self, seconds: float) -> None:
        """Advance the clock by `seconds`. The worker does it in steps: see `step_clock`."""
        self.clock_goal += seconds
        self.delivery_changed.set()

    @property
    def clock_is_moving(self) -> bool:
        """Whether the clock hasn't reached its goal yet."""
        return self._ahead < self.clock_goal

    def step_clock(self) -> None:
        """Advance the clock to the next attempt or to its goal, whichever comes first.

        So each attempt happens at its own time; a single jump would skip the ones in between.
        """
        ahead = self.clock_goal
        for delivery in self.waiting_deliveries(limit=1) if self.project().sends_callbacks else ():
            if delivery.next_attempt_at:
                ahead = min(ahead, (delivery.next_attempt_at - datetime.now(UTC)).total_seconds())
        self._ahead = max(ahead, self._ahead)
        with self._write() as write:
            write.execute("UPDATE project SET clock_ahead = ?", (self._ahead,))

    # --- requests for invoices and their fault cases ---

    def plan_trouble(self, name: str) -> None:
        """Queue a fault case for a coming request for an invoice."""
        with self._write() as write:
            write.execute("INSERT INTO troubles (name) VALUES (?)", (name,))

    def planned_troubles(self) -> list[str]:
        """Return the queued fault cases, the next one first."""
        return [row["name"] for row in self._rows("SELECT name FROM troubles ORDER BY number")]

    def take_trouble(self, body: str = "") -> str:
        """Remove and return the next queued fault case; "" for none, and for a request whose body is spared."""
        if body in self.spared:
            return ""
        query = "DELETE FROM troubles WHERE number = (SELECT min(number) FROM troubles) RETURNING name"
        with self._write() as write:
            [*taken] = write.execute(query)
        return str(taken[0]["name"]) if taken else ""

    def record_request(self, request: Request) -> None:
        """Log a request for an invoice; only the newest 1,000 are kept."""
        with self._write() as write:
            [(number,)] = write.execute(
                "INSERT INTO requests (received_at, trouble, status, invoice_id, body, refusal, bait)"
                " VALUES (:received_at, :trouble, :status, :invoice_id, :body, :refusal, :bait) RETURNING number",
                {**vars(request), "received_at": _text(request.received_at)},
            )
            write.execute("DELETE FROM requests WHERE number <= ?", (number - REQUESTS_KEPT,))

    def requests(self, *, after: int = 0, only_failed: bool = False, limit: int = REQUESTS_KEPT) -> list[Request]:
        """Return up to `limit` requests with numbers above `after`, newest first.

        `only_failed` leaves out those answered with 200.
        """
        query = "SELECT * FROM requests WHERE number > ? AND (status != 200 OR NOT ?) ORDER BY number DESC LIMIT ?"
        return [Request(**_with_times(row, "received_at")) for row in self._rows(query, after, only_failed, limit)]

    # --- invoices and payments ---

    def add_invoice(self, new: NewInvoice) -> Invoice:
        """Store and return an invoice with a new id and secret ("Create an invoice")."""
        fresh = {"id": secrets.token_hex(12), "secret": str(uuid.uuid4()), "created_at": _text(self.now())}
        with self._write() as write:
            [row] = write.execute(
                "INSERT INTO invoices (id, secret, amount, header, description, success_url, cancel_url, created_at)"
                " VALUES (:id, :secret, :amount, :header, :description, :success_url, :cancel_url, :created_at)"
                " RETURNING *",
                {**vars(new), **fresh, "amount": f"{new.amount:f}"},
            ).fetchall()
        return _invoice(row)

    def invoice(self, invoice_id: str) -> Invoice | None:
        """Return an invoice, or None."""
        rows = self._rows("SELECT * FROM invoices WHERE id = ?", invoice_id)
        return _invoice(rows[0]) if rows else None

    def invoices(self, *, before: int, limit: int, only_paid: bool = False) -> list[Invoice]:
        """Return up to `limit` invoices with numbers below `before`, newest first.

        `only_paid` leaves out unpaid ones and those being confirmed.
        """
        query = "SELECT * FROM invoices WHERE number < ? AND (paid_at <= ? OR NOT ?) ORDER BY number DESC LIMIT ?"
        return [_invoice(row) for row in self._rows(query, before, _text(self.now()), only_paid, limit)]

    def pay(
        self, invoice_id: str, *, confirm_after: float = 0, tell_after: float = 0, tell: bool = True, trouble: str = ""
    ) -> bool:
        """Mark an invoice paid and queue its callback in one transaction.

        The callback's body is created here: `paymentSessionId` is the same at every attempt ("The callback").

        Args:
            invoice_id: the invoice.
            confirm_after: seconds until the payment is confirmed.
            tell_after: seconds from then to the callback's first attempt.
            tell: False for no callback. Without callbacks in the project's settings, there is none either.
            trouble: the fault case, "" for an ordinary payment.

        Returns:
            False if the invoice was paid already.
        """
        paid_at = self.now() + timedelta(seconds=confirm_after)
        with self._write() as write:
            query = "UPDATE invoices SET paid_at = ? WHERE id = ? AND paid_at IS NULL RETURNING secret"
            [*paid] = write.execute(query, (_text(paid_at), invoice_id))
            if not paid:
                return False
            body = callback_body(invoice_id, paid[0]["secret"])
            write.execute(
                "INSERT INTO deliveries (invoice_id, body, next_attempt_at, trouble)"
                " SELECT ?, ?, ?, ? FROM project WHERE callback_url != '' AND callbacks_on AND ?",
                (invoice_id, body, _text(paid_at + timedelta(seconds=tell_after)), trouble, tell),
            )
        self.delivery_changed.set()
        return True

    def pay_again(self, invoice_id: str, *, tell_after: float = 0) -> bool:
        """Queue the callback of a second payment, with its own session.

        Its first attempt is due in `tell_after` seconds. Returns False if there was no first payment or callbacks are
        off.
        """
        now = self.now()
        with self._write() as write:
            query = (
                "SELECT secret FROM invoices, project"
                " WHERE invoices.id = ? AND paid_at <= ? AND callback_url != '' AND callbacks_on"
            )
            [*paid] = write.execute(query, (invoice_id, _text(now)))
            for row in paid:
                write.execute(
                    "INSERT INTO deliveries (invoice_id, body, next_attempt_at, trouble)"
                    " VALUES (?, ?, ?, 'second-session')",
                    (invoice_id, callback_body(invoice_id, row["secret"]), _text(now + timedelta(seconds=tell_after))),
                )
        self.delivery_changed.set()
        return bool(paid)

    # --- callbacks ---

    def add_delivery(self, invoice_id: str, body: str, *, trouble: str, once: bool) -> Delivery:
        """Store and return a callback that the caller will send.

        The worker sends it if the caller records no attempt within the lease; with `once`, never.
        """
        due = None if once else _text(self.now() + LEASE)
        with self._write() as write:
            [row] = write.execute(
                "INSERT INTO deliveries (invoice_id, body, next_attempt_at, trouble, once) VALUES (?, ?, ?, ?, ?)"
                " RETURNING *",
                (invoice_id, body, due, trouble, once),
            ).fetchall()
        return _delivery(row)

    def claim_delivery(self, invoice_id: str) -> Delivery | None:
        """Lease the invoice's newest undelivered callback to the caller; None for none."""
        query = (
            "UPDATE deliveries SET next_attempt_at = ? WHERE id = (SELECT max(id) FROM deliveries"
            " WHERE invoice_id = ? AND next_attempt_at IS NOT NULL) RETURNING *"
        )
        with self._write() as write:
            [*claimed] = write.execute(query, (_text(self.now() + LEASE), invoice_id))
        return _delivery(claimed[0]) if claimed else None

    def attempt_now(self, delivery_id: int) -> bool:
        """Make a delivery due now, even one given up.

        Returns False if it was delivered or is sent only once.
        """
        query = "UPDATE deliveries SET next_attempt_at = ? WHERE id = ? AND delivered_at IS NULL AND NOT once"
        with self._write() as write:
            changed = write.execute(query, (_text(self.now()), delivery_id)).rowcount
        self.delivery_changed.set()
        return bool(changed)

    def delivery(self, delivery_id: int) -> Delivery | None:
        """Return a delivery, or None."""
        rows = self._rows("SELECT * FROM deliveries WHERE id = ?", delivery_id)
        return _delivery(rows[0]) if rows else None

    def waiting_deliveries(self, limit: int) -> list[Delivery]:
        """Return up to `limit` deliveries with an attempt to come, the next due first."""
        query = "SELECT * FROM deliveries WHERE next_attempt_at IS NOT NULL ORDER BY next_attempt_at LIMIT ?"
        return [_delivery(row) for row in self._rows(query, limit)]

    def deliveries_of(self, invoice_ids: Sequence[str]) -> list[Delivery]:
        """Return the deliveries of these invoices, oldest first."""
        query = "SELECT * FROM deliveries WHERE invoice_id IN (SELECT value FROM json_each(?)) ORDER BY id"
        return [_delivery(row) for row in self._rows(query, json.dumps(invoice_ids))]

    def attempts_of(self, delivery_ids: Sequence[int]) -> list[Attempt]:
        """Return the attempts at these deliveries, oldest first."""
        query = "SELECT * FROM attempts WHERE delivery_id IN (SELECT value FROM json_each(?)) ORDER BY started_at"
        return [Attempt(**_with_times(row, "started_at")) for row in self._rows(query, json.dumps(delivery_ids))]

    def record_attempt(self, attempt: Attempt, *, next_attempt_at: datetime | None) -> None:
        """Store an attempt and its delivery's new state.

        `next_attempt_at` is the time of the retry (UTC), None if the callback was delivered or given up.
        """
        values = {
            **vars(attempt),
            "started_at": _text(attempt.started_at),
            "delivered_at": _text(attempt.started_at) if attempt.succeeded else None,
            "next_attempt_at": _text(next_attempt_at) if next_attempt_at else None,
        }
        with self._write() as write:
            write.execute(
                "INSERT INTO attempts (delivery_id, number, started_at, url, seconds, status, reply, error)"
                " VALUES (:delivery_id, :number, :started_at, :url, :seconds, :status, :reply, :error)",
                values,
            )
            write.execute(
                "UPDATE deliveries SET attempts_made = :number, delivered_at = :delivered_at,"
                " next_attempt_at = :next_attempt_at WHERE id = :delivery_id",
                values,
            )

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.commit()
            except BaseException:
                self._connection.rollback()
                raise


def callback_body(invoice_id: str, secret: str) -> str:
    """Return a callback's body with a new `paymentSessionId` ("The callback")."""
    return json.dumps({"invoiceId": invoice_id, "paymentSessionId": secrets.token_hex(12), "secret": secret})


def _invoice(row: sqlite3.Row) -> Invoice:
    return Invoice(**_with_times(row, "created_at", "paid_at") | {"amount": Decimal(row["amount"])})


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(**_with_times(row, "next_attempt_at", "delivered_at") | {"once": bool(row["once"])})


def _with_times(row: sqlite3.Row, *names: str) -> dict[str, Any]:
    """Return a row's values, with the named ones as times."""
    return dict(row) | {name: datetime.fromisoformat(row[name]) for name in names if row[name]}


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")
