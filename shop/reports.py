"""Figures for the merchant: what came in, and what runs out."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import func, select

from models import Payment, Product, Refund, now
from shop.config import settings
from shop.db import db

FEW_LEFT = 5


@dataclass(frozen=True)
class Takings:
    """What was paid in some days, less what was sent back in them, in minor units."""

    since: date
    until: date
    """The first and the last day, in `SHOP_TIMEZONE`."""
    paid: int
    refunded: int

    @property
    def net(self) -> int:
        """What is left."""
        return self.paid - self.refunded


def today() -> date:
    """The present day in `SHOP_TIMEZONE`."""
    return now().astimezone(ZoneInfo(settings.shop_timezone)).date()


def begin_of(day: date) -> datetime:
    """The moment at which a day begins in `SHOP_TIMEZONE`."""
    return datetime.combine(day, time.min, ZoneInfo(settings.shop_timezone))


def takings(days: int) -> Takings:
    """What came in within the last days, today included."""
    until = today()
    since = until - timedelta(days=days - 1)
    paid = select(func.sum(Payment.amount)).where(Payment.received_at >= begin_of(since))
    refunded = select(func.sum(Refund.amount)).where(Refund.at >= begin_of(since))
    return Takings(since, until, *(db.session.scalar(one) or 0 for one in (paid, refunded)))


def running_out(most: int) -> list[Product]:
    """Products for sale of which few are left, the fewest first."""
    few = select(Product).where(Product.active, Product.stock <= FEW_LEFT)
    return list(db.session.scalars(few.order_by(Product.stock, Product.position, Product.id).limit(most)))
