"""Keyset pages: the last page of a long list costs as much as the first one, as no row is counted or skipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from shop.db import db

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Rows of a list, and the `after` of the next page (None on the last one)."""

    rows: list[Row]
    next_after: str | None


@dataclass(frozen=True)
class Keys:
    """The whole-number columns that a list is sorted by; the last one is unique, so pages continue exactly."""

    columns: Sequence[InstrumentedAttribute[int]]
    down: bool = False


def page(wanted: Select[Row], keys: Keys, after: str, size: int) -> Page[Row]:
    """Load a page of a list.

    Args:
        wanted: the list, unsorted.
        keys: the order.
        after: `Page.next_after` of the page before; anything else starts at the beginning.
        size: rows of a page.
    """
    rows = list(db.session.scalars(_sorted(wanted, keys, after).limit(size + 1)))
    return Page(rows[:size], _cursor(rows[size - 1], keys) if len(rows) > size else None)


def _sorted(wanted: Select[Row], keys: Keys, after: str) -> Select[Row]:
    values = [int(part) for part in after.split(".") if part.isascii() and part.isdecimal() and len(part) < 16]
    if len(values) == len(keys.columns):
        place = tuple_(*keys.columns)
        wanted = wanted.where(place < tuple_(*values) if keys.down else place > tuple_(*values))
    return wanted.order_by(*(column.desc() if keys.down else column.asc() for column in keys.columns))


def _cursor(row: Any, keys: Keys) -> str:
    return ".".join(str(getattr(row, column.key)) for column in keys.columns)
