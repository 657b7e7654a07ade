"""Handing over: sent by a carrier, or collected at the shop; and orders in review that are handed over after all."""

import logging
import re

from flask_babel import lazy_gettext as _

from models import Attention, Delivery, now
from shop import attention, orders, stock
from shop.db import write
from shop.outbox import enqueue, enqueue_delivery
from shop.refusals import Refusal
from shop.states import Actor, AttentionKind, By, DeliveryState, EventKind, OrderState, OutboxKind

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


def advance(order_id: int, to: DeliveryState, staff_id: int, carrier: str = "", tracking: str = "") -> None:
    """Bring the delivery of a paid order forward, and tell the customer by e-mail. Nothing goes back.

    Args:
        order_id: which order.
        to: one of the order's `steps_left`.
        staff_id: who hands over.
        carrier: who brings it, when it is sent.
        tracking: the carrier's https address for it.

    Raises:
        Refusal: the order isn't paid, or this is done already; or the address can't be used. Nothing was written.
    """
    if tracking and not re.fullmatch(r"https://[^\s/]+\.[^\s/]+(/\S*)?", tracking):
        raise Refusal(_("Enter an address that begins with https://."))
    with write() as session:
        order = orders.lock(session, order_id)
        delivery = order.delivery
        if delivery is None or to not in order.steps_left:
            raise Refusal(_("This is done already, or the order isn't paid."))
        delivery.state = to
        if to is DeliveryState.SHIPPED:
            delivery.carrier, delivery.tracking, delivery.shipped_at = carrier, tracking, now()
        if to.is_final:
            delivery.delivered_at = now()
        orders.add_event(session, order, EventKind.DELIVERY_CHANGED, By(Actor.STAFF, staff_id), to.value)
        enqueue_delivery(session, order.id, to)
