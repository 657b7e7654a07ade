"""The outbox: effects that follow a commit, stored by that commit, so each happens at least once despite crashes."""

from sqlalchemy import insert, or_, select
from sqlalchemy.orm import Session

from models import OutboxMessage
from shop.db import db
from shop.states import DeliveryState, OutboxKind

TO_CUSTOMER = (OutboxKind.MAIL_PAY_HERE, OutboxKind.MAIL_RECEIPT, OutboxKind.MAIL_DELIVERY)


def enqueue(session: Session, *kinds: OutboxKind, order_id: int) -> None:
    """Queue effects for an order, each once: their keys are unique. The worker handles them after this commit."""
    rows = [{"key": _key(kind, order_id), "kind": kind, "payload": {"order_id": order_id}} for kind in kinds]
    session.execute(insert(OutboxMessage), rows)


def enqueue_delivery(session: Session, order_id: int, state: DeliveryState) -> None:
    """Queue the e-mail that says where the goods are, once for each state of the delivery."""
    payload = {"order_id": order_id, "state": state.value}
    key = _key(OutboxKind.MAIL_DELIVERY, order_id, state)
    session.add(OutboxMessage(key=key, kind=OutboxKind.MAIL_DELIVERY, payload=payload))


def mail_keys(order_id: int) -> list[str]:
    """Return the keys of the e-mails to an order's customer. Each has the order's link."""
    of_delivery = [_key(OutboxKind.MAIL_DELIVERY, order_id, state) for state in DeliveryState]
    return [_key(OutboxKind.MAIL_PAY_HERE, order_id), _key(OutboxKind.MAIL_RECEIPT, order_id), *of_delivery]


def keys_of(order_id: int) -> list[str]:
    """Return the keys of all of an order's messages."""
    return [*mail_keys(order_id), _key(OutboxKind.MAIL_PAID_ORDER, order_id)]


def has_mailed_link(order_id: int) -> bool:
    """Whether an e-mail with the order's link was sent, or is about to be: none that failed and is tried again."""
    sent_or_new = or_(OutboxMessage.done_at.is_not(None), OutboxMessage.error == "")
    mails = select(OutboxMessage.id).where(OutboxMessage.key.in_(mail_keys(order_id)), sent_or_new)
    return db.session.scalar(mails.limit(1)) is not None


def _key(kind: OutboxKind, order_id: int, state: DeliveryState | None = None) -> str:
    return f"{kind.value}:{order_id}" + (f".{state.value}" if state else "")
