"""The two ways to the database: `db.session` reads, `with write() as session:` writes.

Why two: SQLite has one writer at a time. If every request opened a write transaction, each page view would queue for
the write lock. So reads use an autocommit engine that can't write, and each write is one short transaction.

On PostgreSQL, writers run concurrently at READ COMMITTED. That is enough because no decision depends on a row read
without a lock: rows are read under a lock, which returns their newest version; stock is taken by a conditional UPDATE,
which checks the newest version too; and what may exist only once has a unique constraint. Locks are taken in the same
order everywhere: order, basket, network, products by id, the shop's row, attention items. If PostgreSQL finds a
deadlock all the same, one of the two transactions fails as after a lock timeout: with a 503, and nothing written.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, Dialect, Engine, ExceptionContext, MetaData, String, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

from shop.config import SettingError, settings
from shop.money import exponent
from shop.writer_lock import WriterLock

try:
    from pysqlite3 import dbapi2 as newer_sqlite
except ImportError:
    newer_sqlite = None

LOCK_TIMEOUT = 5  # seconds that a write waits for a lock before it fails with a 503


class Base(DeclarativeBase):
    """Base of all models. Every constraint has a name, so that migrations can change it on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class UTCDateTime(TypeDecorator[datetime]):
    """A point in time, always aware and in UTC. (SQLite stores no time zone and would return naive times.)"""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: their zone is unknown."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime was about to be stored; use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class UnknownWord(str):
    """A stored word that this version doesn't know. Where people read it, it is its own label."""

    @property
    def value(self) -> str:
        """The word."""
        return str(self)

    label = value


class OpenEnum(TypeDecorator[Any]):
    """An enum that later versions add to: checked when written; an unknown value is read as an `UnknownWord`.

    A CHECK in the database would make the version before it fail during a rolling upgrade.
    """

    impl = String(40)
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Refuse what is no member."""
        return None if value is None else self.enum(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the member, or the word itself."""
        try:
            return None if value is None else self.enum(value)
        except ValueError:
            return UnknownWord(value)


db = SQLAlchemy(metadata=Base.metadata)


def sqlite_library() -> ModuleType:
    """Return the SQLite to use: pysqlite3's where installed (newer than most systems'), else Python's own."""
    return newer_sqlite or sqlite3


def has_wal_reset_fix(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the fix of the WAL-reset bug, which could lose an acknowledged commit."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def journal_mode(library: ModuleType | None = None) -> str:
    """Return `wal` where it is safe, otherwise `delete`, with which readers and the writer block each other."""
    library = library or sqlite_library()
    return "wal" if has_wal_reset_fix(tuple(library.sqlite_version_info)) else "delete"


def init_db(app: Flask) -> None:
    """Configure the two engines from `DATABASE_URL`: the default one reads, the bind `write` writes."""
    url = make_url(settings.database_url)
    on_sqlite = url.get_backend_name() == "sqlite"
    # An error's text may be logged, and parameters are names, addresses and tokens.
    common: dict[str, Any] = {"url": url, "hide_parameters": True, "pool_size": 16}
    if on_sqlite:
        common |= {"module": sqlite_library(), "connect_args": {"timeout": LOCK_TIMEOUT}}
        # A pool of one serializes the writers of this process, which is fairer than SQLite's own polling.
        writer = common | {"pool_size": 1, "max_overflow": 0, "pool_timeout": LOCK_TIMEOUT}
    else:
        # A restart of the server is noticed before a query, and a lost server within seconds.
        common |= {"pool_pre_ping": True, "pool_timeout": LOCK_TIMEOUT, "connect_args": _POSTGRESQL_TIMEOUTS}
        writer = common | {"isolation_level": "READ COMMITTED"}
    reader = common | {"isolation_level": "AUTOCOMMIT"}
    app.config["SQLALCHEMY_BINDS"] = {None: reader, "write": writer}
    db.init_app(app)
    for name, one in db.engines.items():
        writes = name == "write"
        if not on_sqlite:
            event.listen(one, "connect", _prepare_postgresql_writer if writes else _prepare_postgresql_reader)
            event.listen(one, "handle_error", _hide_details)
        elif writes:
            event.listen(one, "connect", _prepare_sqlite_writer)
            event.listen(one, "begin", WriterLock(Path(url.database or "")).hold)
            event.listen(one, "begin", _begin_immediate)
        else:
            event.listen(one, "connect", _prepare_sqlite_reader)


def _prepare_sqlite_reader(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")


def _prepare_sqlite_writer(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions: `_begin_immediate` does
    mode = journal_mode()
    connection.execute(f"PRAGMA journal_mode = {mode}")
    # FULL syncs the write-ahead log before a commit returns. NORMAL would answer 200 before the payment is safe.
    connection.execute(f"PRAGMA synchronous = {'FULL' if mode == 'wal' else 'EXTRA'}")
    connection.execute("PRAGMA foreign_keys = ON")
    # Deleted content is overwritten with zeros: erased contact data is nowhere in the file or a backup.
    connection.execute("PRAGMA secure_delete = ON")


def _begin_immediate(connection: Any) -> None:
    # Take the write lock at the start: a transaction that reads first and upgrades later can fail half-way.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


_POSTGRESQL_TIMEOUTS = {
    "connect_timeout": LOCK_TIMEOUT,
    "tcp_user_timeout": LOCK_TIMEOUT * 1000,
    "keepalives_idle": LOCK_TIMEOUT,
    "keepalives_interval": 1,
}
"""How long libpq waits for a silent server. By default, a lost network would block a thread for hours."""


def _prepare_postgresql_reader(connection: Any, _: object) -> None:
    _set(
        connection,
        timezone="UTC",
        lock_timeout=f"{LOCK_TIMEOUT}s",
        default_transaction_read_only="on",
        default_transaction_isolation="read committed",
    )


def _prepare_postgresql_writer(connection: Any, _: object) -> None:
    _set(
        connection,
        timezone="UTC",
        lock_timeout=f"{LOCK_TIMEOUT}s",
        statement_timeout=f"{2 * LOCK_TIMEOUT}s",
        # A client that disappears in the middle of a write must not keep its locks.
        idle_in_transaction_session_timeout=f"{2 * LOCK_TIMEOUT}s",
        synchronous_commit="on",  # a server may have it off, and acknowledge before the payment is safe
    )


def _set(connection: Any, **parameters: str) -> None:
    # By statements: parameters of the connection would replace `options` in the address.
    connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in parameters.items()))
    connection.commit()


def _hide_details(context: ExceptionContext) -> None:
    """Keep only the first line of an error. In the details, PostgreSQL quotes the row that it refuses."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            error.args = (str(error.args[0]).partition("\n")[0], *error.args[1:])


_current = threading.local()


def in_write() -> bool:
    """Whether this thread is inside `write()`, where HTTP and rendering are forbidden."""
    return getattr(_current, "writing", False)


@contextmanager
def write() -> Iterator[Session]:
    """One short write transaction: committed at the end of the block, rolled back if it raises.

    Objects stay readable after the commit. Never nested, never open during HTTP or rendering.

    Raises:
        RuntimeError: nested (it would wait for itself).
        sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError: locked past `LOCK_TIMEOUT`, disk full,
            connection lost. Nothing was written.
        SettingError: the database's prices are in another currency.
    """
    if in_write():
        raise RuntimeError("write() is never nested: pass its session along")
    _current.writing = True
    try:
        with Session(db.engines["write"], expire_on_commit=False) as session, session.begin():
            check_currency(session)
            yield session
    finally:
        _current.writing = False
    db.session.expire_all()  # later reads of this request see what it has written


def check_currency(session: Session) -> None:
    """Compare `SHOP_CURRENCY` with the currency of the stored prices, once in a process. The first one is stored.

    Raises:
        SettingError: they differ.
    """
    if current_app.extensions.get("currency_checked"):
        return
    ours = {"currency": settings.shop_currency, "exponent": exponent(settings.shop_currency)}
    stored = session.execute(text("SELECT currency, exponent FROM shop")).mappings().one()
    if stored == ours:
        current_app.extensions["currency_checked"] = True
        return
    has_prices = session.scalar(text("SELECT 1 FROM product UNION ALL SELECT 1 FROM orders LIMIT 1"))
    if stored["currency"] and has_prices:
        raise SettingError(
            f"SHOP_CURRENCY is {ours['currency']}, but the prices in the database are in {stored['currency']} with "
            f"{stored['exponent']} decimals. Set SHOP_CURRENCY={stored['currency']}. To sell in {ours['currency']}, "
            "start with an empty database and import products with new prices."
        )
    session.execute(text("UPDATE shop SET currency = :currency, exponent = :exponent"), ours)


def upsert(session: Session, model: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that supports ON CONFLICT."""
    return postgresql.insert(model) if session.get_bind().dialect.name == "postgresql" else sqlite.insert(model)


def engine() -> Engine:
    """Return the writing engine, for migrations and backups."""
    return db.engines["write"]


def sqlite_file() -> Path | None:
    """Return the database's file; None for PostgreSQL."""
    url = engine().url
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None
