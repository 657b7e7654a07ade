"""The web server: waitress, which runs anywhere and shields the threads from slow clients.

Its own way of stopping drops requests that are in flight. `run` lets them finish.
"""

import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

from flask import Flask
from waitress import wasyncore
from waitress.server import create_server

from shop.config import settings

DRAIN_SECONDS = 15


def run(app: Flask, host: str, port: int, threads: int, look_around: Callable[[], object]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Args:
        app: the shop.
        host: address to listen on.
        port: port to listen on.
        threads: requests at the same time.
        look_around: called about once a second, to see to what else the process minds.

    Raises:
        OSError: the address is taken or not ours.
    """
    # Every busy thread would otherwise log a line for each request that has to wait a moment.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    server = create_server(
        app,
        sockets=[listener],
        threads=threads,
        ident=None,
        max_request_body_size=1024 * 1024,
        connection_limit=1000,  # slow clients cost a socket each and no thread; a hundred must not fill the house
        channel_timeout=30,
        # waitress would take forwarded headers away; ProxyFix believes them only where TRUSTED_PROXIES says so.
        clear_untrusted_proxy_headers=not settings.trusted_proxies,
        asyncore_use_poll=True,
    )
    stopping, next_look = False, 0.0

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True  # only noted: an exception here could tear a request that is just being read

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping:
        wasyncore.loop(timeout=0.5, map=server._map, count=1, use_poll=True)
        if time.monotonic() > next_look:
            next_look = time.monotonic() + 1
            look_around()
    _drain(server)


def _drain(server: wasyncore.dispatcher) -> None:
    """Take no new connections, and send the answers to the requests that have been read."""
    wasyncore.dispatcher.close(server)
    until = time.monotonic() + DRAIN_SECONDS
    while server.active_channels and time.monotonic() < until:
        wasyncore.loop(timeout=0.1, map=server._map, count=1, use_poll=True)
        for channel in server.active_channels.values():
            # One that is kept alive would bring requests forever.
            channel.will_close = channel.will_close or not (channel.requests or channel.total_outbufs_len)
