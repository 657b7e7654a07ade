"""The database: one SQLite file that keeps the project, its invoices, and every callback attempt."""

import json
import secrets
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from sandbox.records import Attempt, Delivery, Invoice, NewInvoice, Project

FIRST_CALLBACK_URL = "http://127.0.0.1:8000/amwal/callback"

# Amounts are exact decimal text. Times are UTC in ISO 8601, all of one width, so that text order is time order.
SCHEMA = """
CREATE TABLE IF NOT EXISTS project (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    id TEXT NOT NULL,
    api_key TEXT NOT NULL,
    callback_url TEXT NOT NULL
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
-- A body is written once, when the payment is made, and sent unchanged at each attempt.
-- next_attempt_at is empty once the delivery has ended: delivered or given up.
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY,
    invoice_id TEXT NOT NULL REFERENCES invoices (id),
    body TEXT NOT NULL,
    attempts_made INTEGER NOT NULL DEFAULT 0,
    next_attempt_at TEXT,
    delivered_at TEXT,
    CHECK (next_attempt_at IS NULL OR delivered_at IS NULL)
);
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
    """The database. Every method may be called from any thread; each change is one short transaction."""

    def __init__(self, database: str | Path, *, callback_url: str | None = None, api_key: str | None = None) -> None:
        """Open `database`, make what is missing, and keep the given settings.

        None keeps the setting of an earlier run, or takes the default on the first. Raises `sqlite3.Error` or `OSError`
        if the file can't be used.
        """
        Path(database).parent.mkdir(parents=True, exist_ok=True)
        # One connection, used in turns: a stand-in is never so busy that its threads would miss a second one.
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(database, timeout=5, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        # NORMAL survives a killed process. A power cut may cost the last moments, which is fair for play money.
        self._connection.executescript(
            f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; {SCHEMA}"
        )
        # Set whenever a delivery has become due sooner than was known, so that the worker needn't look all the time.
        self.delivery_changed = threading.Event()
        with self._write() as write:
            write.execute(
                "INSERT OR IGNORE INTO project (only_one, id, api_key, callback_url) VALUES (1, ?, ?, ?)",
                (secrets.token_hex(12), secrets.token_urlsafe(24), FIRST_CALLBACK_URL),
            )
        self.keep_settings(callback_url=callback_url, api_key=api_key)

    def close(self) -> None:
        """Close the file; no method may be called afterwards."""
        with self._lock:
            self._connection.close()

    def project(self) -> Project:
        """Return the one project."""
        return Project(**self._rows("SELECT id, api_key, callback_url FROM project")[0])

    def keep_settings(self, *, callback_url: str | None = None, api_key: str | None = None) -> None:
        """Change the project's settings; None leaves one as it is, and "" as callback URL switches callbacks off."""
        with self._write() as write:
            write.execute(
                "UPDATE project SET callback_url = coalesce(?, callback_url), api_key = coalesce(?, api_key)",
                (callback_url, api_key),
            )

    def add_invoice(self, new: NewInvoice) -> Invoice:
        """Store an invoice under a fresh id and secret and return it ("Create an invoice")."""
        fresh = {"id": secrets.token_hex(12), "secret": str(uuid.uuid4()), "created_at": _text(datetime.now(UTC))}
        with self._write() as write:
            [row] = write.execute(
                "INSERT INTO invoices (id, secret, amount, header, description, success_url, cancel_url, created_at)"
                " VALUES (:id, :secret, :amount, :header, :description, :success_url, :cancel_url, :created_at)"
                " RETURNING *",
                {**vars(new), **fresh, "amount": f"{new.amount:f}"},
            ).fetchall()
        return _invoice(row)

    def invoice(self, invoice_id: str) -> Invoice | None:
        """Return one invoice, or None."""
        rows = self._rows("SELECT * FROM invoices WHERE id = ?", invoice_id)
        return _invoice(rows[0]) if rows else None

    def invoices(self, *, before: int, limit: int) -> list[Invoice]:
        """Return up to `limit` invoices numbered below `before`, newest first."""
        query = "SELECT * FROM invoices WHERE number < ? ORDER BY number DESC LIMIT ?"
        return [_invoice(row) for row in self._rows(query, before, limit)]

    def pay(self, invoice_id: str) -> bool:
        """Mark an invoice paid and order its callback, both or neither; return False if it was paid before.

        The callback's body is made here, so that `paymentSessionId` is the same at every attempt ("The callback").
        """
        now = _text(datetime.now(UTC))
        with self._write() as write:
            query = "UPDATE invoices SET paid_at = ? WHERE id = ? AND paid_at IS NULL RETURNING secret"
            [*paid] = write.execute(query, (now, invoice_id))
            if not paid:
                return False
            body = {"invoiceId": invoice_id, "paymentSessionId": secrets.token_hex(12), "secret": paid[0]["secret"]}
            write.execute(
                "INSERT INTO deliveries (invoice_id, body, next_attempt_at)"
                " SELECT ?, ?, ? FROM project WHERE callback_url != ''",
                (invoice_id, json.dumps(body), now),
            )
        self.delivery_changed.set()
        return True

    def waiting_deliveries(self, limit: int) -> list[Delivery]:
        """Return up to `limit` deliveries that need another attempt, the next due first."""
        query = "SELECT * FROM deliveries WHERE next_attempt_at IS NOT NULL ORDER BY next_attempt_at LIMIT ?"
        return [_delivery(row) for row in self._rows(query, limit)]

    def deliveries_of(self, invoice_ids: Sequence[str]) -> list[Delivery]:
        """Return the deliveries of these invoices, oldest first."""
        query = "SELECT * FROM deliveries WHERE invoice_id IN (SELECT value FROM json_each(?)) ORDER BY id"
        return [_delivery(row) for row in self._rows(query, json.dumps(invoice_ids))]

    def attempts_of(self, delivery_ids: Sequence[int]) -> list[Attempt]:
        """Return the attempts at these deliveries, oldest first."""
        query = "SELECT * FROM attempts WHERE delivery_id IN (SELECT value FROM json_each(?)) ORDER BY started_at"
        return [_attempt(row) for row in self._rows(query, json.dumps(delivery_ids))]

    def record_attempt(self, attempt: Attempt, *, next_attempt_at: datetime | None) -> None:
        """Log an attempt, and with it how its delivery goes on: taken, tried again at that time, or given up (None)."""
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


def _invoice(row: sqlite3.Row) -> Invoice:
    return Invoice(**_with_times(row, "created_at", "paid_at") | {"amount": Decimal(row["amount"])})


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(**_with_times(row, "next_attempt_at", "delivered_at"))


def _attempt(row: sqlite3.Row) -> Attempt:
    return Attempt(**_with_times(row, "started_at"))


def _with_times(row: sqlite3.Row, *names: str) -> dict[str, Any]:
    """Return a row's values, those named as times in UTC."""
    return dict(row) | {name: datetime.fromisoformat(row[name]) for name in names if row[name]}


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")
