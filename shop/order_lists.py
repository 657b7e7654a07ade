"""Lists of orders for staff: the filters, as they stand in the address, and what they select."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

from flask_babel import format_date
from flask_babel import lazy_gettext as _
from sqlalchemy import ColumnElement, Select, func, select, union
from sqlalchemy.orm import joinedload

from models import Delivery, Invoice, Order, Payment
from shop.db import db
from shop.paging import Keys, Page, count_to, page
from shop.reconcile import GATEWAY_ID
from shop.reports import begin_of
from shop.states import Labelled, OrderState
from shop.text import fold, plain

PAGE = 25
MOST_COUNTED = 1000
_AFTER_ALL = "\U0010ffff"  # after every text with the same beginning


class Stage(Labelled):
    """What staff look for: where an order stands."""

    REVIEW = "review", _("To decide")
    TO_HAND_OVER = "to-hand-over", _("To hand over")
    ON_ITS_WAY = "on-its-way", _("On its way")
    UNPAID = "unpaid", _("Waiting for payment")
    EXPIRED = "expired", _("Expired")
    CANCELLED = "cancelled", _("Cancelled")
    REFUNDED = "refunded", _("Refunded")

    @property
    def where(self) -> ColumnElement[bool]:
        """The orders in it. The conditions of open stages are those of partial indexes."""
        paid = Order.state == OrderState.PAID
        return {
            Stage.REVIEW: Order.state == OrderState.NEEDS_REVIEW,
            Stage.TO_HAND_OVER: Delivery.to_hand_over() & paid,
            Stage.ON_ITS_WAY: Delivery.on_its_way() & paid,
            Stage.UNPAID: Order.unpaid(),
            Stage.EXPIRED: Order.state == OrderState.EXPIRED,
            Stage.CANCELLED: Order.state == OrderState.CANCELLED,
            Stage.REFUNDED: Order.state == OrderState.REFUNDED,
        }[self]

    @property
    def is_of_delivery(self) -> bool:
        """Whether it depends on the delivery."""
        return self in (Stage.TO_HAND_OVER, Stage.ON_ITS_WAY)


@dataclass(frozen=True)
class OrderList:
    """A list of orders by its filters. Those that can't be read are left out."""

    query: str = ""
    """A number, an invoice's id, or the beginning of a name or an e-mail address."""
    stage: Stage | None = None
    since: date | None = None
    until: date | None = None
    """The days on which orders were placed, in `SHOP_TIMEZONE`, both included."""
    paid_since: date | None = None
    """The first day of the payments, up to now."""

    @classmethod
    def from_args(cls, args: Mapping[str, str]) -> Self:
        """Read the filters from an address."""
        stage = next((one for one in Stage if one == args.get("stage")), None)
        days = (_day(args.get(name, "")) for name in ("from", "to", "paid-from"))
        return cls(plain(args.get("q", ""))[:200], stage, *days)

    @property
    def args(self) -> dict[str, str]:
        """The filters as an address has them."""
        found = {"q": self.query, "stage": self.stage.value if self.stage else ""}
        found |= {name: day.isoformat() for name, day in self._days.items()}
        return {name: value for name, value in found.items() if value}

    def where(self) -> Iterator[ColumnElement[bool]]:
        """The conditions of all filters."""
        if self.query:
            yield _matches(self.query)
        if self.stage:
            yield self.stage.where
        if self.since and self.since.year > 1:  # a time zone could lead out of the calendar
            yield Order.placed_at >= begin_of(self.since)
        if self.until and self.until.year < 9999:
            yield Order.placed_at < begin_of(self.until + timedelta(days=1))
        if self.paid_since and self.paid_since.year > 1:
            yield Order.id.in_(select(Payment.order_id).where(Payment.received_at >= begin_of(self.paid_since)))

    def select(self) -> Select[Order]:
        """The orders, unsorted."""
        wanted = select(Order)
        if self.stage and self.stage.is_of_delivery:
            wanted = wanted.join(Delivery, Delivery.order_id == Order.id)
        return wanted.where(*self.where())

    def page(self, after: str = "", size: int = PAGE) -> Page[Order]:
        """A page of the list: what waits for staff in the order in which it came, all else the newest first."""
        if self.stage and self.stage.is_of_delivery:
            keys = Keys([Delivery.order_id], names=("id",))
        elif (self.since or self.until) and not (self.stage or self.query or self.paid_since):
            keys = Keys([Order.placed_at, Order.id], down=True)
        else:
            keys = Keys([Order.id], down=self.stage is not Stage.REVIEW)
        return page(self.select().options(joinedload(Order.delivery)), keys, after, size)

    def count(self) -> int:
        """How many there are; `MOST_COUNTED` + 1 for more."""
        return count_to(self.select().with_only_columns(Order.id), MOST_COUNTED)

    def count_all(self) -> int:
        """How many there are, whatever that costs."""
        return db.session.scalar(select(func.count()).select_from(self.select().subquery())) or 0

    @property
    def _days(self) -> dict[str, date]:
        days = {"from": self.since, "to": self.until, "paid-from": self.paid_since}
        return {name: day for name, day in days.items() if day}

    @property
    def chips(self) -> list[tuple[str, dict[str, str]]]:
        """Each filter in words, with the filters of the address in which it is taken away."""
        days = {"from": _("from %(day)s"), "to": _("until %(day)s"), "paid-from": _("paid from %(day)s")}
        words = {"q": self.query, "stage": str(self.stage.label) if self.stage else ""}
        words |= {name: str(days[name]) % {"day": format_date(day, "d MMM y")} for name, day in self._days.items()}
        return [(words[name], {other: self.args[other] for other in self.args if other != name}) for name in self.args]


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(plain(text))
    except ValueError:
        return None


def _matches(query: str) -> ColumnElement[bool]:
    """The orders that somebody looks for. Each kind of query has its index."""
    if number := re.fullmatch(r"(?:a-?)?(\d{4,9})", fold(query)):
        return Order.id == Order.id_of(f"A-{number[1]}")
    if GATEWAY_ID.fullmatch(query):
        return Order.id.in_(select(Invoice.order_id).where(Invoice.gateway_id == query.lower()))
    key = fold(query)
    keys = [Order.email_key] if "@" in key else [Order.email_key, Order.name_key]
    begin = [select(Order.id).where(one >= key, one < key + _AFTER_ALL) for one in keys]
    by_invoice = select(Invoice.order_id).where(Invoice.gateway_id == query)  # an id of another form
    return Order.id.in_(union(*begin, by_invoice))
