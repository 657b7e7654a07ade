"""Order ↔ gateway: asking for the invoice, and what a callback means.

Third stop on the money's way. The gateway speaks HTTP only in `request_invoice`, with no transaction open; whatever
arrives from it is stored by one transaction before anybody is told.
"""

import logging
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
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
from shop.limits import current_miss_limiter
from shop.money import to_decimal
from shop.outbox import enqueue
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

INVOICE_LEASE = timedelta(seconds=15)
"""How long a request may be asking for an invoice before another may take over. Longer than `amwal.DEADLINE`."""


# --- Asking for the invoice ------------------------------------------------------------------------------------------


def request_invoice(order_id: int) -> None:
    """Ask the gateway for an order's invoice, unless it has one or somebody is asking already.

    Whatever the gateway does, this returns: the order page tells how it went, and offers to try again.
    """
    gateway = current_gateway()
    if not gateway.slots.acquire(blocking=False):
        log.warning("every slot for the gateway is taken; order %s can be tried again", order_id)
        return
    try:
        order = _claim(order_id)
        if order is not None:
            _ask(gateway.client, order)
    finally:
        gateway.slots.release()


def _claim(order_id: int) -> Order | None:
    """Take the lease on asking for this order's invoice. None if another request has it, or there is nothing to ask."""
    with write() as session:
        order = orders.lock(session, order_id)
        claimed = order.invoice_claimed_until is not None and order.invoice_claimed_until > now()
        if order.state is not OrderState.PLACED or claimed:
            return None
        order.invoice_claimed_until = now() + INVOICE_LEASE
        _ = [line.name for line in order.lines]  # read now: nothing may be loaded once the transaction is over
        return order


def _ask(client: amwal.Client, order: Order) -> None:
    page = f"{settings.public_url}{order.path}"
    started, clock = now(), time.monotonic()
    try:
        result: amwal.Invoice | amwal.AmwalError = client.create_invoice(
            amount=to_decimal(order.total, order.currency),
            header=f"{order.number} · {settings.shop_name}",
            description=_describe(order),
            success_url=f"{page}?returned=success",
            cancel_url=f"{page}?returned=cancel",
        )
    except amwal.AmwalError as error:
        result = error
        log.warning("no invoice for order %s: %s", order.number, error)
    milliseconds = round((time.monotonic() - clock) * 1000)
    try:
        _store(order.id, started, milliseconds, result)
    except IntegrityError:
        # UNIQUE refused an id or a secret that the gateway gave before: whose payment would a callback be?
        _store(order.id, started, milliseconds, amwal.BadReply("the gateway repeated an invoice id or a secret"))


def _store(order_id: int, started: datetime, milliseconds: int, result: amwal.Invoice | amwal.AmwalError) -> None:
    """T2: store the invoice, or why there is none. Only after this commit may its URL and QR be shown."""
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
                then = "; three in a row close the checkout" if call.outcome == "KeyRejected" else ""
                flag(session, kind, call.outcome, call.detail + then, order.id)
        elif order.state is OrderState.PLACED:  # if not, the reply is dropped: nobody saw that invoice
            stored = Invoice(order_id=order.id, gateway_id=result.id, secret_digest=digest(result.secret))
            stored.url, stored.qr, stored.amount = result.url, qr, order.total
            session.add(stored)
            if orders.transition(session, order, OrderState.AWAITING_PAYMENT, SHOP):
                enqueue(session, OutboxKind.MAIL_PAY_HERE, order_id=order.id)


def draw_qr(url: str) -> bytes:
    """A PNG of an address, for where the gateway's own picture cannot be used."""
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


# --- What a callback means -------------------------------------------------------------------------------------------

STATUS_OF = {
    CallbackOutcome.ACCEPTED: 200,
    CallbackOutcome.DUPLICATE: 200,
    CallbackOutcome.MALFORMED: 400,
    CallbackOutcome.UNKNOWN_SECRET: 404,
    CallbackOutcome.OTHER_INVOICE: 409,
    CallbackOutcome.TOO_LARGE: 413,
    CallbackOutcome.TOO_MANY: 429,
}
"""The HTTP status of each outcome. Only a 200 ends the gateway's retries, so only money that is stored gets one."""


@dataclass(frozen=True)
class Verdict:
    """What a callback is, and why, for the inbox."""

    outcome: CallbackOutcome
    reason: str = ""


def accept_callback(body: bytes, sender: str) -> CallbackOutcome:
    """Callback transaction (T3): record a callback and, if it is good, the payment and all that follows, in one commit.

    Args:
        body: as it arrived.
        sender: the address that it came from.

    Returns:
        What it was; `STATUS_OF` has the status to answer with.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database could not take it. Nothing was written; the gateway must retry.
    """
    message = _read(body)
    misses = current_miss_limiter()
    if misses.is_full() and not _has_secret_of_ours(message):
        misses.skip()
        return CallbackOutcome.TOO_MANY
    with write() as session:
        order = _lock_order(session, message)
        verdict = classify(message, order)
        attempt = CallbackAttempt(sender=sender[:60], order=order, body=redact(body))
        attempt.outcome, attempt.status, attempt.reason = verdict.outcome, STATUS_OF[verdict.outcome], verdict.reason
        if isinstance(message, amwal.Callback):
            attempt.gateway_id, attempt.session_id = message.invoice_id, message.session_id
        session.add(attempt)
        session.flush()
        _act(session, attempt)
    log.info("callback %s: %s", attempt.outcome, attempt.reason or attempt.order_id)
    return attempt.outcome


def _read(body: bytes) -> amwal.Callback | Verdict:
    if len(body) > amwal.CALLBACK_LIMIT:
        return Verdict(CallbackOutcome.TOO_LARGE, f"more than {amwal.CALLBACK_LIMIT} bytes")
    try:
        return amwal.parse_callback(body)
    except amwal.BadCallback as error:
        return Verdict(CallbackOutcome.MALFORMED, str(error))


def _has_secret_of_ours(message: amwal.Callback | Verdict) -> bool:
    """Whether this can be a callback of the gateway: by a read alone, so that guessing costs the database no write."""
    if isinstance(message, Verdict):
        return False
    return db.session.scalar(select(Invoice.id).filter_by(secret_digest=digest(message.secret))) is not None


def _lock_order(session: Session, message: amwal.Callback | Verdict) -> Order | None:
    """The order that a secret belongs to. The lock makes copies that arrive at once take turns: the first is accepted,
    the others are duplicates."""
    if isinstance(message, Verdict):
        return None
    return lock_by_invoice(session, Invoice.secret_digest == digest(message.secret))


def classify(message: amwal.Callback | Verdict, order: Order | None) -> Verdict:
    """Decide what a callback is. Changes nothing.

    Args:
        message: what it says, or why it can't be read.
        order: the order that its secret belongs to, locked, with invoice and payments; None if there is none.
    """
    if isinstance(message, Verdict):
        return message
    if order is None or order.invoice is None:
        return Verdict(CallbackOutcome.UNKNOWN_SECRET, "no invoice of ours has this secret")
    if message.invoice_id not in ("", order.invoice.gateway_id):
        return Verdict(CallbackOutcome.OTHER_INVOICE, "the secret belongs to another invoice")
    # A payment that has no callback yet was confirmed by hand: the first one that comes is its own.
    if any(one.callback_id is None or one.session_id == message.session_id for one in order.payments):
        return Verdict(CallbackOutcome.DUPLICATE)
    # Without its ids it is accepted all the same: the secret is right, so the money is real.
    complete = message.invoice_id and message.session_id
    return Verdict(CallbackOutcome.ACCEPTED, "" if complete else "invoiceId or paymentSessionId is missing")


def _act(session: Session, attempt: CallbackAttempt) -> None:
    """Do what a recorded callback calls for."""
    order = attempt.order
    if order is None:
        _flag_misses(session, attempt, current_miss_limiter().record())
    elif attempt.outcome is CallbackOutcome.ACCEPTED:
        payment = Payment(session_id=attempt.session_id, source=PaymentSource.CALLBACK, callback_id=attempt.id)
        apply_payment(session, order, payment, GATEWAY)
        if attempt.reason:  # somebody should know that the gateway's message was odd
            flag(session, AttentionKind.MISSING_IDS, order.number, attempt.reason, order.id)
    elif attempt.outcome is CallbackOutcome.DUPLICATE:
        # If a person was faster, their payment gets its callback and session now: another session is paid twice.
        by_hand = update(Payment).where(Payment.order_id == order.id, Payment.callback_id.is_(None))
        session.execute(by_hand.values(callback_id=attempt.id, session_id=attempt.session_id))
    elif attempt.outcome is CallbackOutcome.OTHER_INVOICE:
        flag(session, AttentionKind.OTHER_INVOICE, order.number, f"it named {attempt.gateway_id[:80]}", order.id)


def lock_by_invoice(session: Session, which: ColumnElement[bool]) -> Order | None:
    """The order of an invoice, locked until the transaction ends."""
    found = select(Order).join(Order.invoice).where(which).options(contains_eager(Order.invoice))
    return session.scalar(found.with_for_update(of=Order, key_share=True))


def _flag_misses(session: Session, attempt: CallbackAttempt, skipped: int) -> None:
    """Flag an unknown secret, with those before it that were only counted."""
    times = skipped + (attempt.outcome is CallbackOutcome.UNKNOWN_SECRET)
    if times:
        flag(session, AttentionKind.UNKNOWN_SECRET, "callback", f"last from {attempt.sender}", times=times)


def apply_payment(session: Session, order: Order, payment: Payment, by: By) -> None:
    """Store a payment and bring the order where it brings it from its present state."""
    payment.order_id, payment.amount = order.id, order.total
    session.add(payment)
    if order.state is OrderState.AWAITING_PAYMENT:
        _pay(session, order, by)
    elif order.state is OrderState.EXPIRED:
        _pay_late(session, order, by)
    elif order.state is OrderState.CANCELLED:
        _review(session, order, AttentionKind.PAID_CANCELLED, by)
    else:  # paid, in review or refunded: this is money on top, which only a person can send back
        orders.add_event(session, order, EventKind.PAYMENT_ADDED, by)
        flag(session, AttentionKind.PAID_TWICE, order.number, f"payment session {payment.session_id}", order.id)


def _pay(session: Session, order: Order, by: By, *, late: bool = False) -> None:
    """The order is paid: its one delivery starts, its receipt is queued."""
    detail = "paid late" if late else ""
    if orders.transition(session, order, OrderState.PAID, by, detail, paid_at=now(), paid_late=late):
        session.add(Delivery(order_id=order.id))
        enqueue(session, OutboxKind.MAIL_RECEIPT, order_id=order.id)


def _pay_late(session: Session, order: Order, by: By) -> None:
    """The reservation ran out before the money came: fine if everything is still there."""
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
    """The money is here and the goods are not held: a person must decide."""
    if orders.transition(session, order, OrderState.NEEDS_REVIEW, by, str(kind.value), paid_at=now()):
        flag(session, kind, order.number, "", order.id)


def redact(body: bytes) -> str:
    """A body for the inbox: cut, and without anything that could be a secret, whatever the body's shape."""
    text = body[:4000].decode("utf-8", "replace").replace("\x00", "�")
    text = re.sub(r'("secret"\s*:\s*)("(?:[^"\\]|\\.)*"?|[^,}\]]*)', r'\1"…"', text)
    text = re.sub(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}", "…", text)
    return text[:500]
