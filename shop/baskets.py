"""Baskets, found by the token in the browser's signed cookie."""

from flask_babel import LazyString
from flask_babel import lazy_gettext as _
from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from models import Basket, BasketItem, Order, Product, now
from shop.db import db, write
from shop.limits import UNLIMITED, Buyer, may_open_basket
from shop.text import plain


class TooManyBaskets(Exception):
    """The network began too many baskets, see `limits.may_open_basket`."""


class WrongQuantity(Exception):
    """A quantity that isn't possible. The message is for the customer."""

    def __init__(self, message: LazyString) -> None:
        super().__init__(message)
        self.message = message


def parse_quantity(text: str) -> int:
    """Parse a number from 0 to `BasketItem.MAX_QUANTITY`, in any script's digits.

    Raises:
        WrongQuantity: for anything else, such as signs, fractions, exponents, underscores or an empty text.
    """
    text = plain(text)
    if not text.isdecimal() or len(text) > 6 or int(text) > BasketItem.MAX_QUANTITY:
        raise WrongQuantity(_("Enter a number from 1 to %(most)s.", most=BasketItem.MAX_QUANTITY))
    return int(text)


def find(token: str | None) -> Basket | None:
    """A browser's open basket with its items and products, or None."""
    if not token:
        return None
    items = selectinload(Basket.items).joinedload(BasketItem.product)
    return db.session.scalar(select(Basket).filter_by(token=token, open=True).options(items))


def units(token: str | None) -> int:
    """Number of items in the browser's open basket: one query, for the page badge."""
    if not token:
        return 0
    pieces = select(func.sum(BasketItem.quantity)).join(BasketItem.basket)
    return db.session.scalar(pieces.where(Basket.token == token, Basket.open)) or 0


def add(token: str | None, product: Product, quantity: int, buyer: Buyer = UNLIMITED) -> str:
    """Add a quantity of a product, creating a basket if there is none.

    Returns:
        The basket's token.

    Raises:
        WrongQuantity: the quantity is 0, or more than is available.
        TooManyBaskets: a new one would be needed.
    """
    if quantity < 1:
        raise WrongQuantity(_("Enter a number from 1 to %(most)s.", most=BasketItem.MAX_QUANTITY))
    with write() as session:
        basket = _open_basket(session, token, buyer)
        item = session.scalar(select(BasketItem).filter_by(basket_id=basket.id, product_id=product.id))
        wanted = quantity + (item.quantity if item else 0)
        stock = session.scalar(select(Product.stock).filter_by(id=product.id)) or 0
        _check(wanted, stock)
        if item is None:
            session.add(BasketItem(basket_id=basket.id, product_id=product.id, quantity=wanted))
        else:
            item.quantity = wanted
        _touch(basket)
        return basket.token


def change(token: str | None, item_id: int, quantity: int) -> bool:
    """Set an item's quantity; 0 removes it. False if this basket has no such item.

    Raises:
        WrongQuantity: the quantity is more than is available.
    """
    with write() as session:
        # Lock the basket first, as every change does: another order could deadlock.
        basket = session.scalar(select(Basket).filter_by(token=token or "", open=True).with_for_update())
        item = next((item for item in basket.items if item.id == item_id), None) if basket else None
        if basket is None or item is None:
            return False
        if quantity > item.quantity:  # reducing is always allowed, even below the stock left
            _check(quantity, item.product.stock)
        _touch(basket)
        if quantity == 0:
            session.delete(item)
        else:
            item.quantity = quantity
        return True


def add_order(token: str | None, order: Order) -> str:
    """Add an order's products, as far as they are in stock.

    Called after cancelling, and to order again.
    """
    with write() as session:
        basket = _open_basket(session, token, UNLIMITED)
        held = {item.product_id: item for item in basket.items}
        for line in order.product_lines:
            product = session.get(Product, line.product_id)
            if product is None or not product.active or not product.stock:
                continue
            item = held.get(product.id) or BasketItem(basket_id=basket.id, product_id=product.id, quantity=0)
            item.quantity = min(item.quantity + line.quantity, product.stock, BasketItem.MAX_QUANTITY)
            session.add(item)
        _touch(basket)
        return basket.token


def _open_basket(session: Session, token: str | None, buyer: Buyer) -> Basket:
    basket = session.scalar(select(Basket).filter_by(token=token or "", open=True).with_for_update())
    if basket is None:
        if not may_open_basket(buyer):
            raise TooManyBaskets
        basket = Basket()
        session.add(basket)
        session.flush()
    return basket


def _touch(basket: Basket) -> None:
    basket.version = Basket.version + 1  # incremented by the database, so that concurrent changes both count
    basket.updated_at = now()


def _check(wanted: int, stock: int) -> None:
    if stock == 0:
        raise WrongQuantity(_("This product is sold out."))
    if wanted > min(stock, BasketItem.MAX_QUANTITY):
        raise WrongQuantity(_("Only %(left)s available.", left=min(stock, BasketItem.MAX_QUANTITY)))
