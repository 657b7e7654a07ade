"""Refunds: recorded, as the gateway has no call for them. Somebody sends the money back by other means first."""

import logging

from flask_babel import lazy_gettext as _
from sqlalchemy.orm import Session

from models import Attention, Delivery, Order, Payment, Refund
from shop import attention, orders, stock
from shop.db import write
from shop.refusals import Refusal
from shop.states import Actor, AttentionKind, By, OrderState

log = logging.getLogger(__name__)


def record(payment_id: int, amount: int, reference: str, note: str, staff_id: int) -> None:
    """Record that money of a payment was sent back.

    Once all money of an order is back, the order is refunded, and goods that were not handed over return to the stock.

    Args:
        payment_id: which payment.
        amount: minor units.
        reference: of the transfer, where it was made.
        note: why.
        staff_id: who sent it back.

    Raises:
        Refusal: more than is left of the payment. Nothing was written.
    """
    with write() as session:
        payment = session.get_one(Payment, payment_id)
        order = orders.lock(session, payment.order_id)
        session.refresh(payment)
        if not 0 < amount <= payment.kept:
            raise Refusal(_("This is more than what is left of the payment."))
        payment.refunds.append(Refund(amount=amount, reference=reference, note=note, staff_id=staff_id))
        session.flush()
        _follow(session, order, By(Actor.STAFF, staff_id), note)
    log.info("a refund of order %s was recorded, by staff %d", order.number, staff_id)


def _follow(session: Session, order: Order, by: By, note: str) -> None:
    """Let an order follow the money that is kept for it."""
    kept = sum(payment.kept for payment in order.payments)
    of_order = Attention.order_id == order.id
    if kept <= order.total:
        attention.close(session, of_order & (Attention.kind == AttentionKind.PAID_TWICE), by.staff_id or 0, note)
    if kept or order.state not in (OrderState.PAID, OrderState.NEEDS_REVIEW):
        return
    if order.delivery and order.delivery.state in Delivery.TO_HAND_OVER:
        stock.give_back(session, order)
    orders.transition(session, order, OrderState.REFUNDED, by)
    decided = Attention.kind.in_([AttentionKind.PAID_SOLD_OUT, AttentionKind.PAID_CANCELLED])
    attention.close(session, of_order & decided, by.staff_id or 0, note)
