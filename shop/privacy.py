"""Privacy: erase the contact data of customers who ask for it and of orders never paid; delete old baskets.

Only contact data is erased; orders, payments and tax records are kept. An expired order is cancelled for good: a late
payment then goes to review instead of starting a delivery to nobody. E-mails that were sent, backups and logs are not
reached.
"""

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.orm import Session

from models import Attention, Basket, BasketItem, Order, OrderNote, OutboxMessage, now
from shop import orders
from shop.db import db, engine, write
from shop.outbox import mail_keys
from shop.states import OPERATOR, WORKER, AttentionKind, By, OrderState
from shop.text import email_address, fold

CONTACT = (
    *("name", "name_key", "email", "email_key", "phone"),
    *("address", "city", "region", "postcode", "country", "note", "network"),
)
UNPAID_KEPT = timedelta(days=30)
"""Contact data of an order that was never paid is kept this long after its reservation ended."""
BASKETS_KEPT = timedelta(days=90)
CHUNK = 1000  # orders in a round of the worker; baskets in a transaction

_NEVER_PAID = (OrderState.EXPIRED, OrderState.CANCELLED)


def forget(email: str) -> tuple[list[Order], list[Order]]:
    """Erase the contact data of a customer's orders. E-mails still queued for them are not sent.

    Orders that wait for a payment, a decision or their delivery still need the address and are left.

    Args:
        email: the address, in any case, also as mail programs copy it.

    Returns:
        The orders that were erased, and those that were left.
    """
    cleared: list[Order] = []
    left: list[Order] = []
    theirs = select(Order.id).where(Order.email_key == fold(email_address(email))).order_by(Order.id)
    for order_id in db.session.scalars(theirs).all():
        with write() as session:  # a transaction each, so that no checkout waits long
            order = orders.lock(session, order_id)
            if not is_over(order):
                left.append(order)
                continue
            _clear(session, order, OPERATOR)
            cleared.append(order)
    if engine().dialect.name == "sqlite":
        # The write-ahead log would keep the old pages for a while.
        with closing(engine().raw_connection()) as raw:
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return cleared, left


def is_over(order: Order) -> bool:
    """Whether the customer's address is no longer needed."""
    handed_over = order.delivery is not None and order.delivery.state.is_final
    if order.state is OrderState.PAID:
        return handed_over
    return order.state in (*_NEVER_PAID, OrderState.REFUNDED) and not order.is_in_doubt


def tidy() -> None:
    """Erase contact data of old orders never paid, and delete old baskets. For the worker's hourly chores."""
    due = (
        Order.state.in_(_NEVER_PAID),
        Order.reserved_until <= now() - UNPAID_KEPT,
        ~Order.in_doubt(),
        or_(*(getattr(Order, name) != "" for name in CONTACT)),
        ~select(Attention.id)
        .where(Attention.order_id == Order.id, Attention.closed_at.is_(None))
        .where(Attention.kind == AttentionKind.POSSIBLY_PAID)
        .exists(),
    )
    for order_id in db.session.scalars(select(Order.id).where(*due).order_by(Order.id).limit(CHUNK)).all():
        with write() as session:
            order = orders.lock(session, order_id)
            if order.state in _NEVER_PAID and is_over(order):  # unless it was paid or resumed meanwhile
                _clear(session, order, WORKER)
    while _delete_old_baskets() == CHUNK:
        pass


def _clear(session: Session, order: Order, by: By) -> None:
    if order.state is OrderState.EXPIRED:
        orders.transition(session, order, OrderState.CANCELLED, by, "contact data cleared")
    for name in CONTACT:
        setattr(order, name, "")
    order.basket_id = order.basket_version = None
    session.execute(update(OrderNote).where(OrderNote.order_id == order.id).values(text=""))
    # A mail server's error, stored with the message and in the attention item, may quote the address.
    session.execute(update(OutboxMessage).where(OutboxMessage.key.in_(mail_keys(order.id))).values(error=""))
    told = update(Attention).filter_by(order_id=order.id, kind=AttentionKind.OUTBOX_STUCK)
    session.execute(told.values(detail=""))


def _delete_old_baskets() -> int:
    of_an_order = exists().where(Order.basket_id == Basket.id)
    old = select(Basket.id).where(Basket.updated_at <= now() - BASKETS_KEPT, ~of_an_order).limit(CHUNK)
    with write() as session:
        # The lock keeps out a customer who returns right now; SKIP LOCKED leaves baskets already in use.
        ids: Sequence[int] = session.scalars(old.with_for_update(skip_locked=True)).all()
        session.execute(delete(BasketItem).where(BasketItem.basket_id.in_(ids)))
        session.execute(delete(Basket).where(Basket.id.in_(ids)))
        return len(ids)
