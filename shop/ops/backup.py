"""`flask --app app backup FILE`: a copy of the database, consistent as of one moment, while the shop keeps running.

It contains no keys: API key and secret key are settings, and of the gateway's secrets only digests are stored. It does
contain customers' addresses, so only its owner may read it.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, inspect

from shop.db import db, engine, sqlite_library

STEP = 1000  # pages copied between two progress reports: 4 MB


class Failed(Exception):
    """The backup failed. The text says why, in English."""


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Create a file beside `target`, readable by its owner only, and rename it to `target` when the block succeeds.

    Raises:
        OSError: `target` exists already (nothing is overwritten), or its folder can't be written to.
    """
    _refuse_existing(target)
    number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(number)
    part = Path(name)
    try:
        yield part
        _refuse_existing(target)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _refuse_existing(target: Path) -> None:
    if str(target) == "-":
        raise OSError(errno.EINVAL, "this can't be written to the terminal: name a file")
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "it exists already, and nothing is overwritten", str(target))


def save(target: Path, progress: Callable[[int, int], None]) -> None:
    """Write a backup.

    Args:
        target: the file to make.
        progress: called with the amounts done and in all.

    Raises:
        Failed, OSError: no file was created.
    """
    with new_file(target) as part:
        if engine().dialect.name == "sqlite":
            _copy_sqlite(part, progress)
        else:
            _dump_postgresql(part)
            progress(1, 1)
        if not inspect(db.engine).has_table("alembic_version"):
            raise Failed("the database is empty")


def _copy_sqlite(part: Path, progress: Callable[[int, int], None]) -> None:
    """Copy page by page, and see whether the copy is sound."""
    library = sqlite_library()
    with closing(db.engine.raw_connection()) as pooled, closing(library.connect(part)) as copy:
        source: Any = pooled.driver_connection
        # One reading transaction around all steps: with the write-ahead log others write on meanwhile and the copy
        # stays at this moment. Step by step without it, each foreign write would make SQLite begin anew.
        source.execute("BEGIN")
        try:
            source.execute("SELECT 1 FROM sqlite_master").fetchone()
            source.backup(copy, pages=STEP, progress=lambda _, left, total: progress(total - left, total))
        except library.Error as error:
            raise Failed(f"SQLite could not copy the database: {error}") from None
        finally:
            source.execute("ROLLBACK")
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, that can be read where nothing can be written
        said = copy.execute("PRAGMA integrity_check").fetchone()[0]
        if said != "ok":
            raise Failed(f"the database is damaged, and so would be the copy: {said}")


def _dump_postgresql(part: Path) -> None:
    run_client("pg_dump", "--format=custom", f"--file={part}")


def run_client(name: str, *options: str) -> None:
    """Run a client program of PostgreSQL on the shop's database.

    The password goes by the environment: anyone can read a process's arguments.

    Raises:
        Failed: it isn't there, or it failed.
    """
    program = shutil.which(name)
    if program is None:
        raise Failed(
            f"{name} is not on this machine. Install PostgreSQL's client programs (postgresql-client on Debian and "
            "Ubuntu), in the server's version or a newer one"
        )
    ours = engine().url
    password = ours.password or ours.query.get("password")
    environment = os.environ | ({"PGPASSWORD": str(password)} if password else {})
    url = URL.create("postgresql", ours.username, None, ours.host, ours.port, ours.database, ours.query)
    address = url.difference_update_query(["password"]).render_as_string()
    command = [program, "--no-password", f"--dbname={address}", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{name} failed: {done.stderr.strip() or done.returncode}")
