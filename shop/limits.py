"""Who may hold how much, and how often: limits that keep one visitor from emptying the shop or flooding it."""

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

MAX_BY_BROWSER = 3  # unpaid orders that hold goods at the same time
MAX_BY_NETWORK = 10


@dataclass(frozen=True)
class Buyer:
    """Who wants goods held: the tokens of the orders that a browser placed, and its network's digest, empty if it has
    none (see `network_digest`)."""

    tokens: Sequence[str] = ()
    network: str = ""


UNLIMITED = Buyer()
"""Goods held for nobody on the web, such as a till's customer: nothing is limited."""


def refuse_too_many(session: Session, buyer: Buyer) -> None:
    if buyer.network:
        _serialize_network(session, buyer.network)
    unpaid = Order.state.in_([state for state in OrderState if state.holds_stock_unpaid])
    own = session.scalars(select(Order).where(Order.token.in_(buyer.tokens), unpaid).order_by(Order.id)).all()
    if len(own) >= MAX_BY_BROWSER:
        text = _("You have %(most)s unpaid orders already. Please pay or cancel one first.", most=MAX_BY_BROWSER)
        raise TooManyUnpaid(text, own)
    of_network = select(func.count(Order.id)).where(Order.network == buyer.network, unpaid)
    if buyer.network and session.scalars(of_network).one() >= MAX_BY_NETWORK:
        text = _(
            "There are %(most)s unpaid orders from your internet connection already. Please pay or cancel one of yours "
            "first, or come back in a while.",
            most=MAX_BY_NETWORK,
        )
        raise TooManyUnpaid(text, own)


def _serialize_network(session: Session, network: str) -> None:
    """Let those of one network in one by one until the transaction ends, or neither would see the other's order."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite's writers take turns anyway
        session.execute(select(func.pg_advisory_xact_lock(int(network[:15], 16))))


class MissLimiter:
    """How many callbacks without a secret of ours this process has recorded: 60 a minute at most, the rest is counted.

    In memory, and for each process by itself. A limit in the database would cost the very write that it is to save.
    """

    def __init__(self, limit: int = 60, seconds: float = 60.0) -> None:
        """Begin with none. Requests that are at it at the same moment can exceed `limit` by their own number."""
        self.seconds = seconds
        self._recorded = deque[float](maxlen=limit)
        self._skipped = 0
        self._lock = threading.Lock()

    def is_full(self) -> bool:
        """Whether another one may only be counted now."""
        with self._lock:
            is_full = len(self._recorded) == self._recorded.maxlen
            return is_full and self._recorded[0] > time.monotonic() - self.seconds

    def skip(self) -> None:
        """Count one that is not recorded. The first since one that was is worth a line in the log, and no other."""
        with self._lock:
            self._skipped += 1
            first = self._skipped == 1
        if first:
            log.warning("too many callbacks without a secret of ours: for a while they are only counted")

    def record(self) -> int:
        """Note that one is recorded. Gives how many were only counted before it, once: the count begins anew."""
        with self._lock:
            self._recorded.append(time.monotonic())
            skipped, self._skipped = self._skipped, 0
            return skipped


def init_limits(app: Flask) -> None:
    """Begin to count what this process counts by itself."""
    app.extensions["miss_limiter"] = MissLimiter()


def current_miss_limiter() -> MissLimiter:
    """The limiter of the running app."""
    limiter: MissLimiter = current_app.extensions["miss_limiter"]
    return limiter


def network_digest(address: str | None) -> str:
    """A keyed digest of the network that an address belongs to; empty where there is no address.

    Nobody who has only the database can tell the address from it, not even by trying all of them. Of an IPv6 address
    the first 64 bits count, since the rest is its owner's to choose.
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
