"""The probes: whether this process can serve (`/readyz`), and whether the shop as a whole is well (`/statusz`).

Whatever routes traffic asks `/readyz` alone: a silent worker must never keep callbacks out.
"""

import threading
import time
from datetime import datetime, timedelta

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from models import Attention, Heartbeat, OutboxMessage, now
from shop.db import db, upsert, write
from shop.states import AttentionKind

WORKER_TIMEOUT = timedelta(minutes=2)
"""A worker without a heartbeat for longer counts as stopped."""
OUTBOX_TIMEOUT = timedelta(minutes=5)
"""How long a message may be due before the worker should have tried it."""
WRITE_EVERY = 5.0  # seconds between two writes tried for `/statusz`

_write_check = threading.Lock()


def unready() -> list[str]:
    """Why this process can't serve, in plain words; empty if it can."""
    try:
        if is_outdated(current_revision()):
            return ["the database is not up to date: run flask db upgrade"]
    except SQLAlchemyError:
        return ["the database does not answer"]
    return []


def alarms() -> list[str]:
    """What is wrong with the shop as a whole, in plain words; empty if nothing is."""
    if problems := unready():
        return problems
    found = []
    try:
        if not worker_is_alive(db.session.scalar(select(Heartbeat.at).filter_by(name="worker"))):
            found.append("the worker is not running: start flask worker, or flask serve, which starts one")
        overdue = select(func.min(OutboxMessage.due_at)).where(OutboxMessage.done_at.is_(None))
        oldest = db.session.scalar(overdue)
        if oldest is not None and oldest < now() - OUTBOX_TIMEOUT:
            found.append(f"e-mails or other tasks are overdue since {oldest:%Y-%m-%d %H:%M} UTC")
        if since := uncompared_since():
            found.append(f"a backup was restored: compare with the gateway since {since}, by flask compare")
    except SQLAlchemyError:
        return ["the database does not answer"]
    return found if _can_write() else [*found, "the database takes no writes: see the log, and the space on its disk"]


def worker_is_alive(beat: datetime | None) -> bool:
    """Whether a heartbeat is recent. One from the future was written while a clock was wrong, and says nothing."""
    return beat is not None and now() - WORKER_TIMEOUT <= beat <= now() + timedelta(seconds=10)


def current_revision() -> str | None:
    """Return the database's revision; None before the first migration."""
    with db.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str | None:
    """Return the head revision of this version's migrations."""
    return _scripts().get_current_head()


def is_outdated(revision: str | None) -> bool:
    """Whether a database at this revision is too old for this version.

    An unknown revision is a later version's: its migrations only add, so that both versions can run during an upgrade.
    """
    return revision is None or revision in known_revisions() - {newest_revision()}


def known_revisions() -> set[str | None]:
    """Return all revisions of this version's migrations."""
    return {script.revision for script in _scripts().walk_revisions()}


def uncompared_since() -> str:
    """Since when payments may be missing, as a backup was restored and not yet compared; empty if none was."""
    waiting = select(Attention.subject).filter_by(kind=AttentionKind.RESTORED, closed_at=None)
    return db.session.scalar(waiting.order_by(Attention.subject).limit(1)) or ""


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(current_app.extensions["migrate"].directory)


def _can_write() -> bool:
    """Whether a write succeeds; tried once in a while, however often it is asked."""
    extensions = current_app.extensions
    with _write_check:
        at, result = extensions.get("write_check", (-WRITE_EVERY, True))
        if time.monotonic() < at + WRITE_EVERY:
            return bool(result)
        try:
            with write() as session:
                row = upsert(session, Heartbeat).values(name="write", at=now())
                session.execute(row.on_conflict_do_update(index_elements=["name"], set_={"at": row.excluded.at}))
            result = True
        except SQLAlchemyError:
            result = False
        extensions["write_check"] = (time.monotonic(), result)
        return bool(result)
