"""This process's client of the gateway, the log of our calls, and the checkout that closes when the key is rejected."""

import threading
from datetime import datetime

from flask import current_app
from sqlalchemy import select

import amwal
from models import GatewayCall, now
from shop.db import db, write

THREADS = 16
"""Threads of a web process, unless it says otherwise. SQLite has one writer: more would only wait."""


class Gateway:
    """This process's client, and how many of its threads may wait for the gateway at the same time."""

    def __init__(self, client: amwal.Client, threads: int = THREADS) -> None:
        """Keep the client. Half of the threads may wait for it, so that callbacks never starve behind a PUT."""
        self.client = client
        self.slots = threading.BoundedSemaphore(threads // 2)


def current_gateway() -> Gateway:
    """The gateway of the running app."""
    gateway: Gateway = current_app.extensions["amwal"]
    return gateway


KEY_VERDICTS = ("ok", "KeyRejected", "reopened")
"""What the log of our requests can say about the API key, or a person about it. No answer says nothing."""


def checkout_is_closed() -> bool:
    """Whether the gateway rejected our API key three times in a row: then nobody could pay what is ordered now.

    The checkout opens by itself once the gateway accepts the key again, for a waiting order's *try again* or for
    `flask doctor`; or a person opens it: see `reopen_checkout`.
    """
    verdicts = select(GatewayCall.outcome).where(GatewayCall.outcome.in_(KEY_VERDICTS))
    return list(db.session.scalars(verdicts.order_by(GatewayCall.id.desc()).limit(3))) == ["KeyRejected"] * 3


def reopen_checkout(who: str) -> None:
    """Let orders be placed again, since a person says that the key is right now. `who` is put down in the log."""
    log_call(now(), 0, "reopened", f"by {who}")


def log_call(started: datetime, milliseconds: int, outcome: str, detail: str = "") -> None:
    """Put a request to the gateway into the log that was for no order."""
    with write() as session:
        call = GatewayCall(started_at=started, milliseconds=milliseconds, outcome=outcome, detail=detail[:300])
        session.add(call)
