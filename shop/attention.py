"""The *needs attention* queue: what the merchant must decide, flagged inside the transactions of the rules."""

from typing import Any

from sqlalchemy import ColumnElement, case, update
from sqlalchemy.orm import Session

from models import Attention, now
from shop.db import upsert
from shop.states import AttentionKind


def flag(  # noqa: PLR0913  (the columns of an item)
    session: Session,
    kind: AttentionKind,
    subject: str,
    detail: str = "",
    order_id: int | None = None,
    *,
    times: int = 1,
) -> None:
    """Open an attention item, or count up the open one of the same kind and subject.

    Args:
        session: of the open `write()`.
        kind: what happened.
        subject: what it happened to, such as an order number.
        detail: a sentence for the merchant; 500 characters are kept.
        order_id: the order, if there is one.
        times: how often it happened.
    """
    at = now()
    row: dict[str, Any] = {"kind": kind, "subject": subject, "detail": detail[:500], "order_id": order_id}
    again = row | {"count": Attention.count + times, "last_at": at}
    session.execute(
        upsert(session, Attention)
        .values(**row, count=times, opened_at=at, last_at=at)
        .on_conflict_do_update(
            index_elements=["kind", "subject"], index_where=Attention.closed_at.is_(None), set_=again
        )
    )


def close(session: Session, which: ColumnElement[bool], staff_id: int, note: str) -> None:
    """Close open items, with the name of who settled them and a note; 500 characters are kept."""
    values = {"closed_at": now(), "closed_by": staff_id, "resolution": note[:500]}
    session.execute(update(Attention).where(which, Attention.closed_at.is_(None)).values(**values))


def urgency() -> ColumnElement[int]:
    """Return the rank of an item's kind, to order by. A kind that only a later version knows comes first."""
    return case({kind.value: rank for rank, kind in enumerate(AttentionKind)}, value=Attention.kind, else_=-1)
