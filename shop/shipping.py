"""Handing over: what staff decide about an order that was paid too late."""

import logging

from flask_babel import lazy_gettext as _

from models import Attention, Delivery
from shop import attention, orders, stock
from shop.db import write
from shop.outbox import enqueue
from shop.refusals import Refusal
from shop.states import Actor, AttentionKind, By, OrderState, OutboxKind

log = logging.getLogger(__name__)


def release(order_id: int, staff_id: int, note: str) -> None:
    """Hand over an order in review after all: its stock must be there.

    Args:
        order_id: which order.
        staff_id: who decides.
        note: why.

    Raises:
        Refusal: it is no longer in review, or too little is in stock. Nothing was written.
    """
    by = By(Actor.STAFF, staff_id)
    with write() as session:
        order = orders.lock(session, order_id)
        if order.state is not OrderState.NEEDS_REVIEW:
            raise Refusal(_("This order was decided already."))
        order.reservation += 1
        stock.take(session, order)
        orders.transition(session, order, OrderState.PAID, by)
        session.add(Delivery(order_id=order.id))
        enqueue(session, OutboxKind.MAIL_RECEIPT, order_id=order.id)
        kinds = Attention.kind.in_([AttentionKind.PAID_SOLD_OUT, AttentionKind.PAID_CANCELLED])
        attention.close(session, kinds & (Attention.order_id == order.id), staff_id, note)
    log.info("order %s was released from review, by staff %d", order.number, staff_id)
