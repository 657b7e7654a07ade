"""Programs that tests start. They know nothing of the fork's own shop, and end with the test that started them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
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


def is_setting(name: str) -> bool:
    """Whether one of the programs under test reads this environment variable."""
    return name.startswith(OWN) or name in NAMES


def forget_settings() -> None:
    """Remove every setting from the environment and point `.env` elsewhere, for this process and what it starts.

    A fork runs the tests beside its own shop, whose live database they must neither read nor write.
    """
    for name in filter(is_setting, list(os.environ)):
        del os.environ[name]
    os.environ |= {"DUKKAN_DOTENV": os.devnull, "FLASK_SKIP_DOTENV": "1"}


class Start(Protocol):
    """Starts a program."""

    def __call__(self, *command: str, log: Path | None = None, errors: Path | None = None, **environment: str) -> Child:
        """Start Python, or another program if the first argument is its absolute path.

        Args:
            command: arguments for Python, such as `-m sandbox serve`.
            log: the file for its output; without one, `stdout` is a pipe.
            errors: the file for stderr, if it is not to go where stdout goes.
            environment: variables to add.
        """


@contextmanager
def children() -> Iterator[Start]:
    """Start programs inside this block; those still running at its end are ended, in reverse order."""
    with ExitStack() as stack:

        def start(*command: str, log: Path | None = None, errors: Path | None = None, **environment: str) -> Child:
            child = subprocess.Popen(
                command if Path(command[0]).is_absolute() else [sys.executable, "-u", *command],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=stack.enter_context(log.open("w")) if log else subprocess.PIPE,
                stderr=stack.enter_context(errors.open("w")) if errors else subprocess.STDOUT,
                text=True,
                start_new_session=True,  # the group that `end` ends
            )
            stack.callback(end, child)
            return child

        yield start


def end(child: Child) -> None:
    """Stop a program with SIGTERM, then kill what is left of it and of its own children."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout:
        child.stdout.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def wait_for(url: str, status: int = 200, seconds: float = 60) -> None:
    """Wait until an address answers with this status."""
    until = time.monotonic() + seconds
    while True:
        with suppress(requests.RequestException):
            if requests.get(url, timeout=2).status_code == status:
                return
        if time.monotonic() > until:
            raise AssertionError(f"{url} does not answer with {status}")
        time.sleep(0.05)
