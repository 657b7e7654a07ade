"""Whether the shop can take orders, for `/readyz`."""

from datetime import timedelta

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from sqlalchemy.exc import SQLAlchemyError

from models import Heartbeat, now
from shop.db import db

WORKER_TIMEOUT = timedelta(minutes=2)
"""A worker without a heartbeat for longer counts as stopped."""


def problems() -> list[str]:
    """Return the problems in plain words; empty if there are none."""
    try:
        with db.engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current != newest_revision():
            return ["the database is not up to date: run flask db upgrade"]
        beat = db.session.get(Heartbeat, "worker")
    except SQLAlchemyError:
        return ["the database does not answer"]
    if beat is None or beat.at < now() - WORKER_TIMEOUT:
        return ["the worker is not running: start flask worker, or flask serve, which starts one"]
    return []


def newest_revision() -> str | None:
    """Return the head revision of the migrations."""
    return ScriptDirectory(current_app.extensions["migrate"].directory).get_current_head()
