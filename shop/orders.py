"""Orders: place, cancel, expire, resume, record a return, and the one function that changes their state.

The second of the five files of the payment flow. Each rule is one `write()` transaction without HTTP: an order is
committed before the gateway is asked for its invoice.
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
from shop.limits import Buyer
from shop.money import contained_tax
from shop.refusals import BasketChanged, SoldOut, TotalChanged
from shop.states import CUSTOMER, TRANSITIONS, WORKER, By, EventKind, LineKind, OrderState

# --- What the customer was shown -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quote:
    """What the checkout form showed: a basket in one version, and the total by delivery method (minor units)."""

    basket: str
    version: int
    totals: Mapping[str, int]

    def sign(self) -> str:
        """Make the form's `checkout_key`. Only we can make one, and the same key always leads to the same order."""
        return _signer().dumps(asdict(self))


def read_quote(checkout_key: str) -> Quote:
    """Read a `checkout_key`.

    Raises:
        BasketChanged: the key isn't ours, so what the customer saw is unknown.
    """
    try:
        return Quote(**_signer().loads(checkout_key))
    except BadSignature:
        raise BasketChanged from None


def _signer() -> URLSafeSerializer:
    keys = [*settings.secret_key_fallbacks, settings.secret_key]
    return URLSafeSerializer(keys, salt="checkout", signer_kwargs={"digest_method": hashlib.sha256})


# --- Changing an order -----------------------------------------------------------------------------------------------


def place(quote: Quote, contact: Mapping[str, str], delivery: str, locale: str, buyer: Buyer) -> Order:
    """Place transaction (T1): turn a basket into an order and reserve its stock. Repeated, it returns the same order.

    Args:
        quote: what the customer saw.
        contact: name, email, address, … as validated by the form.
        delivery: slug of the chosen delivery method.
        locale: language of the customer's e-mails.
        buyer: whose orders count towards the limits.

    Raises:
        Refusal: basket or total changed, too little stock, or a limit is reached. Nothing was written.
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
        limits.check_order(session, buyer, {item.product_id: item.quantity for item in basket.items})
        lines = [_product_line(item.product, item.quantity) for item in basket.items]
        lines.append(OrderLine(kind=LineKind.DELIVERY, name=method.name, quantity=1, price=charge))
        of_basket = {"basket_id": basket.id, "basket_version": basket.version, "is_collected": method.is_collection}
        stock.lock(session, [item.product_id for item in basket.items])
        order_id = _next_id(session)  # until the commit, all other checkouts wait for this one
        order = _new_order(lines, contact, id=order_id, locale=locale, network=buyer.network, **of_basket)
        session.add(order)
        session.flush()
        session.add(_event(order, 1, EventKind.STATE_CHANGED, CUSTOMER, to_state=order.state))
        stock.take(session, order)
        basket.open = False
        return order


def cancel(order_id: int, by: By) -> bool:
    """Cancel an unpaid order, return its stock and reopen its basket. False if it can no longer be cancelled."""
    with write() as session:
        order = lock(session, order_id)
        if not order.is_cancellable or not transition(session, order, OrderState.CANCELLED, by, reserved_until=now()):
            return False
        session.execute(update(Basket).filter_by(id=order.basket_id).values(open=True, version=Basket.version + 1))
        stock.give_back(session, order)
        return True


def expire(order_id: int) -> bool:
    """Return the stock of an unpaid order whose reservation ran out. False if its state changed meanwhile."""
    with write() as session:
        order = lock(session, order_id)
        if not order.state.holds_stock_unpaid or order.reserved_until > now() or order.is_in_doubt:
            return False
        if not transition(session, order, OrderState.EXPIRED, WORKER):
            return False
        stock.give_back(session, order)
        return True


def resume(order_id: int, buyer: Buyer) -> bool:
    """Reserve an expired order's stock again, under the next reservation number. Its invoice stays the same.

    Returns:
        False if it isn't expired, or was resumed too often.

    Raises:
        Refusal: too little stock, or a limit is reached. Nothing was written.
    """
    with write() as session:
        order = lock(session, order_id)
        if order.state is not OrderState.EXPIRED or not limits.may_resume(order):
            return False
        back_to = OrderState.AWAITING_PAYMENT if order.invoice else OrderState.PLACED
        limits.check_order(session, buyer, order.quantities)
        until = now() + timedelta(minutes=settings.reservation_minutes)
        order.reservation += 1
        order.network = buyer.network
        stock.take(session, order)
        return transition(session, order, back_to, CUSTOMER, reserved_until=until, held_since=now())


def record_return(order_id: int) -> None:
    """Record that the browser came back by successUrl.

    This proves no payment. But the buyer believes they have paid: the page doesn't ask again, and the worker flags the
    order if no callback comes. Blockchains confirm slowly, so the first return extends the reservation, once.
    `views.order.show` calls this.
    """
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


# --- Shared by all rules ---------------------------------------------------------------------------------------------


def lock(session: Session, order_id: int) -> Order:
    """Load an order and lock its row until the transaction ends (on SQLite, writers are serialized anyway).

    `key_share` doesn't block inserts that only reference this row: those could deadlock.
    """
    return session.scalars(select(Order).filter_by(id=order_id).with_for_update(key_share=True)).one()


def transition(session: Session, order: Order, to: OrderState, by: By, detail: str = "", **values: Any) -> bool:
    """Change an order's state and write the event. No other code changes `Order.state`.

    The UPDATE is conditional on the state that the order leaves: of two concurrent transitions one wins, the other
    returns False.

    Args:
        session: of the open `write()`.
        order: as loaded in this transaction.
        to: the new state.
        by: who makes the transition.
        detail: a few words for the timeline.
        values: other columns to set in the same UPDATE.

    Raises:
        ValueError: `TRANSITIONS` doesn't allow this transition, or not to this actor.
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
    """Add an event to the history of a locked order without changing its state."""
    order.events_count += 1
    session.add(_event(order, order.events_count, kind, by, detail))


def _event(order: Order, seq: int, kind: EventKind, by: By, detail: str = "", **states: OrderState) -> OrderEvent:
    by_whom = {"actor": by.actor, "staff_id": by.staff_id}
    return OrderEvent(order_id=order.id, seq=seq, kind=kind, detail=detail, **by_whom, **states)


def _next_id(session: Session) -> int:
    """Take the next order id. This locks the shop's row until the commit, so it comes after all other locks."""
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
