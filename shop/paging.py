"""Keyset pages: the last page of a long list costs as much as the first one, as no row is counted or skipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from shop.db import UTCDateTime, db

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Rows of a list, and the `after` of the next page (None on the last one)."""

    rows: list[Row]
    next_after: str | None


@dataclass(frozen=True)
class Keys:
    """The columns that a list is sorted by, whole numbers or times; the last one is unique, so pages continue exactly.

    `names` are the attributes of the rows, where they differ from the columns' own.
    """

    columns: Sequence[InstrumentedAttribute[Any]]
    down: bool = False
    names: Sequence[str] = ()


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


def count_to(wanted: Select[Any], most: int) -> int:
    """Count the rows of a list, up to `most` + 1: nobody needs the exact number of a million."""
    return db.session.scalar(select(func.count()).select_from(wanted.limit(most + 1).subquery())) or 0


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _sorted(wanted: Select[Row], keys: Keys, after: str) -> Select[Row]:
    values = [int(part) for part in after.split(".") if part.isascii() and part.isdecimal() and len(part) < 17]
    if len(values) == len(keys.columns):
        bounds = [
            _EPOCH + value * _MICROSECOND if isinstance(column.type, UTCDateTime) else value
            for column, value in zip(keys.columns, values, strict=True)
        ]
        place = tuple_(*keys.columns)
        wanted = wanted.where(place < tuple_(*bounds) if keys.down else place > tuple_(*bounds))
    return wanted.order_by(*(column.desc() if keys.down else column.asc() for column in keys.columns))


def _cursor(row: Any, keys: Keys) -> str:
    values = [getattr(row, name) for name in keys.names or [column.key for column in keys.columns]]
    numbers = [(one - _EPOCH) // _MICROSECOND if isinstance(one, datetime) else one for one in values]
    return ".".join(map(str, numbers))
