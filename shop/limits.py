"""Limits: how much a visitor who pays nothing may reserve, order and have e-mailed.

Reserving, ordering and making us send e-mails cost a stranger nothing. All numbers are here; docs/security.md says what
each protects, and what remains possible.
"""

import hashlib
import hmac
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network

from flask import Flask, current_app
from flask_babel import lazy_gettext as _
from sqlalchemy import String, cast, func, literal, or_, select
from sqlalchemy.orm import Session

from models import Order, OrderLine, OutboxMessage, Product, now
from shop.config import settings
from shop.refusals import TooManyUnits, TooManyUnpaid
from shop.states import OrderState, OutboxKind

log = logging.getLogger(__name__)

# Per browser and per network (an IPv4 address, or the first 64 bits of an IPv6 address):
MAX_BY_BROWSER = 3  # unpaid orders with reserved goods at the same time
MAX_BY_NETWORK = 10
MAX_UNPAID_PER_HOUR = 30  # orders of a network placed in the last hour and not paid, cancelled ones too
FAIR_UNITS = 3  # of a product for a network that reserved goods in vain, or half of what is for sale
IN_VAIN = timedelta(minutes=30)  # how long it held goods unpaid within `MEMORY` for that
MEMORY = timedelta(days=1)

MAX_RESUMES = 2  # of an order
MAX_PAY_HERE_PER_DAY = 3  # e-mails "pay here" to one mailbox; receipts are never limited
MAX_BASKETS_PER_HOUR = 300  # new ones of a network, in each process
MAX_MISSES_PER_MINUTE = 60  # callbacks without a known secret recorded by a process; further ones are counted

# Passwords tried within 15 minutes, in each process:
MAX_TRIES = 10  # by a network, or by a browser that has signed in before
MAX_TRIES_FOR_ACCOUNT = 20  # by browsers that haven't
MAX_TRIES_PER_MINUTE = 60  # by all of those together
MAX_WAITING = 2  # for their turn to have a password hashed
MAX_LINKS_PER_HOUR = 10  # for a new password, asked for by a network; at most one in ten minutes for an account

_HOLDING = [state for state in OrderState if state.holds_stock_unpaid]
_IN_VAIN = [OrderState.EXPIRED, OrderState.CANCELLED]


@dataclass(frozen=True)
class Buyer:
    """Who reserves goods: a browser's order tokens and its network's digest, see `network_digest`.

    Without a network, only the browser's own orders are limited.
    """

    tokens: Sequence[str] = ()
    network: str = ""


UNLIMITED = Buyer()
"""For orders that aren't placed on the web, such as at a till."""


def check_order(session: Session, buyer: Buyer, units: Mapping[int, int]) -> None:
    """Check whether a buyer may reserve goods.

    Args:
        session: of the open `write()`.
        buyer: who reserves.
        units: how many of each product, by its id.

    Raises:
        TooManyUnpaid, TooManyUnits: a limit is reached.
    """
    if buyer.network:
        _serialize_network(session, buyer.network)
    own = select(Order).where(Order.token.in_(buyer.tokens), Order.state.in_(_HOLDING)).order_by(Order.id)
    unpaid = session.scalars(own).all()
    if len(unpaid) >= MAX_BY_BROWSER:
        text = _("You already have %(most)s unpaid orders. Please pay or cancel one first.", most=MAX_BY_BROWSER)
        raise TooManyUnpaid(text, unpaid)
    if not buyer.network:
        return
    of_network = select(func.count(Order.id)).where(Order.network == buyer.network)
    if session.scalars(of_network.where(Order.state.in_(_HOLDING))).one() >= MAX_BY_NETWORK:
        text = _(
            "There are already %(most)s unpaid orders from your internet connection. Please pay or cancel one of "
            "yours, or try again later.",
            most=MAX_BY_NETWORK,
        )
        raise TooManyUnpaid(text, unpaid)
    recent = of_network.where(Order.placed_at > now() - timedelta(hours=1), Order.state.in_(_HOLDING + _IN_VAIN))
    if session.scalars(recent).one() >= MAX_UNPAID_PER_HOUR:
        text = _("There were too many unpaid orders from your internet connection. Please try again in an hour.")
        raise TooManyUnpaid(text, unpaid)
    if _reserved_in_vain(session, buyer.network):
        _check_units(session, buyer.network, units)


def _reserved_in_vain(session: Session, network: str) -> bool:
    """Whether orders of a network that expired or were cancelled kept goods from others for long, recently."""
    since = now() - MEMORY
    ended = select(Order.held_since, Order.reserved_until).where(Order.network == network, Order.state.in_(_IN_VAIN))
    held = session.execute(ended.where(Order.placed_at > since - MEMORY, Order.reserved_until > since))
    return sum((until - start for start, until in held), timedelta()) >= IN_VAIN


def _check_units(session: Session, network: str, units: Mapping[int, int]) -> None:
    """Leave others half of each product, so that nobody empties the shop twice for nothing."""
    held = select(OrderLine.product_id, func.sum(OrderLine.quantity).label("units")).join(OrderLine.order)
    held = held.where(Order.network == network, Order.state.in_(_HOLDING), OrderLine.product_id.in_(units))
    holds = {row.product_id: row.units for row in session.execute(held.group_by(OrderLine.product_id))}
    for product in session.scalars(select(Product).where(Product.id.in_(units)).order_by(Product.id)):
        already = holds.get(product.id, 0)
        most = max(FAIR_UNITS, (product.stock + already) // 2) - already
        if units[product.id] > most:
            raise TooManyUnits(product, max(most, 0))


def may_resume(order: Order) -> bool:
    """Whether an expired order's goods may be reserved once more."""
    return order.reservation <= MAX_RESUMES and not order.is_in_doubt


def may_mail_pay_here(session: Session, order: Order) -> bool:
    """Whether the buyer's mailbox may get another e-mail "pay here": anybody can type anybody's address.

    `name+anything@host` is the mailbox of `name@host`.
    """
    name, _at, host = order.email_key.partition("@")
    base = name.partition("+")[0]
    mailbox = or_(
        Order.email_key == f"{base}@{host}",
        Order.email_key.startswith(f"{base}+", autoescape=True) & Order.email_key.endswith(f"@{host}", autoescape=True),
    )
    key = literal(f"{OutboxKind.MAIL_PAY_HERE.value}:") + cast(Order.id, String)
    recent = select(key).where(mailbox, Order.placed_at > now() - timedelta(days=1))
    sent = select(func.count(OutboxMessage.id)).where(OutboxMessage.key.in_(recent))
    return session.scalars(sent).one() < MAX_PAY_HERE_PER_DAY


def _serialize_network(session: Session, network: str) -> None:
    """Serialize checkouts of one network until the transaction ends.

    Otherwise concurrent checkouts wouldn't count each other's order.
    """
    if session.get_bind().dialect.name == "postgresql":  # SQLite serializes all writers
        session.execute(select(func.pg_advisory_xact_lock(int(network[:15], 16))))


class MissLimiter:
    """Rate limit for recording callbacks without a known secret.

    Each process records some a minute and only counts further ones. The limit is in memory: in the database, it would
    cost the write it is meant to save.
    """

    def __init__(self, limit: int = MAX_MISSES_PER_MINUTE, seconds: float = 60.0) -> None:
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


class RateLimiter:
    """Rate limit for each of many keys, such as networks. In memory, so that refusing costs no write."""

    KEYS = 10_000  # kept; then the oldest goes

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def is_full(self, key: str = "") -> bool:
        """Whether `allows` would refuse."""
        times = self._times.get(key)
        return times is not None and self._is_full(times)

    def allows(self, key: str = "") -> bool:
        """Count one for a key; False, and not counted, if there were `limit` within the last `seconds`."""
        with self._lock:
            times = self._times.setdefault(key, deque(maxlen=self._limit))
            if len(self._times) > self.KEYS:
                del self._times[next(iter(self._times))]
            if self._is_full(times):
                return False
            times.append(time.monotonic())
            return True

    def _is_full(self, times: deque[float]) -> bool:
        return len(times) == self._limit and times[0] > time.monotonic() - self._seconds


def init_limits(app: Flask) -> None:
    """Create this process's limiters."""
    app.extensions["miss_limiter"] = MissLimiter()
    app.extensions["basket_limiter"] = RateLimiter(MAX_BASKETS_PER_HOUR, 3600)


def current_miss_limiter() -> MissLimiter:
    """The current app's limiter."""
    limiter: MissLimiter = current_app.extensions["miss_limiter"]
    return limiter


def may_open_basket(buyer: Buyer) -> bool:
    """Whether a buyer may begin a basket: a program without cookies would begin one with each request."""
    limiter: RateLimiter = current_app.extensions["basket_limiter"]
    return not buyer.network or limiter.allows(buyer.network)


def network_digest(*addresses: str | None) -> str:
    """Return a keyed digest of the network of the first address that can be read.

    If none can, all such visitors count as one network. Without the key the digest can't be reversed, not even by
    trying all addresses. Of an IPv6 address only the first 64 bits count, since its owner can choose the rest.
    """
    network = next(filter(None, map(_network, addresses)), "unknown")
    key = settings.secret_key.encode()
    return hmac.new(key, f"network {network}".encode(), hashlib.sha256).hexdigest()


def _network(address: str | None) -> str:
    """The network of an address; empty if it can't be read. Some proxies add a port, or brackets."""
    text = re.sub(r"^\[(.*)\](:\d+)?$|^([^:]*):\d+$", r"\1\3", (address or "").strip())
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    return str(ip_network(f"{ip}/{64 if ip.version == 6 else 32}", strict=False))
