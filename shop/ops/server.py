"""The web server: waitress, which runs anywhere and buffers for slow clients.

By default it drops requests in flight when it stops. `run` finishes them.
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

from shop.config import settings_of

DRAIN_SECONDS = 15


def run(app: Flask, host: str, port: int, threads: int, housekeeping: Callable[[], object]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Args:
        app: the shop.
        host: address to listen on.
        port: port to listen on.
        threads: concurrent requests.
        housekeeping: called about once a second.

    Raises:
        OSError: the address is in use, or not one of this machine.
    """
    # It would log a line for each request that has to wait a moment.
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
        connection_limit=1000,  # a slow client costs a socket, not a thread; a hundred must not exhaust the limit
        channel_timeout=30,
        # waitress would remove forwarded headers; ProxyFix only uses them behind TRUSTED_PROXIES.
        clear_untrusted_proxy_headers=not settings_of(app).trusted_proxies,
        asyncore_use_poll=True,
    )
    stopping, next_round = False, 0.0

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True  # only a flag: an exception here could break a request being read

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping:
        wasyncore.loop(timeout=0.5, map=server._map, count=1, use_poll=True)
        if time.monotonic() > next_round:
            next_round = time.monotonic() + 1
            housekeeping()
    _drain(server)


def _drain(server: wasyncore.dispatcher) -> None:
    """Accept no new connections, and finish the requests that have been read."""
    wasyncore.dispatcher.close(server)
    until = time.monotonic() + DRAIN_SECONDS
    while server.active_channels and time.monotonic() < until:
        wasyncore.loop(timeout=0.1, map=server._map, count=1, use_poll=True)
        for channel in server.active_channels.values():
            # A kept-alive connection could bring requests forever.
            channel.will_close = channel.will_close or not (channel.requests or channel.total_outbufs_len)
