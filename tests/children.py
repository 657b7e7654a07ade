"""Programs that tests start, without the settings of the fork's own shop."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import requests

from shop.config import NAMES

ROOT = Path(__file__).parent.parent
END_SECONDS = 30

OWN = ("AMWAL_", "SHOP_", "DUKKAN_", "SANDBOX_", "FLASK_", "PG")
"""Prefixes of the variables that the shop, the sandbox, Flask's command line and PostgreSQL's clients read."""

Child = subprocess.Popen[str]
Log = Path | int


def is_setting(name: str) -> bool:
    """Return whether a program under test reads this environment variable."""
    return name.startswith(OWN) or name in NAMES


def forget_settings() -> None:
    """Remove all settings from the environment of this process, and ignore `.env`.

    A fork may run the tests next to its own shop: they must neither read nor write its live database.
    """
    for name in filter(is_setting, list(os.environ)):
        del os.environ[name]
    os.environ |= {"DUKKAN_DOTENV": os.devnull, "FLASK_SKIP_DOTENV": "1"}


class Start(Protocol):
    """Function that starts a program."""

    def __call__(
        self, *command: str, log: Log | None = None, errors: Path | None = None, env: Mapping[str, str] = {}
    ) -> Child:
        """Start Python, or another program if the first argument is its absolute path.

        Args:
            command: arguments for Python, such as `-m sandbox serve`.
            log: the file or descriptor for its output; without one, `stdout` is a pipe.
            errors: the file for stderr; without one, it goes to stdout.
            env: variables to add.
        """


@contextmanager
def children() -> Iterator[Start]:
    """Yield a function that starts programs; stop them at the end, in reverse order."""
    with ExitStack() as stack:

        def start(
            *command: str, log: Log | None = None, errors: Path | None = None, env: Mapping[str, str] = {}
        ) -> Child:
            child = subprocess.Popen(
                command if Path(command[0]).is_absolute() else [sys.executable, "-u", *command],
                cwd=ROOT,
                env={**os.environ, **env},
                stdout=stack.enter_context(log.open("w")) if isinstance(log, Path) else log or subprocess.PIPE,
                stderr=stack.enter_context(errors.open("w")) if errors else subprocess.STDOUT,
                text=True,
                start_new_session=True,  # the group that `end` ends
            )
            stack.callback(end, child)
            return child

        yield start


def end(child: Child) -> None:
    """Stop a program with SIGTERM, then kill its process group."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout:
        child.stdout.close()


def start_demo(start: Start, folder: Path, port: int) -> tuple[Child, str, str]:
    """Start what `make demo` runs, for this machine only. Gives the stage and the addresses of shop and sandbox."""
    log = folder.with_name(f"{folder.name}-stage.log")
    stage = start("-m", "stage", "--local", "--port", str(port), "--folder", str(folder), log=log)
    until = time.monotonic() + 60
    while "Press Ctrl-C to stop" not in log.read_text() and stage.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    found = re.search(r"Shop\s+(http\S+)/.*Sandbox gateway\s+(http\S+)/", log.read_text(), re.DOTALL)
    assert found, log.read_text()
    return stage, found[1], found[2]


def free_ports(count: int) -> list[int]:
    """Return unused ports."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]


def free_port() -> int:
    """Return an unused port."""
    return free_ports(1)[0]


def wait_for(url: str, status: int = 200, seconds: float = 60) -> None:
    """Wait until a URL answers with this status, up to `seconds`."""
    until = time.monotonic() + seconds
    while True:
        with suppress(requests.RequestException):
            if requests.get(url, timeout=2).status_code == status:
                return
        if time.monotonic() > until:
            raise AssertionError(f"{url} does not answer with {status}")
        time.sleep(0.05)
