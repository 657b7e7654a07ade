"""`flask --app app restore FILE`: a backup in the place of the database, marked as not yet compared with the gateway.

A backup knows nothing of what happened after it, and the gateway doesn't repeat callbacks that were answered 200. So
orders that may have been paid since are in doubt: nobody is asked to pay them again, and the shop says "compare since
…" until somebody has (`flask compare`). Numbers that may have been given since are not given again.
"""

import os
import shutil
import tempfile
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, create_engine, func, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models import CallbackAttempt, Heartbeat, Order, OrderEvent, Shop, now
from shop.attention import flag
from shop.config import settings
from shop.db import check_currency, db, engine, sqlite_file, sqlite_library, write
from shop.ops import health
from shop.ops.backup import Failed, run_client
from shop.ops.probe import ask
from shop.states import AttentionKind, OrderState

NUMBERS_LEFT_OUT = 1000
OPEN = (OrderState.PLACED, OrderState.AWAITING_PAYMENT, OrderState.EXPIRED)
LOGS = ("-wal", "-journal")
"""What SQLite may keep beside a database: commits that aren't in the file yet, or what undoes half of one."""


def refuse_while_running() -> None:
    """Raise `Failed` while a shop answers at PUBLIC_URL, or a worker of the present database is alive."""
    if ask("GET", f"{settings.public_url}/healthz").status == 200:
        raise Failed(f"something answers at {settings.public_url}: stop the shop first")
    file = sqlite_file()
    with suppress(SQLAlchemyError):
        if not file or file.exists():
            beat = db.session.scalar(select(Heartbeat.at).filter_by(name="worker"))
            if health.worker_is_alive(beat):
                raise Failed("a worker is running, or was two minutes ago: stop it first, and wait for two minutes")


def restore(backup: Path) -> Path | None:
    """Put a backup in the place of the database. It is marked before it stands there, and must be upgraded afterwards.

    Returns:
        Where the former database is kept; None if there was none.

    Raises:
        Failed, OSError: the present database is still in its place, or was moved to where the text says.
        SettingError: the backup's prices are in another currency. (PostgreSQL's are compared by `mark_in_place`.)
    """
    backup.open("rb").close()  # raises for a missing file, which SQLite would make
    target = sqlite_file()
    if target is None:
        _restore_postgresql(backup)
        return None
    if not target.parent.is_dir():
        raise Failed(f"there is no folder {target.parent} for the database. Make it, or correct DATABASE_URL")
    if target.exists() and backup.samefile(target):
        raise Failed(f"{backup} is the database itself")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        part = Path(folder, target.name)
        _copy(backup, part)
        copied = create_engine(URL.create("sqlite", database=str(part)), module=sqlite_library())
        with Session(copied) as session, session.begin():
            check_currency(session)
            mark(session)
        copied.dispose()
        with part.open("rb") as copy:
            os.fsync(copy.fileno())
        db.session.remove()
        for one in db.engines.values():
            one.dispose()
        _close_log(target)
        aside = _move_aside(target)
        part.rename(target)
    return aside


def mark(session: Session) -> None:
    """Mark a restored database: open orders are in doubt, numbers go on far behind, and an item says what to do."""
    at = now()
    times = (func.max(OrderEvent.at), func.max(CallbackAttempt.received_at), func.max(Heartbeat.at))
    known: list[datetime] = [found for one in times if (found := session.scalar(select(one)))]
    since = min(max(known, default=at), at)
    highest = max(
        session.scalar(select(func.max(Order.id))) or 0, session.scalars(select(Shop.next_order_id)).one() - 1
    )
    following = -(-(highest + NUMBERS_LEFT_OUT) // NUMBERS_LEFT_OUT) * NUMBERS_LEFT_OUT
    session.execute(update(Shop).values(next_order_id=following, restored_at=at, compared_at=None))
    session.execute(update(Order).where(Order.state.in_(OPEN)).values(returned_at=at))
    todo = "Run flask compare with the gateway's list of paid invoices. Payments since then may be missing here."
    flag(session, AttentionKind.RESTORED, f"{since:%Y-%m-%d %H:%M} UTC", todo)


def mark_in_place() -> None:
    """Mark a database that was restored by other means, such as a snapshot of its disk. The shop may run."""
    with write() as session:
        mark(session)


def _copy(backup: Path, copy: Path) -> None:
    """Copy a database into one file, with what stands in its log.

    Raises:
        Failed: it isn't a sound database of this shop that this version can upgrade.
    """
    copy.touch(mode=0o600)
    shutil.copyfile(backup, copy)
    for suffix in LOGS:
        with suppress(FileNotFoundError):
            shutil.copyfile(_beside(backup, suffix), _beside(copy, suffix))
    library = sqlite_library()
    with closing(library.connect(copy)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
            said = connection.execute("PRAGMA integrity_check").fetchone()[0]
            [(revision,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            [_] = connection.execute("SELECT id FROM shop").fetchall()
        except (library.DatabaseError, ValueError):
            raise Failed(f"{backup} is no backup of a shop, or it is damaged") from None
    if said != "ok":
        raise Failed(f"{backup} is damaged: {' '.join(said.split())[:200]}")
    if revision not in health.known_revisions():
        raise Failed(f"{backup} was made by a later version of the shop: restore it with that version")


def _close_log(target: Path) -> None:
    """Bring the log of the present database into its file. SQLite does so only for the one process that has it open.

    Without a write-ahead log that can't be seen, but then SQLite itself refuses to write to a file that was moved.

    Raises:
        Failed: another process has it open.
    """
    library = sqlite_library()
    if not target.exists():
        return
    with closing(library.connect(target, timeout=0)) as connection, suppress(library.DatabaseError):
        # A damaged database is moved as it is, with its log.
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
        except library.OperationalError as error:
            if "locked" in str(error):
                raise Failed(f"a program has {target} open: stop all of the shop's servers and workers first") from None


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _move_aside(target: Path) -> Path | None:
    """Move the present database away, with the files that belong to it."""
    aside = target.with_name(f"{target.stem}-before-restore-{now():%Y-%m-%d-%H%M%S}{target.suffix}")
    for suffix in (*LOGS, "-shm"):
        with suppress(FileNotFoundError):
            _beside(target, suffix).rename(_beside(aside, suffix))
    try:
        target.rename(aside)
    except FileNotFoundError:
        return None
    return aside


def _restore_postgresql(backup: Path) -> None:
    if inspect(engine()).get_table_names():
        raise Failed(
            "the database is not empty. Make a new one by createdb, set DATABASE_URL to it, and run this again; or, if "
            "this was interrupted before, run flask --app app restore --mark"
        )
    run_client("pg_restore", "--no-owner", "--exit-on-error", "--single-transaction", str(backup))
