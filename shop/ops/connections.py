"""What one client of `flask serve` may cost: waitress' connections, with limits on memory, files and time.

Waitress alone gives no client's connection an end as long as something moves, and serves whatever a client asks for,
whether it reads the answers or not. These few classes change that. They override documented names where there are any,
and tests/test_connections.py fails if another version of waitress no longer calls the rest.
"""

import logging
import time
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network
from socket import SHUT_RDWR, SO_SNDBUF, SOL_SOCKET, socket
from typing import Any
from wsgiref.types import WSGIApplication

from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.utilities import BadRequest

log = logging.getLogger(__name__)
KIB = 1024

BODY_LIMIT = 128 * KIB
"""Bytes of a body that are kept. The shop answers a longer one with 413, for which the rest isn't needed."""

READ_LIMIT = 16 * KIB * KIB
"""Bytes of a body that are read, so that the client sees the 413: one that is still sending may lose it."""

FRAMING_LIMIT = 4 * KIB
"""Bytes of one line of a chunked body. Waitress itself has no limit."""

LIMITS = {
    "max_request_header_size": 32 * KIB,
    "max_request_body_size": READ_LIMIT + 1,
    "recv_bytes": KIB,  # some twenty requests: all that arrived are parsed and kept before the first is served
    "outbuf_overflow": 512 * KIB,  # bytes of an answer in memory; a longer one waits in a file
    "cleanup_interval": 1,  # seconds between two calls of `maintenance`
}
"""Waitress' own limits."""

IDLE_SECONDS = 30
REQUEST_SECONDS = 60
"""For a whole request: enough for a form of 2 KiB at 50 bytes a second, or BODY_LIMIT at 2.2 KiB a second."""

READ_SECONDS, READ_RATE = 30, 2 * KIB
"""A client has so many seconds to read an answer, and one more for so many bytes that it takes.

It is never more than twice READ_SECONDS ahead: systems take data in portions of up to 90 KiB, silent ones at first too.
"""

SEND_BUFFER = 64 * KIB
"""Bytes that the system may keep for a slow reader. Linux would go up to 4 MiB, and READ_RATE would see nothing."""

NETWORK_LIMIT = 100
"""Connections of one network. A browser opens up to 6, and an idle one ends after 30 seconds."""

ACCEPT_AT_ONCE = 20
WARN_SECONDS = 60


class Body(OverflowableBuffer):  # type: ignore[misc]  # here and below: waitress has no types
    """The beginning of a request's body, with one byte more than may be there."""

    def append(self, data: bytes) -> None:
        """Keep what is still within the limit."""
        super().append(data[: BODY_LIMIT + 1 - len(self)])


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """Reads a request and keeps little of a large one."""

    def parse_header(self, header: bytes) -> None:
        """Give the body its limit."""
        super().parse_header(header)
        if self.body_rcv is not None:
            self.body_rcv.buf = Body(self.adj.inbuf_overflow)

    def received(self, data: bytes) -> int:
        """Refuse a chunked body whose lines have no end."""
        consumed: int = super().received(data)
        if self.chunked and len(self.body_rcv.control_line) + len(self.body_rcv.trailer) > FRAMING_LIMIT:
            self.error, self.completed = BadRequest("a line of the chunked body is too long"), True
        return consumed


class Channel(HTTPChannel):  # type: ignore[misc]
    """A client's connection. The next of several requests is served when the answer before it has gone out.

    So at most one answer waits, and with it one open file. (Waitress reads nothing either while an answer waits.)
    """

    parser_class = Parser
    is_parked = False  # requests are there, but an answer has to go out first
    is_leaving = False
    is_new = True  # nothing has been sent yet

    def __init__(self, server: "Server", sock: socket, address: Any, *more: Any, **options: Any) -> None:
        self.network = network_of(address[0])
        self.since = time.monotonic()  # when the connection was opened, or its present request began or was complete
        self.read_by = self.since + READ_SECONDS
        super().__init__(server, sock, address, *more, **options)

    def received(self, data: bytes) -> bool:
        """Take in what arrived."""
        before = self.request
        result: bool = super().received(data)
        if self.request is None or self.request is not before:
            self.since = time.monotonic()
        return result

    def handle_read(self) -> None:
        """Read, but nothing more of a connection that is being closed."""
        if self.is_leaving:
            self.handle_close()
        else:
            super().handle_read()

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send what the system takes, and let the client earn time by it."""
        sent: int = super().send(data, do_close)
        self.is_new = False
        self.read_by = min(self.read_by + sent / READ_RATE, time.monotonic() + 2 * READ_SECONDS)
        return sent

    def writable(self) -> bool:
        """Whether something is to be done as soon as the system takes more data."""
        return bool(self.is_parked or super().writable())

    def handle_write(self) -> None:
        """Send what waits; then go on with the next request."""
        super().handle_write()
        if self.is_parked and self.connected:
            self.server.add_task(self)

    def hang_up(self) -> None:
        """Let waitress close it in its next round.

        If it was closed in this one, a new connection could get its number from the system, and the events that
        waitress still has at hand for it.
        """
        self.is_leaving = True
        with suppress(OSError):  # the client was faster
            self.socket.shutdown(SHUT_RDWR)

    def can_leave(self) -> bool:
        """Whether no thread works on it, nor will as soon as one is free."""
        return self.is_parked or not self.requests

    def is_overdue(self) -> bool:
        """Whether the client takes too long to read an answer, to send a request, or to begin one."""
        now = time.monotonic()
        if self.total_outbufs_len:
            return now > self.read_by
        self.read_by = now + READ_SECONDS  # for the next answer
        if self.requests:
            return False
        if self.request is None:
            return bool(time.time() > self.last_activity + IDLE_SECONDS)
        return now > self.since + REQUEST_SECONDS


class Server(TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections while there is room, and makes room by closing the slowest."""

    channel_class = Channel

    def __init__(
        self, app: WSGIApplication, listener: socket, limit: int, network_limit: int | None, **options: Any
    ) -> None:
        """Listen.

        Args:
            app: the shop.
            listener: a socket that is bound to an address.
            limit: connections at most.
            network_limit: connections of one network at most; None if a proxy stands before the shop.
            options: waitress' own.
        """
        self.limit, self.network_limit = limit, network_limit
        self.resting_until = self.quiet_until = 0.0
        # Waitress' own limit would only stop accepting, and log each time. It also counts connections that are leaving.
        options |= LIMITS | {"connection_limit": limit + 3 * ACCEPT_AT_ONCE, "asyncore_use_poll": True}
        listener.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)  # its connections inherit it
        place = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(app, _sock=listener, bind_socket=False, sockinfo=place, **options)

    def add_task(self, channel: Channel) -> None:
        """Serve a connection's next request, once its last answer has gone out."""
        channel.is_parked = bool(channel.total_outbufs_len)
        if not channel.is_parked:
            super().add_task(channel)

    def readable(self) -> bool:
        """Whether to accept connections now. Waitress asks in each round of its loop."""
        return bool(super().readable() and self._has_room())

    def handle_accept(self) -> None:
        """Accept several connections, where waitress accepts one a round: a callback may stand behind a thousand."""
        for _ in range(ACCEPT_AT_ONCE):
            super().handle_accept()

    def accept(self) -> tuple[socket, Any] | None:
        """Accept a connection; None if there is none, or no room for it."""
        if not self._has_room():
            return None
        try:
            pair: tuple[socket, Any] | None = super().accept()
        except OSError as error:  # no files are left: trying again and again would take all time
            self._warn("no connection can be accepted: %s", error.strerror)
            self.resting_until = time.monotonic() + 1
            close_slowest(self._channels())
            return None
        network = network_of(pair[1][0]) if pair and self.network_limit else None
        if pair and network:
            neighbours = [channel for channel in self._channels() if channel.network == network]
            if len(neighbours) >= (self.network_limit or 0) and not close_slowest(neighbours):
                pair[0].close()
                return None
        return pair

    def _has_room(self) -> bool:
        """Whether another connection fits, for which the slowest may be closed.

        Asked in each round of the loop, so that a place is free for whoever comes.
        """
        if time.monotonic() < self.resting_until:
            return False
        channels = self._channels()
        if len(channels) < self.limit:
            return True
        self._warn("all %s connections are in use; the slowest are closed", self.limit)
        return close_slowest(channels)

    def _channels(self) -> list[Channel]:
        """Return the connections but those that are being closed."""
        return [channel for channel in self.active_channels.values() if not channel.is_leaving]

    def maintenance(self, _now: float) -> None:
        """Close what is overdue. Called every second, instead of waitress' own.

        That one closes whatever took no data for a while, in the middle of an answer, and only once it takes some.
        """
        for channel in self._channels():
            if channel.is_overdue():
                channel.hang_up()

    def _warn(self, text: str, value: object) -> None:
        """Log a warning, one a minute."""
        if time.monotonic() > self.quiet_until:
            self.quiet_until = time.monotonic() + WARN_SECONDS
            log.warning(text, value)


def close_slowest(channels: list[Channel]) -> bool:
    """Close the connection that has been sending, reading or idle for the longest time; False if all are served."""
    slowest = min(filter(Channel.can_leave, channels), key=lambda channel: channel.since, default=None)
    if slowest:
        slowest.hang_up()
    return bool(slowest)


def network_of(address: str) -> IPv4Address | IPv6Network | None:
    """Return what is counted as one network: an IPv4 address, or the first 64 bits of an IPv6 address.

    None for loopback and private addresses: a proxy or tunnel there may bring everybody's connections.
    """
    ip = ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if not ip.is_global:
        return None
    return ip if isinstance(ip, IPv4Address) else ip_network((ip, 64), strict=False)  # type: ignore[return-value]
