"""Stock: reserved and returned by conditional UPDATE, each time with a row in the ledger."""

from collections.abc import Iterable
from typing import Any, cast

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from models import Order, OrderLine, Product, StockMovement
from shop.refusals import SoldOut
from shop.states import StockReason


def lock(session: Session, product_ids: Iterable[int]) -> None:
    """Lock products until the transaction ends, in id order as everywhere."""
    products = select(Product.id).where(Product.id.in_(product_ids)).order_by(Product.id)
    session.execute(products.with_for_update(key_share=True))


def take(session: Session, order: Order) -> None:
    """Reserve an order's products, under its reservation number.

    Raises:
        SoldOut: too little stock of a product. The caller must roll back its transaction or savepoint.
    """
    for line in sorted(order.product_lines, key=_product_id):  # the same lock order everywhere: no deadlocks
        if not _change(session, order, line, -line.quantity, StockReason.RESERVED):
            raise SoldOut(cast(Product, line.product))


def give_back(session: Session, order: Order) -> None:
    """Return what the order's current reservation holds."""
    for line in sorted(order.product_lines, key=_product_id):
        _change(session, order, line, line.quantity, StockReason.RETURNED)


def _change(session: Session, order: Order, line: OrderLine, units: int, reason: StockReason) -> bool:
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
