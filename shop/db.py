"""The two ways to the database: `db.session` reads, `with write() as session:` writes.

Why two: SQLite lets one writer in at a time. If every request opened a write transaction, each page view would queue
for the write lock. So reads run on an autocommit engine that cannot write, and each write is one short transaction.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, Dialect, Engine, MetaData, event, make_url
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

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
    """Configure both engines from `DATABASE_URL`: the default one reads, the bind `write` writes."""
    url = make_url(app.config["DATABASE_URL"])
    if url.get_backend_name() == "sqlite":
        common: dict[str, Any] = {"url": url, "module": sqlite_library(), "connect_args": {"timeout": LOCK_TIMEOUT}}
        reader = common | {"pool_size": 16}
        # A pool of one makes this process's writers take turns here, which is fairer than SQLite's own polling.
        writer = common | {"pool_size": 1, "max_overflow": 0, "pool_timeout": LOCK_TIMEOUT}
    else:
        limits = f"-c timezone=utc -c lock_timeout={LOCK_TIMEOUT}s"
        common = {"url": url, "pool_pre_ping": True, "pool_timeout": LOCK_TIMEOUT, "pool_size": 16}
        patience = {"connect_timeout": LOCK_TIMEOUT, "tcp_user_timeout": LOCK_TIMEOUT * 1000}
        reader = common | {"connect_args": patience | {"options": f"{limits} -c default_transaction_read_only=on"}}
        writer = common | {"connect_args": patience | {"options": limits}}
    # An error's text may be logged, and parameters are names, addresses and tokens.
    quiet = {"hide_parameters": True}
    app.config["SQLALCHEMY_BINDS"] = {
        None: reader | quiet | {"isolation_level": "AUTOCOMMIT"},
        "write": writer | quiet,
    }
    db.init_app(app)
    with app.app_context():
        if url.get_backend_name() == "sqlite":
            event.listen(db.engines[None], "connect", _prepare_sqlite_reader)
            event.listen(db.engines["write"], "connect", _prepare_sqlite_writer)
            event.listen(db.engines["write"], "begin", _begin_immediate)


def _prepare_sqlite_reader(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")


def _prepare_sqlite_writer(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_immediate` does
    mode = journal_mode()
    connection.execute(f"PRAGMA journal_mode = {mode}")
    # FULL syncs the write-ahead log before a commit returns. NORMAL would answer 200 before the payment is safe.
    connection.execute(f"PRAGMA synchronous = {'FULL' if mode == 'wal' else 'EXTRA'}")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_immediate(connection: Any) -> None:
    # Take the write lock at the start: a transaction that read first and upgraded later could be refused half-way.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


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


def engine() -> Engine:
    """The writing engine, for migrations and backups."""
    return db.engines["write"]
