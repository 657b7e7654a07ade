"""Serving the gateway: what the commands share."""

import os
import signal
import socket
import threading
from contextlib import suppress
from time import monotonic, sleep
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click

DRAIN_SECONDS = 10
# Above the app's own limit, so that up to this size the 413 and its message come from the app.
LARGEST_READ = 1024 * 1024


def web_address(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Check an option: an http(s) address, or nothing."""
    with suppress(ValueError):  # from `urlsplit`, for malformed hosts and ports
        parts = urlsplit(value or "http://nothing")
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return value
    raise click.BadParameter("must start with http:// or https:// and a host")


def stop_with(_context: click.Context, _option: click.Parameter, parent: int | None) -> None:
    """Stop this process when the one that started it has stopped."""

    def wait() -> None:
        while os.getppid() == parent:
            sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent is not None:
        threading.Thread(target=wait, daemon=True).start()


def listen(host: str, port: int, option: str) -> socket.socket:
    """Return a listening socket, or end with a one-line error that names the option for another port."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise click.ClickException(
            f"Can't listen on {host}, port {port}: {error.strerror}. Choose another with {option}."
        ) from error


def address(host: str, port: int) -> str:
    """Return the server's address for this machine."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - only compared
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def stop_on_signals(server: Any) -> threading.Event:
    """Return an event set by Ctrl-C or SIGTERM; a second signal kills the process."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()
        server.pull_trigger()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


def run(server: Any, stop: threading.Event) -> None:
    """Serve until `stop` is set, then let the requests in progress finish.

    This replaces waitress's `run()`, which drops unsent answers when it stops.
    """

    def turn(seconds: float) -> None:
        server.asyncore.loop(timeout=seconds, map=server._map, use_poll=server.adj.asyncore_use_poll, count=1)

    while not stop.is_set():
        turn(1)
    turn(0)  # accept waiting connections
    server.del_channel()
    server.socket.close()
    deadline = monotonic() + DRAIN_SECONDS
    while monotonic() < deadline and any(
        channel.request or channel.requests or channel.total_outbufs_len for channel in server.active_channels.values()
    ):
        turn(0.1)
    server.task_dispatcher.shutdown()
