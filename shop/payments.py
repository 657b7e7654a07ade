"""Payments: request the invoice and store it; decide what a callback means.

The third of the five files of the payment flow. Only `request_invoice` makes HTTP requests, with no transaction open.
A reply is committed before the customer sees it, and a callback before it is answered.
"""

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import segno
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, contains_eager

import amwal
from models import CallbackAttempt, Delivery, GatewayCall, Invoice, Order, Payment, digest, now
from shop import orders, refusals, stock
from shop.attention import flag
from shop.config import settings
from shop.db import db, write
from shop.gateway import current_gateway
from shop.limits import current_miss_limiter, may_mail_pay_here
from shop.money import to_decimal
from shop.outbox import enqueue
from shop.security import redact
from shop.states import (
    GATEWAY,
    SHOP,
    AttentionKind,
    By,
    CallbackOutcome,
    EventKind,
    OrderState,
    OutboxKind,
    PaymentSource,
)

log = logging.getLogger(__name__)

# --- The invoice -----------------------------------------------------------------------------------------------------


def request_invoice(order_id: int) -> None:
    """Ask the gateway for an order's invoice, unless the order has one or another request is asking already.

    Never raises for what the gateway does: the order page shows the result, and a *try again* button if there is none.
    """
    gateway = current_gateway()
    if not gateway.slots.acquire(blocking=False):
        log.warning("all slots for gateway requests are taken; the order with id %s has no invoice yet", order_id)
        return
    try:
        order = _claim(order_id)
        if order is not None:
            _ask(gateway.client, order)
    finally:
        gateway.slots.release()


def _claim(order_id: int) -> Order | None:
    """Take the lease on the order's invoice. None if another request holds it, or the order needs none."""
    with write() as session:
        order = orders.lock(session, order_id)
        if order.state is not OrderState.PLACED or order.is_asking or order.is_in_doubt:
            return None
        order.invoice_claimed_until = now() + Order.INVOICE_LEASE
        _ = [line.name for line in order.lines]  # loaded now: no queries after the transaction
        return order


def _ask(client: amwal.Client, order: Order) -> None:
    order_url = f"{settings.public_url}{order.path}"
    started, clock = now(), time.monotonic()
    try:
        result: amwal.Invoice | amwal.AmwalError = client.create_invoice(
            amount=to_decimal(order.total, order.currency),
            header=f"{order.number} · {settings.shop_name}",
            description=_describe(order),
            success_url=f"{order_url}?returned=success",
            cancel_url=f"{order_url}?returned=cancel",
        )
    except amwal.AmwalError as error:
        result = error
        log.warning("no invoice for order %s: %s", order.number, error)
    milliseconds = round((time.monotonic() - clock) * 1000)
    try:
        _store(order.id, started, milliseconds, result)
    except IntegrityError:
        # The gateway gave this id or secret to another order already: a callback couldn't tell the two apart.
        _store(order.id, started, milliseconds, amwal.BadReply("the gateway repeated an invoice id or a secret"))


def _store(order_id: int, started: datetime, milliseconds: int, result: amwal.Invoice | amwal.AmwalError) -> None:
    """Invoice transaction (T2): store the invoice, or why there is none. Its URL and QR are shown after this commit."""
    qr = (result.qr or draw_qr(result.url)) if isinstance(result, amwal.Invoice) else b""
    with write() as session:
        order = orders.lock(session, order_id)
        order.invoice_claimed_until = None
        call = GatewayCall(order_id=order.id, started_at=started, milliseconds=milliseconds, outcome="ok")
        session.add(call)
        if isinstance(result, amwal.AmwalError):
            call.outcome, call.detail = type(result).__name__, str(result)[:300]
            if not result.retryable:
                bad_reply = isinstance(result, amwal.BadReply)
                kind = AttentionKind.GATEWAY_REPLY if bad_reply else AttentionKind.GATEWAY_REFUSED
                then = "; three in a row close the checkout" if isinstance(result, amwal.KeyRejected) else ""
                flag(session, kind, call.outcome, call.detail + then, order.id)
        elif order.state is OrderState.PLACED:  # otherwise the reply is dropped: nobody has seen that invoice
            # Only the secret's digest: enough to find the invoice by, and a leaked backup forges no callback.
            stored = Invoice(order_id=order.id, gateway_id=result.id, secret_digest=digest(result.secret))
            stored.url, stored.qr, stored.amount = result.url, qr, order.total
            session.add(stored)
            moved = orders.transition(session, order, OrderState.AWAITING_PAYMENT, SHOP)
            if moved and may_mail_pay_here(session, order):
                enqueue(session, OutboxKind.MAIL_PAY_HERE, order_id=order.id)


def draw_qr(url: str) -> bytes:
    """Draw an address as a QR code (PNG), for when the gateway's own picture can't be used."""
    picture = BytesIO()
    segno.make(url, error="m", micro=False).save(picture, kind="png", scale=8, border=4)
    return picture.getvalue()


def _describe(order: Order) -> str:
    names = (
        f"{line.quantity} × {line.name.get(order.locale) or next(iter(line.name.values()))}"
        for line in order.product_lines
    )
    text = " · ".join(names)
    return text if len(text) <= 160 else text[:159] + "…"


# --- The callback ----------------------------------------------------------------------------------------------------

STATUS_OF = {
    CallbackOutcome.ACCEPTED: 200,
    CallbackOutcome.DUPLICATE: 200,  # also a retry whose first 200 was lost
    CallbackOutcome.MALFORMED: 400,
    CallbackOutcome.UNKNOWN_SECRET: 404,  # perhaps it came before its invoice was stored: the retry will match
    CallbackOutcome.OTHER_INVOICE: 409,
    CallbackOutcome.TOO_LARGE: 413,
    CallbackOutcome.TOO_MANY: 429,
}
"""The HTTP status for each outcome. A 200 ends the gateway's retries, so it is only given for stored payments."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a callback, and the reason for the inbox."""

    outcome: CallbackOutcome
    reason: str = ""


def accept_callback(body: bytes, sender: str) -> CallbackOutcome:
    """Callback transaction (T3): record the attempt, and for a good one the payment with all its effects.

    Args:
        body: the request body (protocol: The callback).
        sender: the IP address it came from.

    Returns:
        The outcome; `STATUS_OF` has its HTTP status.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database failed. Nothing was written, and the gateway must retry.
    """
    message = _read(body)
    misses = current_miss_limiter()
    if misses.is_full() and not _has_secret_of_ours(message):
        misses.skip()
        return CallbackOutcome.TOO_MANY
    with write() as session:
        order = _lock_order(session, message)
        number = order.number if order else ""
        verdict = classify(message, order)
        attempt = CallbackAttempt(sender=sender[:60], order=order, body=redact(body))
        attempt.outcome, attempt.status, attempt.reason = verdict.outcome, STATUS_OF[verdict.outcome], verdict.reason
        if isinstance(message, amwal.Callback):
            attempt.gateway_id, attempt.session_id = message.invoice_id, message.session_id
        session.add(attempt)
        session.flush()
        _act(session, attempt)
    log.info("callback %s: %s", attempt.outcome, attempt.reason or f"order {number}")
    return attempt.outcome


def _read(body: bytes) -> amwal.Callback | Verdict:
    if len(body) > amwal.CALLBACK_LIMIT:
        return Verdict(CallbackOutcome.TOO_LARGE, f"more than {amwal.CALLBACK_LIMIT} bytes")
    try:
        return amwal.parse_callback(body)
    except amwal.BadCallback as error:
        return Verdict(CallbackOutcome.MALFORMED, str(error))


def _has_secret_of_ours(message: amwal.Callback | Verdict) -> bool:
    """Whether an invoice has this secret. Reads only: guessed secrets must not cost a write each."""
    if isinstance(message, Verdict):
        return False
    return db.session.scalar(select(Invoice.id).filter_by(secret_digest=digest(message.secret))) is not None


def _lock_order(session: Session, message: amwal.Callback | Verdict) -> Order | None:
    """Load and lock the order that a secret belongs to. The lock serializes concurrent copies of a callback: the first
    one is accepted, the others are duplicates."""
    if isinstance(message, Verdict):
        return None
    return lock_by_invoice(session, Invoice.secret_digest == digest(message.secret))


def classify(message: amwal.Callback | Verdict, order: Order | None) -> Verdict:
    """Decide the outcome of a callback. Changes nothing.

    Args:
        message: the callback, or the verdict on a body that can't be read.
        order: the locked order of the secret's invoice; None if there is none.
    """
    if isinstance(message, Verdict):
        return message
    if order is None or order.invoice is None:
        return Verdict(CallbackOutcome.UNKNOWN_SECRET, "no invoice of ours has this secret")
    if message.invoice_id not in ("", order.invoice.gateway_id):
        return Verdict(CallbackOutcome.OTHER_INVOICE, "the secret belongs to another invoice")
    # A payment without a callback was confirmed by hand. The first callback that comes belongs to it.
    if any(one.callback_id is None or one.session_id == message.session_id for one in order.payments):
        return Verdict(CallbackOutcome.DUPLICATE)
    # A callback without ids is accepted: its secret is right, so the money is real.
    complete = message.invoice_id and message.session_id
    return Verdict(CallbackOutcome.ACCEPTED, "" if complete else "invoiceId or paymentSessionId is missing")


def _act(session: Session, attempt: CallbackAttempt) -> None:
    """Store the effects of a recorded callback."""
    order = attempt.order
    if order is None:
        _flag_misses(session, attempt, current_miss_limiter().record())
    elif attempt.outcome is CallbackOutcome.ACCEPTED:
        payment = Payment(session_id=attempt.session_id, source=PaymentSource.CALLBACK, callback_id=attempt.id)
        apply_payment(session, order, payment, GATEWAY)
        if attempt.reason:
            flag(session, AttentionKind.MISSING_IDS, order.number, attempt.reason, order.id)
    elif attempt.outcome is CallbackOutcome.DUPLICATE:
        # A payment confirmed by hand gets its callback and session now. Any other session is then a second payment.
        by_hand = update(Payment).where(Payment.order_id == order.id, Payment.callback_id.is_(None))
        session.execute(by_hand.values(callback_id=attempt.id, session_id=attempt.session_id))
    elif attempt.outcome is CallbackOutcome.OTHER_INVOICE:
        flag(session, AttentionKind.OTHER_INVOICE, order.number, f"it named {attempt.gateway_id[:80]}", order.id)


def lock_by_invoice(session: Session, which: ColumnElement[bool]) -> Order | None:
    """Load an order by its invoice, and lock its row until the transaction ends."""
    found = select(Order).join(Order.invoice).where(which).options(contains_eager(Order.invoice))
    return session.scalar(found.with_for_update(of=Order, key_share=True))


def _flag_misses(session: Session, attempt: CallbackAttempt, skipped: int) -> None:
    """Flag callbacks without a known secret: this one, and those that were only counted."""
    times = skipped + (attempt.outcome is CallbackOutcome.UNKNOWN_SECRET)
    if times:
        flag(session, AttentionKind.UNKNOWN_SECRET, "callback", attempt.described, times=times)


def apply_payment(session: Session, order: Order, payment: Payment, by: By) -> None:
    """Store a payment and transition the order accordingly."""
    payment.order_id, payment.amount = order.id, order.total
    session.add(payment)
    if order.state is OrderState.AWAITING_PAYMENT:
        _pay(session, order, by)
    elif order.state is OrderState.EXPIRED:
        _pay_late(session, order, by)
    elif order.state is OrderState.CANCELLED:
        _review(session, order, AttentionKind.PAID_CANCELLED, by)
    else:  # paid, in review or refunded: money on top, which only the merchant can send back
        orders.add_event(session, order, EventKind.PAYMENT_ADDED, by)
        flag(session, AttentionKind.PAID_TWICE, order.number, f"payment session {payment.session_id}", order.id)


def _pay(session: Session, order: Order, by: By, *, late: bool = False) -> None:
    """Mark the order paid, start its one delivery, and queue its receipt and the merchant's e-mail."""
    detail = "paid late" if late else ""
    if orders.transition(session, order, OrderState.PAID, by, detail, paid_at=now(), paid_late=late):
        session.add(Delivery(order_id=order.id))
        enqueue(session, OutboxKind.MAIL_RECEIPT, OutboxKind.MAIL_PAID_ORDER, order_id=order.id)


def _pay_late(session: Session, order: Order, by: By) -> None:
    """Pay an order whose reservation ran out: paid if the stock is still there, otherwise in review."""
    try:
        with session.begin_nested():
            order.reservation += 1
            stock.take(session, order)
    except refusals.SoldOut:
        session.refresh(order)
        _review(session, order, AttentionKind.PAID_SOLD_OUT, by)
    else:
        _pay(session, order, by, late=True)


def _review(session: Session, order: Order, kind: AttentionKind, by: By) -> None:
    """Put a paid order without reserved stock in review: the merchant decides."""
    if orders.transition(session, order, OrderState.NEEDS_REVIEW, by, str(kind.value), paid_at=now()):
        flag(session, kind, order.number, "", order.id)
