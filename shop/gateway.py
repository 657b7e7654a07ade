"""The gateway from this process: its client and slots, the log of calls, and the checkout closed by a rejected key."""

import threading
from datetime import datetime

from flask import current_app
from sqlalchemy import select, update

import amwal
from models import GatewayCall, Shop, now
from shop.db import db, write

THREADS = 16
"""Default threads of a web process. SQLite has one writer: more threads would only wait."""


class Gateway:
    """The client of this process, and the slots for threads that wait for the gateway."""

    def __init__(self, client: amwal.Client, threads: int = THREADS) -> None:
        self.client = client
        self.slots = threading.BoundedSemaphore(threads // 2)  # the other half is for callbacks and pages


def current_gateway() -> Gateway:
    """Return the gateway of the running app."""
    gateway: Gateway = current_app.extensions["amwal"]
    return gateway


KEY_REJECTED = amwal.KeyRejected.__name__
KEY_VERDICTS = ("ok", KEY_REJECTED, "reopened")
"""Outcomes in the log of calls that say something about the API key. A gateway that doesn't answer says nothing."""


def checkout_is_closed() -> bool:
    """Whether no orders are taken: the merchant has closed the shop, or the gateway rejects our API key."""
    return closed_by_merchant() is not None or key_is_rejected()


def closed_by_merchant() -> str | None:
    """The merchant's sentence for customers while the shop is closed; None while it is open."""
    return db.session.scalar(select(Shop.closed_why).where(Shop.closed_since.is_not(None)))


def close_by_merchant(why: str) -> None:
    """Close the checkout with a sentence for customers, or reopen it with an empty one."""
    with write() as session:
        session.execute(update(Shop).values(closed_since=now() if why else None, closed_why=why))


def key_is_rejected() -> bool:
    """Whether the gateway rejected our API key three times in a row, so that no new order could be paid.

    The checkout reopens when the gateway accepts the key again (*try again* on a waiting order, or `flask doctor`), or
    by `reopen_checkout`.
    """
    verdicts = select(GatewayCall.outcome).where(GatewayCall.outcome.in_(KEY_VERDICTS))
    return list(db.session.scalars(verdicts.order_by(GatewayCall.id.desc()).limit(3))) == [KEY_REJECTED] * 3


def reopen_checkout(who: str) -> None:
    """Reopen the checkout by hand. `who` did it goes into the log of calls."""
    log_call(now(), 0, "reopened", f"by {who}")


def log_call(started: datetime, milliseconds: int, outcome: str, detail: str = "") -> None:
    """Log a call to the gateway that was for no order."""
    with write() as session:
        call = GatewayCall(started_at=started, milliseconds=milliseconds, outcome=outcome, detail=detail[:300])
        session.add(call)
