"""The two ways to the database: `db.session` reads, `with write() as session:` writes.

Why two: SQLite lets one writer in at a time. If every request opened a write transaction, each page view would queue
for the write lock. So reads run on an autocommit engine that cannot write, and each write is one short transaction.

On PostgreSQL writers go side by side, at READ COMMITTED. That is enough because no decision rests on a row that was
read without a lock: what is judged is read under a lock, which gives its newest version; stock is taken by an UPDATE
with a condition, which is checked on the newest version, too; and what may exist once has its unique constraint.
Locks are taken in the same order everywhere, so that no two writers wait for each other: order, basket, a network's
turn, products by their id, items of the queue. If PostgreSQL finds a deadlock all the same, one of the two fails as
if it had been locked out: with a 503, and nothing written.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from types import ModuleType
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, Dialect, Engine, ExceptionContext, MetaData, String, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

from shop.config import settings

try:
    from pysqlite3 import dbapi2 as newer_sqlite
except ImportError:
    newer_sqlite = None

LOCK_TIMEOUT = 5  # seconds that a write waits for its turn before it fails with a 503


class Base(DeclarativeBase):
    """Base of all models. Every constraint has a name, so that migrations can change it on any database."""

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
    """A point in time, always aware and in UTC. (SQLite keeps no time zone and would give naive times back.)"""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: nobody knows what they mean."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime was about to be stored; use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time back as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class UnknownWord(str):
    """A stored word that this version doesn't know. It stands for itself where people read it."""

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
    """The SQLite to use: pysqlite3's where it is installed (it is newer than most systems'), else Python's own."""
    return newer_sqlite or sqlite3


def has_wal_reset_fix(version: tuple[int, ...]) -> bool:
    """Whether this SQLite is free of the WAL-reset bug, which could lose a commit that was already acknowledged."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def journal_mode(library: ModuleType | None = None) -> str:
    """`wal` where it is safe; otherwise `delete`, where readers and the writer block each other."""
    library = library or sqlite_library()
    return "wal" if has_wal_reset_fix(tuple(library.sqlite_version_info)) else "delete"


def init_db(app: Flask) -> None:
    """Configure the engines from `DATABASE_URL`: the default one reads, the bind `write` writes."""
    url = make_url(settings.database_url)
    on_sqlite = url.get_backend_name() == "sqlite"
    # An error's text may be logged, and parameters are names, addresses and tokens.
    common: dict[str, Any] = {"url": url, "hide_parameters": True, "pool_size": 16}
    if on_sqlite:
        common |= {"module": sqlite_library(), "connect_args": {"timeout": LOCK_TIMEOUT}}
        # A pool of one makes this process's writers take turns here, which is fairer than SQLite's own polling.
        writer = common | {"pool_size": 1, "max_overflow": 0, "pool_timeout": LOCK_TIMEOUT}
    else:
        # A server that was restarted is found out before it matters, and one that is gone within seconds.
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
            event.listen(one, "begin", _begin_immediate)
        else:
            event.listen(one, "connect", _prepare_sqlite_reader)


def _prepare_sqlite_reader(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")


def _prepare_sqlite_writer(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_immediate` does
    mode = journal_mode()
    connection.execute(f"PRAGMA journal_mode = {mode}")
    # FULL syncs the write-ahead log before a commit returns. NORMAL would answer 200 before the payment is safe.
    connection.execute(f"PRAGMA synchronous = {'FULL' if mode == 'wal' else 'EXTRA'}")
    connection.execute("PRAGMA foreign_keys = ON")
    # What is overwritten is overwritten with zeros: a forgotten customer's address is in no corner of file or backup.
    connection.execute("PRAGMA secure_delete = ON")


def _begin_immediate(connection: Any) -> None:
    # Take the write lock at the start: a transaction that read first and upgraded later could be refused half-way.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


_POSTGRESQL_TIMEOUTS = {
    "connect_timeout": LOCK_TIMEOUT,
    "tcp_user_timeout": LOCK_TIMEOUT * 1000,
    "keepalives_idle": LOCK_TIMEOUT,
    "keepalives_interval": 1,
}
"""How long libpq waits for a server that says nothing: a lost network would hold a thread for hours."""


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
        # A machine that vanishes in the middle of a write must not keep its locks until somebody notices.
        idle_in_transaction_session_timeout=f"{2 * LOCK_TIMEOUT}s",
        synchronous_commit="on",  # a server may have it off, and would answer before the payment is safe
    )


def _set(connection: Any, **parameters: str) -> None:
    # By statements, as the address may have `options` of its own, which those of a connection would replace.
    connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in parameters.items()))
    connection.commit()


def _hide_details(context: ExceptionContext) -> None:
    """Keep an error's first line alone. In its details PostgreSQL quotes the row that it refuses."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            error.args = (str(error.args[0]).partition("\n")[0], *error.args[1:])


_current = threading.local()


def in_write() -> bool:
    """Whether this thread is inside `write()`. HTTP and rendering must never happen there."""
    return getattr(_current, "writing", False)


@contextmanager
def write() -> Iterator[Session]:
    """One short write transaction: committed at the end of the block, rolled back if it raises.

    Objects stay readable after the commit. Never nested, never open during HTTP or rendering.

    Raises:
        RuntimeError: if nested (it would wait for itself).
        sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError: locked past `LOCK_TIMEOUT`, disk full,
            connection lost. Nothing was written.
    """
    if in_write():
        raise RuntimeError("write() is never nested: pass its session along")
    _current.writing = True
    try:
        with Session(db.engines["write"], expire_on_commit=False) as session, session.begin():
            yield session
    finally:
        _current.writing = False
    db.session.expire_all()  # what this request reads from here on is what it has just written


def upsert(session: Session, model: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say what happens ON CONFLICT."""
    return postgresql.insert(model) if session.get_bind().dialect.name == "postgresql" else sqlite.insert(model)


def engine() -> Engine:
    """The writing engine, for migrations and backups."""
    return db.engines["write"]
