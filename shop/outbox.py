"""What must happen after a commit, stored by that commit: so it happens at least once, whatever crashes in between."""

from sqlalchemy.orm import Session

from models import OutboxMessage
from shop.states import OutboxKind


def enqueue(session: Session, kind: OutboxKind, *, order_id: int) -> None:
    """Have something done for an order after this commit."""
    session.add(OutboxMessage(key=f"{kind.value}:{order_id}", kind=kind, payload={"order_id": order_id}))
