"""What a person must look at: the *needs attention* queue, filled inside the transactions of the rules."""

from typing import Any

from sqlalchemy.orm import Session

from models import Attention, now
from shop.db import upsert
from shop.states import AttentionKind


def flag(  # noqa: PLR0913  (what an item is made of)
    session: Session,
    kind: AttentionKind,
    subject: str,
    detail: str = "",
    order_id: int | None = None,
    *,
    times: int = 1,
) -> None:
    """Put something before a person: opens an item, or counts one up that is open for the same kind and subject."""
    at = now()
    row: dict[str, Any] = {"kind": kind, "subject": subject, "detail": detail[:500], "order_id": order_id}
    again = {"count": Attention.count + times, "last_at": at, "detail": detail[:500]}
    session.execute(
        upsert(session, Attention)
        .values(**row, count=times, opened_at=at, last_at=at)
        .on_conflict_do_update(
            index_elements=["kind", "subject"], index_where=Attention.closed_at.is_(None), set_=again
        )
    )
