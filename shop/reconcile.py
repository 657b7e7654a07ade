"""When no callback comes: compare with the gateway's account, and confirm a payment by hand."""

import logging
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from sqlalchemy import select, update
from sqlalchemy.orm import contains_eager, selectinload

from models import Attention, Invoice, Order, Payment, Shop, Staff, now
from shop.attention import flag
from shop.config import settings
from shop.db import db, write
from shop.payments import apply_payment, lock_by_invoice
from shop.states import Actor, AttentionKind, By, PaymentSource
from shop.text import visible

log = logging.getLogger(__name__)

GATEWAY_ID = re.compile(r"(?i)(?<![0-9a-f])[0-9a-f]{24}(?![0-9a-f])")
"""How the gateway's ids look (protocol: Invoice). Ids of another form are found if an invoice here has them."""


@dataclass(frozen=True)
class Comparison:
    """Invoices that the gateway's account shows as paid, by what the shop knows of them."""

    unpaid: list[Order] = field(default_factory=list)
    """Orders without a payment here: staff may confirm them."""
    paid: list[Order] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Ids of no invoice in this shop."""


def compare(gateway_ids: Iterable[str]) -> Comparison:
    """Compare invoice ids from the gateway's paid list with the shop's payments. Blank and repeated ids are skipped."""
    result = Comparison()
    wanted = list(dict.fromkeys(text for one in gateway_ids if (text := visible(one))))
    for start in range(0, len(wanted), 500):  # the number of parameters of a statement is limited
        chunk = wanted[start : start + 500]
        ours = select(Order).join(Order.invoice).where(Invoice.gateway_id.in_(chunk))
        ours = ours.options(contains_eager(Order.invoice).defer(Invoice.qr), selectinload(Order.payments))
        found = {order.invoice.gateway_id: order for order in db.session.scalars(ours) if order.invoice}
        for gateway_id in chunk:
            if (order := found.get(gateway_id)) is None:
                result.unknown.append(gateway_id)
            else:
                (result.paid if order.payments else result.unpaid).append(order)
    return result


def decode(content: bytes) -> str:
    """The text of a file, as browsers and spreadsheets save it."""
    encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    return content.decode(encoding, "replace")


def read_ids(text: str) -> tuple[list[str], list[str]]:
    """Find invoice ids in any text: one a line, a spreadsheet, a page that was copied.

    Returns:
        The ids, each once, and the lines that have none. The id in the project's address is no invoice's.
    """
    lines = [line for one in text.splitlines() if (line := visible(one))]
    found = [[line, *re.findall(r"[\w-]+", line), *GATEWAY_ID.findall(line)] for line in lines]
    words = list(dict.fromkeys(chain.from_iterable(found)))
    known = {one for start in range(0, len(words), 500) for one in _known(words[start : start + 500])}
    project = settings.amwal_project_url.rpartition("/")[2].lower()
    ids = [
        [word if word in known else word.lower() for word in of_line if word in known or GATEWAY_ID.fullmatch(word)]
        for of_line in found
    ]
    ids = [[one for one in of_line if one != project] for of_line in ids]
    return list(dict.fromkeys(chain.from_iterable(ids))), [
        line for line, some in zip(lines, ids, strict=True) if not some
    ]


def _known(words: list[str]) -> Sequence[str]:
    return db.session.scalars(select(Invoice.gateway_id).where(Invoice.gateway_id.in_(words))).all()


def end_comparison(found: Comparison, staff_id: int | None = None) -> None:
    """End the doubt after a restore: somebody says that this was the whole list of paid invoices.

    What is paid there and not here is flagged. The other open orders can be paid again.

    Args:
        found: the result of comparing the list.
        staff_id: who says so; None for an operator.
    """
    with write() as session:
        for order in found.unpaid:
            flag(session, AttentionKind.PAID_UNCONFIRMED, order.number, "confirm it by hand", order.id)
        for gateway_id in found.unknown:
            flag(session, AttentionKind.PAID_UNKNOWN, gateway_id[:200], "ask the customer, or refund it")
        shop = session.scalars(select(Shop).with_for_update()).one()
        paid = [order.id for order in found.unpaid]
        in_doubt = update(Order).where(Order.returned_at == shop.restored_at, Order.id.not_in(paid))
        session.execute(in_doubt.values(returned_at=None))
        shop.compared_at = now()
        said = f"compared: {len(found.paid)} paid, {len(found.unpaid)} unpaid here, {len(found.unknown)} unknown here"
        item = update(Attention).filter_by(kind=AttentionKind.RESTORED, closed_at=None)
        session.execute(item.values(closed_at=now(), closed_by=staff_id, resolution=said))


def confirm_by_hand(gateway_id: str, staff_id: int, note: str) -> bool:
    """Callback transaction (T3) without a callback: a member of staff saw the payment in the gateway's account.

    Works for invoices of this shop only. A callback that arrives later is taken as this payment's own, see
    `payments.classify`.

    Args:
        gateway_id: the invoice's id in the gateway's account.
        staff_id: who confirms. The caller has checked that it is really them.
        note: what they saw, and where; 500 characters are kept.

    Returns:
        False if there is nothing to confirm: no such invoice, or its order has a payment already.

    Raises:
        ValueError: no note, or no active member of staff. Nothing was written.
    """
    if not note.strip():
        raise ValueError("a confirmation by hand needs a note")
    with write() as session:
        if session.scalar(select(Staff.id).filter_by(id=staff_id, active=True)) is None:
            raise ValueError("only a member of the staff can confirm a payment")
        order = lock_by_invoice(session, Invoice.gateway_id == visible(gateway_id))
        if order is None or order.payments:
            return False
        payment = Payment(session_id="", source=PaymentSource.MANUAL, staff_id=staff_id, note=note.strip()[:500])
        apply_payment(session, order, payment, By(Actor.COMPARISON, staff_id))
    log.info("order %s was confirmed by hand, by staff %d", order.number, staff_id)
    return True
