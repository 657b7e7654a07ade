"""What a browser carries in its signed cookie: the token of its basket, and those of the orders it placed."""

import hmac

from flask import request, session

from models import Order
from shop.limits import Buyer, network_digest

MAX_ORDERS = 20
"""A cookie holds 4 KB; of more orders the oldest are only reached by their e-mails."""


def basket_token() -> str | None:
    """The token of this browser's basket."""
    token = session.get("basket")
    return token if isinstance(token, str) else None


def keep_basket(token: str) -> None:
    """Remember the basket. A session lasts as long as a basket is worth keeping."""
    if session.get("basket") != token:
        session["basket"] = token
        session.permanent = True


def order_tokens() -> list[str]:
    """The tokens of the orders that this browser placed."""
    tokens = session.get("orders")
    return [token for token in tokens if isinstance(token, str)] if isinstance(tokens, list) else []


def buyer() -> Buyer:
    """This browser as somebody who wants goods held."""
    return Buyer(order_tokens(), network_digest(request.remote_addr))


def keep_order(order: Order) -> None:
    """Remember that this browser may see the whole order."""
    tokens = [token for token in order_tokens() if token != order.token]
    session["orders"] = [*tokens, order.token][-MAX_ORDERS:]
    session.permanent = True


def may_see_all(order: Order, key: str) -> bool:
    """Whether address and receipt may be shown, and the order be cancelled, resumed or paid from here: to the browser
    that placed it, and to whoever holds the key of its e-mailed link. The plain token travels to the gateway."""
    placed_here = order.token in order_tokens()
    return placed_here or hmac.compare_digest(key.encode("utf-8", "replace"), order.key.encode())
