"""The web server: waitress, which runs anywhere and buffers for slow clients.

By default it drops requests in flight when it stops: `run` finishes them. What one client may cost is limited in
`connections`.
"""

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from flask import Flask
from waitress import wasyncore

from shop.config import settings_of
from shop.ops import connections

if sys.platform != "win32":
    import resource

DRAIN_SECONDS = 15
FIRST_REQUEST_SECONDS = 1  # for connections that were accepted just before a stop
CONNECTIONS = 1000  # a slow client costs a socket, not a thread; a hundred must not exhaust the limit


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
    proxies = settings_of(app).trusted_proxies
    server = connections.Server(
        app,
        listener,
        limit=connection_limit(raise_file_limit(), threads),
        network_limit=None if proxies else connections.NETWORK_LIMIT,
        threads=threads,
        ident=None,
        # waitress would remove forwarded headers; ProxyFix only uses them behind TRUSTED_PROXIES.
        clear_untrusted_proxy_headers=not proxies,
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


def raise_file_limit() -> int:
    """Raise the limit of open files and sockets to what `run` needs, or as far as allowed. Return what there is."""
    wanted = _files_for(CONNECTIONS, threads=64)
    if sys.platform == "win32":  # which has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def connection_limit(files: int, threads: int) -> int:
    """Return how many connections fit into a limit of open files; at least 10."""
    return max(10, min(CONNECTIONS, (files - _files_for(0, threads)) // 2))


def _files_for(connections: int, threads: int) -> int:
    """Files and sockets for so many connections and threads.

    A connection has its socket and the static file that it is sent; a thread the database with its log and its lock
    file, and a connection to the gateway.
    """
    return 2 * connections + 4 * threads + 64


def _drain(server: connections.Server) -> None:
    """Accept whoever has connected, then nobody, and finish the requests that have been read.

    New connections have a moment to send their request: a proxy may just have chosen this process.
    """
    for _ in range(CONNECTIONS // connections.ACCEPT_AT_ONCE):
        server.handle_accept()
    wasyncore.dispatcher.close(server)
    start = time.monotonic()
    while server.active_channels and time.monotonic() < start + DRAIN_SECONDS:
        wasyncore.loop(timeout=0.1, map=server._map, count=1, use_poll=True)
        is_over = time.monotonic() > start + FIRST_REQUEST_SECONDS
        for channel in server.active_channels.values():
            # A kept-alive connection could bring requests forever.
            is_idle = not (channel.requests or channel.total_outbufs_len)
            channel.will_close = channel.will_close or (is_idle and (is_over or not channel.is_new))
