"""The outbox: effects that follow a commit, stored by that commit, so each happens at least once despite crashes."""

from sqlalchemy.orm import Session

from models import OutboxMessage
from shop.states import OutboxKind


def enqueue(session: Session, kind: OutboxKind, *, order_id: int) -> None:
    """Queue an effect for an order, once: its key is unique. The worker handles it after this commit."""
    session.add(OutboxMessage(key=f"{kind.value}:{order_id}", kind=kind, payload={"order_id": order_id}))
