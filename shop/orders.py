"""Basket → order: placing, cancelling, expiring, resuming, and the stock that goes with it.

Second stop on the money's way. Everything here runs inside one `write()` transaction and talks to nobody: an order is
committed before the gateway hears of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, cast

from flask import current_app
from flask_babel import LazyString
from flask_babel import lazy_gettext as _
from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.orm import Session

from models import (
    MOVES,
    Basket,
    DeliveryOption,
    EventKind,
    LineKind,
    Order,
    OrderEvent,
    OrderLine,
    OrderState,
    Product,
    StockMovement,
    StockReason,
    localized,
    now,
)
from shop.db import write
from shop.money import contained_tax


class Refusal(Exception):
    """An order that cannot be placed or resumed as asked. Nothing was changed; the text is for the customer."""

    unpaid: Sequence[tuple[str, str]] = ()
    """Token and number of the customer's own orders that stand in the way."""

    def __init__(self, message: LazyString) -> None:
        """Keep what the customer reads."""
        super().__init__(message)
        self.message = message


class BasketChanged(Refusal):
    """The basket is no longer what the checkout form showed."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__(_("Your basket has changed since. Please look at it once more."))


class TotalChanged(Refusal):
    """The order would now cost something else than the customer saw."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__(_("The total has changed since. Please confirm the new one."))


class SoldOut(Refusal):
    """There is less of a product left than is wanted."""

    def __init__(self, product: Product) -> None:
        """Name the product."""
        texts = product.name  # read while the transaction is open
        name = LazyString(lambda: localized(texts))
        super().__init__(_("There is not enough left of %(name)s.", name=name))


class TooManyUnpaid(Refusal):
    """Goods are held in as many unpaid orders as one may have. Holding costs nothing, and could empty the shop."""

    def __init__(self, message: LazyString, own: Sequence[Order]) -> None:
        """Keep which of these orders are this browser's own, which it can pay or cancel."""
        super().__init__(message)
        self.unpaid = [(order.token, order.number) for order in own]


# --- What the customer was shown -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """What a checkout form showed: a basket in one version, and the total of each delivery option (minor units)."""

    basket: str
    version: int
    totals: Mapping[str, int]

    def sign(self) -> str:
        """The form's `checkout_key`: nobody else can make one, and the same key always means the same order."""
        return _signer().dumps(asdict(self))


def read_offer(checkout_key: str) -> Offer:
    """What a checkout form showed.

    Raises:
        BasketChanged: if the key is not one of ours: nothing is known of what was shown.
    """
    try:
        return Offer(**_signer().loads(checkout_key))
    except BadSignature:
        raise BasketChanged from None


def _signer() -> URLSafeSerializer:
    keys = [*current_app.config["SECRET_KEY_FALLBACKS"], current_app.config["SECRET_KEY"]]
    return URLSafeSerializer(keys, salt="checkout", signer_kwargs={"digest_method": hashlib.sha256})


# --- Who has goods held ----------------------------------------------------------------------------------------------

MOST_BY_BROWSER = 3  # unpaid orders that hold goods at the same time
MOST_BY_NETWORK = 10


@dataclass(frozen=True)
class Holder:
    """Who wants goods held: the tokens of the orders that a browser placed, and its network's digest, empty if it has
    none (see `shop.security.network_digest`)."""

    tokens: Sequence[str] = ()
    network: str = ""


NOBODY = Holder()
"""Goods held for nobody on the web, such as a till's customer: nothing is limited."""


def _refuse_too_many(session: Session, holder: Holder) -> None:
    if holder.network:
        _take_turns(session, holder.network)
    unpaid = Order.state.in_([state for state in OrderState if state.holds_stock_unpaid])
    own = session.scalars(select(Order).where(Order.token.in_(holder.tokens), unpaid).order_by(Order.id)).all()
    if len(own) >= MOST_BY_BROWSER:
        text = _("You have %(most)s unpaid orders already. Please pay or cancel one first.", most=MOST_BY_BROWSER)
        raise TooManyUnpaid(text, own)
    of_network = select(func.count(Order.id)).where(Order.network == holder.network, unpaid)
    if holder.network and session.scalars(of_network).one() >= MOST_BY_NETWORK:
        text = _(
            "There are %(most)s unpaid orders from your internet connection already. Please pay or cancel one of yours "
            "first, or come back in a while.",
            most=MOST_BY_NETWORK,
        )
        raise TooManyUnpaid(text, own)


def _take_turns(session: Session, network: str) -> None:
    """Let those of one network in one by one until the transaction ends, or neither would see the other's order."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite's writers take turns anyway
        session.execute(select(func.pg_advisory_xact_lock(int(network[:15], 16))))


# --- Changing an order -----------------------------------------------------------------------------------------------


def place(offer: Offer, contact: Mapping[str, str], delivery: str, locale: str, holder: Holder = NOBODY) -> Order:
    """T1: turn a basket into an order that holds its stock. Submitted again, it gives the same order back.

    Args:
        offer: what the customer saw.
        contact: name, email, address, … as checked by the form.
        delivery: slug of the chosen delivery option.
        locale: language of the customer's e-mails.
        holder: who has the goods held.

    Raises:
        Refusal: basket or total changed, too little stock, or too many unpaid orders. Nothing was written.
    """
    with write() as session:
        basket = session.scalar(select(Basket).where(Basket.token == offer.basket).with_for_update())
        if basket is None:
            raise BasketChanged
        known = session.scalar(select(Order).filter_by(basket_id=basket.id, basket_version=offer.version))
        if known is not None:
            return known
        option = session.scalar(select(DeliveryOption).filter_by(slug=delivery, active=True))
        if option is None or not basket.open or basket.version != offer.version or not basket.items:
            raise BasketChanged
        for item in basket.items:
            if not item.product.active:
                raise SoldOut(item.product)
        charge = option.charge(basket.goods)
        if basket.goods + charge != offer.totals.get(delivery):
            raise TotalChanged
        _refuse_too_many(session, holder)
        lines = [_product_line(item.product, item.quantity) for item in basket.items]
        lines.append(OrderLine(kind=LineKind.DELIVERY, name=option.name, quantity=1, price=charge))
        of_basket = {"basket_id": basket.id, "basket_version": basket.version}
        order = _new_order(lines, contact, locale=locale, network=holder.network, **of_basket)
        session.add(order)
        session.flush()
        session.add(OrderEvent(order_id=order.id, seq=1, kind=EventKind.MOVED, to_state=order.state, actor="customer"))
        take_stock(session, order)
        basket.open = False
        return order


def cancel(order_id: int, actor: str) -> bool:
    """Cancel an unpaid order: its stock goes back, its basket opens again. False if it was not to be cancelled."""
    with write() as session:
        order = lock(session, order_id)
        if not order.is_cancellable or not move(session, order, OrderState.CANCELLED, actor):
            return False
        session.execute(update(Basket).filter_by(id=order.basket_id).values(open=True, version=Basket.version + 1))
        return_stock(session, order)
        return True


def expire(order_id: int) -> bool:
    """Give up an unpaid order's stock when its reservation has run out. False if somebody was faster."""
    with write() as session:
        order = lock(session, order_id)
        if not order.state.holds_stock_unpaid or order.reserved_until > now():
            return False
        if not move(session, order, OrderState.EXPIRED, "worker"):
            return False
        return_stock(session, order)
        return True


def resume(order_id: int, holder: Holder = NOBODY) -> bool:
    """Hold an expired order's goods again, under the next reservation number; its invoice stays the same.

    Raises:
        Refusal: not everything is there any more, or the holder has too many unpaid orders. Nothing was written.
    """
    with write() as session:
        order = lock(session, order_id)
        if order.state is not OrderState.EXPIRED:
            return False
        back_to = OrderState.AWAITING_PAYMENT if order.invoice else OrderState.PLACED
        _refuse_too_many(session, holder)
        until = now() + timedelta(minutes=current_app.config["RESERVATION_MINUTES"])
        order.reservation += 1
        order.network = holder.network
        take_stock(session, order)
        return move(session, order, back_to, "customer", reserved_until=until, held_since=now())


def note_return(order_id: int) -> None:
    """The browser came back by successUrl. That proves nothing, but its buyer believes to have paid: nobody asks them
    again, and if no callback comes, a person is told. Blockchains confirm slowly, so the first return of an order that
    awaits its payment extends the reservation, once."""
    with write() as session:
        order = lock(session, order_id)
        if order.is_said_to_be_paid or not order.state.may_be_paid_unseen:
            return
        is_first = order.returned_at is None
        order.returned_at = now()
        if is_first and order.state is OrderState.AWAITING_PAYMENT:
            minutes = current_app.config["CONFIRMATION_MINUTES"]
            order.reserved_until += timedelta(minutes=minutes)
            note(session, order, EventKind.RESERVATION_EXTENDED, "customer", f"by {minutes} minutes")


# --- The pieces: one way to change a state, one to move stock --------------------------------------------------------


def lock(session: Session, order_id: int) -> Order:
    """The order, locked until the transaction ends (SQLite's writers take turns anyway).

    `key_share` leaves those alone who only store rows that point to it: they need no turn, and could deadlock.
    """
    return session.scalars(select(Order).filter_by(id=order_id).with_for_update(key_share=True)).one()


def move(session: Session, order: Order, to: OrderState, actor: str, detail: str = "", **values: Any) -> bool:
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
        ValueError: if `MOVES` does not allow this, whoever asks.
    """
    leaving = order.state
    if to not in MOVES[leaving]:
        raise ValueError(f"an order cannot go from {leaving} to {to}")
    seq = session.scalar(
        update(Order)
        .where(Order.id == order.id, Order.state == leaving)
        .values(state=to, events_count=Order.events_count + 1, **values)
        .returning(Order.events_count)
    )
    if seq is None:
        return False
    event = OrderEvent(order_id=order.id, seq=seq, kind=EventKind.MOVED, actor=actor, detail=detail)
    event.from_state, event.to_state = leaving, to
    session.add(event)
    return True


def note(session: Session, order: Order, kind: EventKind, actor: str, detail: str = "") -> None:
    """Add an event that changes no state to a locked order's history."""
    order.events_count += 1
    session.add(OrderEvent(order_id=order.id, seq=order.events_count, kind=kind, actor=actor, detail=detail))


def take_stock(session: Session, order: Order) -> None:
    """Reserve what an order needs, under its reservation number.

    Raises:
        SoldOut: if a product has too little left; the caller's transaction or savepoint must then be rolled back.
    """
    for line in sorted(order.product_lines, key=_product_id):  # one order for all, so that no two deadlock
        if not _change_stock(session, order, line, -line.quantity, StockReason.RESERVED):
            raise SoldOut(cast(Product, line.product))


def return_stock(session: Session, order: Order) -> None:
    """Give back what the order's present reservation holds."""
    for line in sorted(order.product_lines, key=_product_id):
        _change_stock(session, order, line, line.quantity, StockReason.RETURNED)


def _change_stock(session: Session, order: Order, line: OrderLine, units: int, reason: StockReason) -> bool:
    change = update(Product).where(Product.id == line.product_id, Product.stock + units >= 0)
    result = cast(CursorResult[Any], session.execute(change.values(stock=Product.stock + units)))
    if result.rowcount == 0:
        return False
    movement = StockMovement(product_id=line.product_id, order_id=order.id, quantity=units, reason=reason)
    movement.reservation = order.reservation
    session.add(movement)
    return True


def _product_id(line: OrderLine) -> int:
    return cast(int, line.product_id)


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
