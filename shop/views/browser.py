"""The signed session cookie: the tokens of a browser's basket and orders."""

import hmac
from datetime import timedelta

from flask import current_app, request, session

from models import Order, now
from shop.config import settings
from shop.limits import Buyer, network_digest
from shop.security import is_own_machine

MAX_ORDERS = 20
"""A cookie holds 4 KB. Older orders are reached by the links in their e-mails."""

JUST_PAID = timedelta(minutes=10)


def basket_token() -> str | None:
    """The token of this browser's basket."""
    token = session.get("basket")
    return token if isinstance(token, str) else None


def keep_basket(token: str) -> None:
    """Remember the basket. A session lasts as long as a basket is kept."""
    if session.get("basket") != token:
        session["basket"] = token
        session.permanent = True


def sends_cookies() -> bool:
    """Whether the browser sent a cookie of this shop, so that it keeps cookies."""
    ours = {current_app.config[name] for name in ("SESSION_COOKIE_NAME", "LANGUAGE_COOKIE", "STAFF_COOKIE")}
    return not ours.isdisjoint(request.cookies)


def order_tokens() -> list[str]:
    """The tokens of the orders placed in this browser."""
    tokens = session.get("orders")
    return [token for token in tokens if isinstance(token, str)] if isinstance(tokens, list) else []


def buyer() -> Buyer:
    """This browser's identity for the limits. The demo's own machine is no network: robots buy there for a show."""
    if settings.demo and is_own_machine(request.remote_addr):
        return Buyer(order_tokens())
    return Buyer(order_tokens(), network())


def network() -> str:
    """The digest of this browser's network."""
    proxy = request.environ.get("werkzeug.proxy_fix.orig", {}).get("REMOTE_ADDR")
    return network_digest(request.remote_addr, proxy)


def keep_order(order: Order) -> None:
    """Remember that this order was placed in this browser."""
    tokens = [token for token in order_tokens() if token != order.token]
    session["orders"] = [*tokens, order.token][-MAX_ORDERS:]
    session.permanent = True


def sees_paid_first(order: Order) -> bool:
    """Whether this browser sees for the first time that the order was paid, and soon after."""
    if order.paid_at is None or now() > order.paid_at + JUST_PAID or session.get("seen_paid") == order.token:
        return False
    session["seen_paid"] = order.token
    return True


def may_see_all(order: Order, key: str) -> bool:
    """Whether the reader may see address and receipt, and cancel or resume the order.

    True for the browser that placed it and for the key of the e-mailed link. The token alone isn't enough, since it is
    sent to the gateway.
    """
    placed_here = order.token in order_tokens()
    return placed_here or hmac.compare_digest(key.encode("utf-8", "replace"), order.key.encode())
