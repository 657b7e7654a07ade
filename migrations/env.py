"""Runs the migrations, on SQLite and PostgreSQL.

SQLite changes a table by copying it to a new one and dropping the old one. With foreign keys on, that drop deletes or
orphans every row that refers to the table, without an error. They can only be switched off outside a transaction, so
it is done on the driver's own connection before SQLAlchemy begins one.
"""

import os
from typing import Any

import click
from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

import models
from shop.db import OpenEnum, UTCDateTime, engine


def render_item(kind: str, item: Any, _context: AutogenContext) -> str | bool:
    """Write our own column types as the plain ones that they are made of: migrations must outlive the code."""
    if kind == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    return "sa.String(length=40)" if kind == "type" and isinstance(item, OpenEnum) else False


def migrate(connection: Connection) -> None:
    """Run the revisions in one transaction, then see that no row refers to a missing one."""
    context.configure(
        connection=connection,
        target_metadata=models.Base.metadata,
        render_as_batch=True,
        compare_type=True,
        transactional_ddl=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":  # the shop's limits are too narrow for a large table's migration
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        context.run_migrations()
        if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
            raise RuntimeError("this migration would leave rows that refer to missing ones; nothing was changed")


umask = os.umask(0o077)  # a new database is readable by its owner only; SQLite gives its log the same mode
try:
    connected = engine().connect()
except SQLAlchemyError as error:
    reason = str(getattr(error, "orig", error)).splitlines()[0]
    raise click.ClickException(f"The database can't be opened: {reason}. See flask --app app doctor.") from None
with connected as connection:
    on_sqlite = connection.dialect.name == "sqlite"
    raw = connection.connection.dbapi_connection
    if on_sqlite:
        raw.execute("PRAGMA foreign_keys = OFF")
    try:
        migrate(connection)
    finally:
        os.umask(umask)
        if on_sqlite:
            connection.rollback()
            raw.execute("PRAGMA foreign_keys = ON")
