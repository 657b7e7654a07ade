"""Basket → order: placing, cancelling, expiring, resuming, and the stock that goes with it.

Second stop on the money's way. Everything here runs inside one `write()` transaction and talks to nobody: an order is
committed before the gateway hears of it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models import Basket, DeliveryMethod, Order, OrderEvent, OrderLine, Product, Shop, now
from shop import limits, stock
from shop.config import settings
from shop.db import write
from shop.limits import UNLIMITED, Buyer
from shop.money import contained_tax
from shop.refusals import BasketChanged, SoldOut, TotalChanged
from shop.states import CUSTOMER, TRANSITIONS, WORKER, By, EventKind, LineKind, OrderState

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
    keys = [*settings.secret_key_fallbacks, settings.secret_key]
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
        method = session.scalar(select(DeliveryMethod).filter_by(slug=delivery, active=True))
        if method is None or not basket.open or basket.version != quote.version or not basket.items:
            raise BasketChanged
        for item in basket.items:
            if not item.product.active:
                raise SoldOut(item.product)
        charge = method.charge(basket.goods)
        if basket.goods + charge != quote.totals.get(delivery):
            raise TotalChanged
        limits.refuse_too_many(session, buyer)
        lines = [_product_line(item.product, item.quantity) for item in basket.items]
        lines.append(OrderLine(kind=LineKind.DELIVERY, name=method.name, quantity=1, price=charge))
        of_basket = {"basket_id": basket.id, "basket_version": basket.version, "is_collected": method.is_collection}
        order_id = _next_id(session)
        order = _new_order(lines, contact, id=order_id, locale=locale, network=buyer.network, **of_basket)
        session.add(order)
        session.flush()
        session.add(_event(order, 1, EventKind.STATE_CHANGED, CUSTOMER, to_state=order.state))
        stock.take(session, order)
        basket.open = False
        return order


def cancel(order_id: int, by: By) -> bool:
    """Cancel an unpaid order: its stock goes back, its basket opens again. False if it was not to be cancelled."""
    with write() as session:
        order = lock(session, order_id)
        if not order.is_cancellable or not transition(session, order, OrderState.CANCELLED, by):
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
        if not transition(session, order, OrderState.EXPIRED, WORKER):
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
        until = now() + timedelta(minutes=settings.reservation_minutes)
        order.reservation += 1
        order.network = buyer.network
        stock.take(session, order)
        return transition(session, order, back_to, CUSTOMER, reserved_until=until, held_since=now())


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
            minutes = settings.confirmation_minutes
            order.reserved_until += timedelta(minutes=minutes)
            add_event(session, order, EventKind.RESERVATION_EXTENDED, CUSTOMER, f"by {minutes} minutes")


# --- The pieces: one way to change a state, one to move stock --------------------------------------------------------


def lock(session: Session, order_id: int) -> Order:
    """The order, locked until the transaction ends (SQLite's writers take turns anyway).

    `key_share` leaves those alone who only store rows that point to it: they need no turn, and could deadlock.
    """
    return session.scalars(select(Order).filter_by(id=order_id).with_for_update(key_share=True)).one()


def transition(session: Session, order: Order, to: OrderState, by: By, detail: str = "", **values: Any) -> bool:
    """Bring an order into another state, with its event. The only code that changes `Order.state`.

    The UPDATE names the state that it leaves, so of two that race only one can win; the other gets False.

    Args:
        session: of the `write()` that is open.
        order: as loaded in this transaction.
        to: the state to reach.
        by: who does it.
        detail: a few words for the timeline.
        values: other columns to set with it.

    Raises:
        ValueError: if `TRANSITIONS` does not allow this, or not to that actor.
    """
    leaving = order.state
    if by.actor not in TRANSITIONS[leaving].get(to, ()):
        raise ValueError(f"an order cannot go from {leaving} to {to} by {by.actor}")
    seq = session.scalar(
        update(Order)
        .where(Order.id == order.id, Order.state == leaving)
        .values(state=to, events_count=Order.events_count + 1, **values)
        .returning(Order.events_count)
    )
    if seq is None:
        return False
    session.add(_event(order, seq, EventKind.STATE_CHANGED, by, detail, from_state=leaving, to_state=to))
    return True


def add_event(session: Session, order: Order, kind: EventKind, by: By, detail: str = "") -> None:
    """Add an event that changes no state to a locked order's history."""
    order.events_count += 1
    session.add(_event(order, order.events_count, kind, by, detail))


def _event(order: Order, seq: int, kind: EventKind, by: By, detail: str = "", **states: OrderState) -> OrderEvent:
    by_whom = {"actor": by.actor, "staff_id": by.staff_id}
    return OrderEvent(order_id=order.id, seq=seq, kind=kind, detail=detail, **by_whom, **states)


def _next_id(session: Session) -> int:
    """The id of the next order. Its row is locked from here to the commit, so it is taken late."""
    following = update(Shop).values(next_order_id=Shop.next_order_id + 1).returning(Shop.next_order_id)
    return session.execute(following).scalar_one() - 1


def _product_line(product: Product, quantity: int) -> OrderLine:
    line = OrderLine(kind=LineKind.PRODUCT, name=product.name, quantity=quantity, price=product.price)
    line.product = product
    return line


def _new_order(lines: list[OrderLine], contact: Mapping[str, str], **values: Any) -> Order:
    total = sum(line.amount for line in lines)
    order = Order(
        state=OrderState.PLACED,
        events_count=1,
        reservation=1,
        reserved_until=now() + timedelta(minutes=settings.reservation_minutes),
        currency=settings.shop_currency,
        total=total,
        tax=contained_tax(total, settings.shop_tax_rate),
        tax_rate=settings.shop_tax_rate,
        tax_number=settings.shop_tax_number,
        **contact,
        **values,
    )
    order.lines = lines
    return order
