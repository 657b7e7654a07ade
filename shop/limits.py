"""Limits on unpaid orders per visitor, and on callbacks without a known secret."""

import hashlib
import hmac
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from flask import Flask, current_app
from flask_babel import lazy_gettext as _
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import Order
from shop.config import settings
from shop.refusals import TooManyUnpaid
from shop.states import OrderState

log = logging.getLogger(__name__)

MAX_BY_BROWSER = 3  # unpaid orders with reserved goods at the same time
MAX_BY_NETWORK = 10


@dataclass(frozen=True)
class Buyer:
    """Who reserves goods: a browser's order tokens and its network's digest.

    See `network_digest`; it is empty if there is no address.
    """

    tokens: Sequence[str] = ()
    network: str = ""


UNLIMITED = Buyer()
"""For orders that aren't placed on the web, such as at a till: not limited."""


def refuse_too_many(session: Session, buyer: Buyer) -> None:
    """Raise `TooManyUnpaid` if the buyer has reached a limit."""
    if buyer.network:
        _serialize_network(session, buyer.network)
    unpaid = Order.state.in_([state for state in OrderState if state.holds_stock_unpaid])
    own = session.scalars(select(Order).where(Order.token.in_(buyer.tokens), unpaid).order_by(Order.id)).all()
    if len(own) >= MAX_BY_BROWSER:
        text = _("You already have %(most)s unpaid orders. Please pay or cancel one first.", most=MAX_BY_BROWSER)
        raise TooManyUnpaid(text, own)
    of_network = select(func.count(Order.id)).where(Order.network == buyer.network, unpaid)
    if buyer.network and session.scalars(of_network).one() >= MAX_BY_NETWORK:
        text = _(
            "There are already %(most)s unpaid orders from your internet connection. Please pay or cancel one of "
            "yours, or try again later.",
            most=MAX_BY_NETWORK,
        )
        raise TooManyUnpaid(text, own)


def _serialize_network(session: Session, network: str) -> None:
    """Serialize checkouts of one network until the transaction ends.

    Otherwise concurrent checkouts wouldn't count each other's order.
    """
    if session.get_bind().dialect.name == "postgresql":  # SQLite serializes all writers
        session.execute(select(func.pg_advisory_xact_lock(int(network[:15], 16))))


class MissLimiter:
    """Rate limit for recording callbacks without a known secret.

    60 a minute per process are recorded, further ones only counted. The limit is in memory: in the database, it would
    cost the write it is meant to save.
    """

    def __init__(self, limit: int = 60, seconds: float = 60.0) -> None:
        """Create an empty limiter. Concurrent requests can exceed `limit` by their number."""
        self.seconds = seconds
        self._recorded = deque[float](maxlen=limit)
        self._skipped = 0
        self._lock = threading.Lock()

    def is_full(self) -> bool:
        """Whether the limit is reached, so that the next one is only counted."""
        with self._lock:
            is_full = len(self._recorded) == self._recorded.maxlen
            return is_full and self._recorded[0] > time.monotonic() - self.seconds

    def skip(self) -> None:
        """Count a callback that isn't recorded; log the first after a recorded one."""
        with self._lock:
            self._skipped += 1
            first = self._skipped == 1
        if first:
            log.warning("too many callbacks without a known secret: they are only counted for now")

    def record(self) -> int:
        """Note a recorded callback; return and reset the number skipped before it."""
        with self._lock:
            self._recorded.append(time.monotonic())
            skipped, self._skipped = self._skipped, 0
            return skipped


def init_limits(app: Flask) -> None:
    """Create this process's limiter."""
    app.extensions["miss_limiter"] = MissLimiter()


def current_miss_limiter() -> MissLimiter:
    """The current app's limiter."""
    limiter: MissLimiter = current_app.extensions["miss_limiter"]
    return limiter


def network_digest(address: str | None) -> str:
    """A keyed digest of an address's network; empty if there is no address.

    Without the key it can't be reversed, not even by trying all addresses. Of an IPv6 address only the first 64 bits
    count, since its owner can choose the rest.
    """
    try:
        ip = ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    network = ip_network(f"{ip}/{64 if ip.version == 6 else 32}", strict=False)
    key = settings.secret_key.encode()
    return hmac.new(key, f"network {network}".encode(), hashlib.sha256).hexdigest()
