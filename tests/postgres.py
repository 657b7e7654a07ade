"""A PostgreSQL server from installed programs, with a new database for each test."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

SETTINGS = {
    "listen_addresses": "",  # only the Unix socket
    "fsync": "off",  # power failures are out of scope
    "max_wal_size": "200MB",
    # Unusual values, as the shop must not depend on the defaults:
    "timezone": "Asia/Riyadh",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
}


def programs() -> Path | None:
    """Return the folder of the newest server programs. Debian's are not in PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    in_path = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    return next((path for path in (*debian, *in_path) if all((path / name).exists() for name in NEEDED)), None)


NEEDED = ("initdb", "postgres")


class Server:
    """A server in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        """Create and start a server with the programs `initdb` and `postgres` in `folder`."""
        self.programs = folder
        memory = Path("/dev/shm")  # five times as fast as a busy disk
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
        # Not in pytest's folder: a socket needs a short path.
        self.folder = Path(tempfile.mkdtemp(prefix="dukkan-", dir=memory if roomy else None))
        self.options: dict[str, Any] = {"cwd": self.folder}
        self.options["env"] = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        if os.geteuid() == 0:  # the programs refuse to run as root
            shutil.chown(self.folder, "nobody")
            self.options |= {"user": "nobody", "extra_groups": []}
        self.numbers = count(1)
        make = [str(self.programs / "initdb"), "--pgdata", "data", "--username", "shop", "--auth", "trust", "--no-sync"]
        subprocess.run([*make, "--encoding", "UTF8", "--locale", "C"], check=True, capture_output=True, **self.options)
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [str(self.programs / "postgres"), "-D", "data", "-k", str(self.folder)]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **self.options)
        for _ in range(200):
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Stop the server at once, closing all connections."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def remove(self) -> None:
        """Stop the server and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        """Return a database's URL, in the form that hosting providers use."""
        return f"postgresql://shop@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement on a separate connection; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, template: str) -> Iterator[str]:
        """Create a database from a template, yield its URL, and drop it at the end."""
        name = f"test_{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield self.url(name)
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")
