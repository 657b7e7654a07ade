"""Basket → order: placing, cancelling, expiring, resuming, and the stock that goes with it.

Second stop on the money's way. Everything here runs inside one `write()` transaction and talks to nobody: an order is
committed before the gateway hears of it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from flask import current_app
from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models import Basket, DeliveryOption, Order, OrderEvent, OrderLine, Product, now
from shop import limits, stock
from shop.db import write
from shop.limits import UNLIMITED, Buyer
from shop.money import contained_tax
from shop.refusals import BasketChanged, SoldOut, TotalChanged
from shop.states import TRANSITIONS, EventKind, LineKind, OrderState

# --- What the customer was shown -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quote:
    """What a checkout form showed: a basket in one version, and the total of each delivery option (minor units)."""

    basket: str
    version: int
    totals: Mapping[str, int]

    def sign(self) -> str:
        """The form's `checkout_key`: nobody else can make one, and the same key always means the same order."""
        return _signer().dumps(asdict(self))


def read_quote(checkout_key: str) -> Quote:
    """What a checkout form showed.

    Raises:
        BasketChanged: if the key is not one of ours: nothing is known of what was shown.
    """
    try:
        return Quote(**_signer().loads(checkout_key))
    except BadSignature:
        raise BasketChanged from None


def _signer() -> URLSafeSerializer:
    keys = [*current_app.config["SECRET_KEY_FALLBACKS"], current_app.config["SECRET_KEY"]]
    return URLSafeSerializer(keys, salt="checkout", signer_kwargs={"digest_method": hashlib.sha256})


# --- Changing an order -----------------------------------------------------------------------------------------------


def place(quote: Quote, contact: Mapping[str, str], delivery: str, locale: str, buyer: Buyer = UNLIMITED) -> Order:
    """T1: turn a basket into an order that holds its stock. Submitted again, it gives the same order back.

    Args:
        quote: what the customer saw.
        contact: name, email, address, … as checked by the form.
        delivery: slug of the chosen delivery option.
        locale: language of the customer's e-mails.
        buyer: who has the goods held.

    Raises:
        Refusal: basket or total changed, too little stock, or too many unpaid orders. Nothing was written.
    """
    with write() as session:
        basket = session.scalar(select(Basket).where(Basket.token == quote.basket).with_for_update())
        if basket is None:
            raise BasketChanged
        known = session.scalar(select(Order).filter_by(basket_id=basket.id, basket_version=quote.version))
        if known is not None:
            return known
        option = session.scalar(select(DeliveryOption).filter_by(slug=delivery, active=True))
        if option is None or not basket.open or basket.version != quote.version or not basket.items:
            raise BasketChanged
        for item in basket.items:
            if not item.product.active:
                raise SoldOut(item.product)
        charge = option.charge(basket.goods)
        if basket.goods + charge != quote.totals.get(delivery):
            raise TotalChanged
        limits.refuse_too_many(session, buyer)
        lines = [_product_line(item.product, item.quantity) for item in basket.items]
        lines.append(OrderLine(kind=LineKind.DELIVERY, name=option.name, quantity=1, price=charge))
        of_basket = {"basket_id": basket.id, "basket_version": basket.version}
        order = _new_order(lines, contact, locale=locale, network=buyer.network, **of_basket)
        session.add(order)
        session.flush()
        session.add(
            OrderEvent(order_id=order.id, seq=1, kind=EventKind.STATE_CHANGED, to_state=order.state, actor="customer")
        )
        stock.take(session, order)
        basket.open = False
        return order


def cancel(order_id: int, actor: str) -> bool:
    """Cancel an unpaid order: its stock goes back, its basket opens again. False if it was not to be cancelled."""
    with write() as session:
        order = lock(session, order_id)
        if not order.is_cancellable or not transition(session, order, OrderState.CANCELLED, actor):
            return False
        session.execute(update(Basket).filter_by(id=order.basket_id).values(open=True, version=Basket.version + 1))
        stock.give_back(session, order)
        return True


def expire(order_id: int) -> bool:
    """Give up an unpaid order's stock when its reservation has run out. False if somebody was faster."""
    with write() as session:
        order = lock(session, order_id)
        if not order.state.holds_stock_unpaid or order.reserved_until > now():
            return False
        if not transition(session, order, OrderState.EXPIRED, "worker"):
            return False
        stock.give_back(session, order)
        return True


def resume(order_id: int, buyer: Buyer = UNLIMITED) -> bool:
    """Hold an expired order's goods again, under the next reservation number; its invoice stays the same.

    Raises:
        Refusal: not everything is there any more, or the buyer has too many unpaid orders. Nothing was written.
    """
    with write() as session:
        order = lock(session, order_id)
        if order.state is not OrderState.EXPIRED:
            return False
        back_to = OrderState.AWAITING_PAYMENT if order.invoice else OrderState.PLACED
        limits.refuse_too_many(session, buyer)
        until = now() + timedelta(minutes=current_app.config["RESERVATION_MINUTES"])
        order.reservation += 1
        order.network = buyer.network
        stock.take(session, order)
        return transition(session, order, back_to, "customer", reserved_until=until, held_since=now())


def record_return(order_id: int) -> None:
    """The browser came back by successUrl. That proves nothing, but its buyer believes to have paid: nobody asks them
    again, and if no callback comes, a person is told. Blockchains confirm slowly, so the first return of an order that
    awaits its payment extends the reservation, once."""
    with write() as session:
        order = lock(session, order_id)
        if order.buyer_returned or not order.state.may_have_unseen_payment:
            return
        is_first = order.returned_at is None
        order.returned_at = now()
        if is_first and order.state is OrderState.AWAITING_PAYMENT:
            minutes = current_app.config["CONFIRMATION_MINUTES"]
            order.reserved_until += timedelta(minutes=minutes)
            add_event(session, order, EventKind.RESERVATION_EXTENDED, "customer", f"by {minutes} minutes")


# --- The pieces: one way to change a state, one to move stock --------------------------------------------------------


def lock(session: Session, order_id: int) -> Order:
    """The order, locked until the transaction ends (SQLite's writers take turns anyway).

    `key_share` leaves those alone who only store rows that point to it: they need no turn, and could deadlock.
    """
    return session.scalars(select(Order).filter_by(id=order_id).with_for_update(key_share=True)).one()


def transition(session: Session, order: Order, to: OrderState, actor: str, detail: str = "", **values: Any) -> bool:
    """Bring an order into another state, with its event. The only code that changes `Order.state`.

    The UPDATE names the state that it leaves, so of two that race only one can win; the other gets False.

    Args:
        session: of the `write()` that is open.
        order: as loaded in this transaction.
        to: the state to reach.
        actor: who did it, see `OrderEvent.actor`.
        detail: a few words for the timeline.
        values: other columns to set with it.

    Raises:
        ValueError: if `TRANSITIONS` does not allow this, whoever asks.
    """
    leaving = order.state
    if to not in TRANSITIONS[leaving]:
        raise ValueError(f"an order cannot go from {leaving} to {to}")
    seq = session.scalar(
        update(Order)
        .where(Order.id == order.id, Order.state == leaving)
        .values(state=to, events_count=Order.events_count + 1, **values)
        .returning(Order.events_count)
    )
    if seq is None:
        return False
    event = OrderEvent(order_id=order.id, seq=seq, kind=EventKind.STATE_CHANGED, actor=actor, detail=detail)
    event.from_state, event.to_state = leaving, to
    session.add(event)
    return True


def add_event(session: Session, order: Order, kind: EventKind, actor: str, detail: str = "") -> None:
    """Add an event that changes no state to a locked order's history."""
    order.events_count += 1
    session.add(OrderEvent(order_id=order.id, seq=order.events_count, kind=kind, actor=actor, detail=detail))


def _product_line(product: Product, quantity: int) -> OrderLine:
    line = OrderLine(kind=LineKind.PRODUCT, name=product.name, quantity=quantity, price=product.price)
    line.product = product
    return line


def _new_order(lines: list[OrderLine], contact: Mapping[str, str], **values: Any) -> Order:
    config = current_app.config
    total = sum(line.amount for line in lines)
    order = Order(
        state=OrderState.PLACED,
        events_count=1,
        reservation=1,
        reserved_until=now() + timedelta(minutes=config["RESERVATION_MINUTES"]),
        currency=config["SHOP_CURRENCY"],
        total=total,
        tax=contained_tax(total, config["SHOP_TAX_RATE"]),
        tax_rate=config["SHOP_TAX_RATE"],
        tax_number=config["SHOP_TAX_NUMBER"],
        **contact,
        **values,
    )
    order.lines = lines
    return order
