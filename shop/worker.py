"""The worker: relays the outbox (T4), ends reservations, and does the periodic chores. It stands above all rules.

A message is leased, handled outside any transaction, and handled again later if that failed: handlers are idempotent.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import groupby

from sqlalchemy import delete, func, or_, select
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session

from models import Attention, CallbackAttempt, Heartbeat, Order, OutboxMessage, Shop, Staff, now
from shop import mail, orders, privacy, staff
from shop.attention import flag, urgency
from shop.config import settings
from shop.db import db, upsert, write
from shop.outbox import TO_CUSTOMER
from shop.security import NOT_SHOWN, repeats_a_secret
from shop.states import AttentionKind, CallbackOutcome, OrderState, OutboxKind

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
"""How long a worker may take for a message before another takes it over."""
BATCH = 20  # messages between two looks at the reservations
ALERT_AFTER = 5  # failed attempts before the message is flagged
DIGEST_EVERY = timedelta(hours=1)
DIGEST_PER_KIND = 20  # items of a kind in one digest; the others follow in the next
CALLBACK_EXPECTED_WITHIN = timedelta(minutes=15)
MISSES_KEPT = 10_000  # callbacks without a known secret, and for how long; all others are kept for good
MISSES_KEPT_FOR = timedelta(days=7)


def work(stop: threading.Event, pause: float = 1.0) -> None:
    """Run a round every `pause` seconds until `stop` is set. An error is logged and ends only its round."""
    said = ""
    while not stop.is_set():
        try:
            tick(stop)
            said = ""
        except (OperationalError, InterfaceError, ProgrammingError) as error:  # for hours, perhaps: logged once
            if said != (said := str(error.orig).partition("\n")[0]):
                log.error("the worker can't use the database, and tries again: %s", said)
        except Exception:
            log.exception("a round of the worker failed; the next one tries again")
        finally:
            db.session.remove()
        stop.wait(pause)


def sign_off() -> None:
    """Remove the heartbeat of a worker that ends as it was told to: nobody has to wait until it counts as silent."""
    with suppress(SQLAlchemyError), write() as session:
        session.execute(delete(Heartbeat).filter_by(name="worker"))


def tick(stop: threading.Event | None = None) -> None:
    """Run one round of everything that is due. It ends early when `stop` is set."""
    _beat()
    for order_id in _run_out():
        try:
            orders.expire(order_id)
        except SQLAlchemyError:  # one order's error must not keep the others from expiring
            log.exception("the order with id %s could not be expired; the next round tries again", order_id)
    _notice_possibly_paid()
    _queue_digest()
    for _ in range(BATCH):
        if (stop and stop.is_set()) or (message := _lease()) is None:
            break
        _deliver(message)
        _beat()  # a slow mail server must not make the worker look dead
    _do_hourly()


def _beat() -> None:
    """Record the heartbeat, at most every 10 seconds."""
    if _is_due("worker", timedelta(seconds=10)):
        with write() as session:
            _record_time(session, "worker")


def _is_due(name: str, every: timedelta) -> bool:
    """Whether something was last done long enough ago. A time in the future, from a wrong clock, counts as never."""
    last = db.session.get(Heartbeat, name)
    return last is None or not now() - every <= last.at <= now()


def _record_time(session: Session, name: str) -> None:
    """Record that something was done now. Two workers may do so at the same moment."""
    row = upsert(session, Heartbeat).values(name=name, at=now())
    session.execute(row.on_conflict_do_update(index_elements=["name"], set_={"at": row.excluded.at}))


def _serialize_workers(session: Session) -> None:
    """Serialize concurrent workers until the transaction ends."""
    session.get_one(Heartbeat, "worker", with_for_update=True)


def _run_out() -> list[int]:
    """List unpaid orders whose reservation ran out."""
    unpaid = [state for state in OrderState if state.holds_stock_unpaid]
    due = select(Order.id).where(Order.state.in_(unpaid), Order.reserved_until <= now(), ~Order.in_doubt())
    return list(db.session.scalars(due.order_by(Order.reserved_until).limit(100)))


def _notice_possibly_paid() -> None:
    """Flag orders whose buyer returned by successUrl long ago without a callback: the callback URL may be wrong."""
    unpaid = [state for state in OrderState if state.may_have_unseen_payment]
    restored = select(Shop.restored_at).scalar_subquery()  # those in doubt then have one item for all of them
    overdue = select(Order).where(Order.state.in_(unpaid), Order.returned_at <= now() - CALLBACK_EXPECTED_WITHIN)
    overdue = overdue.where(Order.returned_at.is_distinct_from(restored))
    told = select(Attention.id).where(Attention.kind == AttentionKind.POSSIBLY_PAID, Attention.order_id == Order.id)
    untold = overdue.where(~told.where(Attention.last_at >= Order.returned_at).exists()).order_by(Order.id).limit(100)
    if db.session.scalar(untold.limit(1)) is None:
        return
    with write() as session:
        _serialize_workers(session)
        for order in session.scalars(untold).all():
            flag(session, AttentionKind.POSSIBLY_PAID, order.number, "", order.id)


def _queue_digest() -> None:
    """Queue an e-mail to the merchant about new attention items, at most once an hour."""
    if not settings.merchant_email:
        return
    news = select(Attention).where(Attention.closed_at.is_(None), Attention.mailed_at.is_(None))
    if db.session.scalar(news.limit(1)) is None:
        return
    with write() as session:
        _serialize_workers(session)
        last = session.scalar(select(func.max(Attention.mailed_at)).where(Attention.mailed_at <= now()))
        if last is not None and last > now() - DIGEST_EVERY:
            return
        # Some of each kind: anybody can cause "possibly paid", and it must not crowd out a payment that arrived twice.
        nth = func.row_number().over(partition_by=Attention.kind, order_by=Attention.id).label("nth")
        first = news.with_only_columns(Attention.id, nth).subquery()
        chosen = select(Attention).where(Attention.id.in_(select(first.c.id).where(first.c.nth <= DIGEST_PER_KIND)))
        # SKIP LOCKED: items being counted up right now are taken next time. Waiting for them could deadlock.
        items = list(session.scalars(chosen.order_by(Attention.id).with_for_update(skip_locked=True)))
        for item in items:
            item.mailed_at = now()
        if items:
            ids = [item.id for item in items]
            key = f"{OutboxKind.MAIL_DIGEST.value}:{ids[0]}"
            session.add(OutboxMessage(key=key, kind=OutboxKind.MAIL_DIGEST, payload={"attention_ids": ids}))


def _lease() -> OutboxMessage | None:
    """Lease the message that has been due longest. No other worker takes it until the lease ends."""
    due = select(OutboxMessage).where(OutboxMessage.done_at.is_(None), OutboxMessage.due_at <= now())
    if db.session.scalar(due.limit(1)) is None:  # the usual case: nothing is due, nothing written
        return None
    with write() as session:
        oldest = due.order_by(OutboxMessage.due_at, OutboxMessage.id).limit(1)
        message = session.scalar(oldest.with_for_update(skip_locked=True))
        if message is not None:
            message.attempts += 1
            message.due_at = now() + LEASE
        return message


def _deliver(message: OutboxMessage) -> None:
    """Run a message's handler outside any transaction, and store the result."""
    error = ""
    try:
        HANDLERS[message.kind](message)
    except Exception as caught:  # the payment stands, whatever a handler raises; the message is retried
        said = NOT_SHOWN if repeats_a_secret(settings, str(caught)) else caught
        error = f"{type(caught).__name__}: {said}"[:300]
        log.warning("outbox %s failed (attempt %d): %s", message.key, message.attempts, error)
    with write() as session:
        order_id = message.payload.get("order_id")
        if message.kind in TO_CUSTOMER and order_id is not None and not orders.lock(session, order_id).email:
            error = ""  # contact data was erased meanwhile: nothing to send, and the error may quote the address
        stored = session.get_one(OutboxMessage, message.id)
        stored.error = error
        if not error:
            stored.done_at = now()
            return
        stored.due_at = now() + back_off(stored.attempts)
        if stored.attempts >= ALERT_AFTER and stored.kind is not OutboxKind.MAIL_DIGEST:  # can't announce itself
            flag(session, AttentionKind.OUTBOX_STUCK, stored.key, error, order_id)


def _do_hourly() -> None:
    """Do the hourly chores, once for all workers."""
    if _is_due("hourly", timedelta(hours=1)):
        forget_misses()
        privacy.tidy()
        staff.tidy()
        with write() as session:
            _record_time(session, "hourly")


def forget_misses() -> None:
    """Delete old callbacks without a known secret: anyone can send them, and they must not fill the disk."""
    misses = [outcome for outcome in CallbackOutcome if outcome.is_miss]
    ids = select(CallbackAttempt.id).where(CallbackAttempt.outcome.in_(misses))
    newest_to_go = db.session.scalar(ids.order_by(CallbackAttempt.id.desc()).offset(MISSES_KEPT).limit(1))
    too_old = CallbackAttempt.received_at < now() - MISSES_KEPT_FOR
    too_many = CallbackAttempt.id <= (newest_to_go or 0)
    with write() as session:
        session.execute(delete(CallbackAttempt).where(CallbackAttempt.outcome.in_(misses), or_(too_old, too_many)))


def back_off(attempts: int) -> timedelta:
    """Return the pause after that many failed attempts: 10 seconds, doubled each time, six hours at most."""
    return min(timedelta(seconds=10 * 2 ** min(attempts - 1, 20)), timedelta(hours=6))


# --- Handlers --------------------------------------------------------------------------------------------------------


def _mail_customer(message: OutboxMessage) -> None:
    """Send "your order, pay here" or the receipt."""
    order = db.session.get_one(Order, message.payload["order_id"])
    too_late = message.kind is OutboxKind.MAIL_PAY_HERE and (order.is_in_doubt or not order.may_still_be_paid)
    if order.email and not too_late:  # a till order, or erased contact data
        mail.send(message, order.email, order.locale, order=order, link=mail.order_link(order))


def _mail_delivery(message: OutboxMessage) -> None:
    """Tell the customer where the goods are: as of the step that this e-mail is about."""
    order = db.session.get_one(Order, message.payload["order_id"])
    if order.email:
        about = {"state": message.payload["state"], "order": order, "link": mail.order_link(order)}
        mail.send(message, order.email, order.locale, **about)


def _mail_digest(message: OutboxMessage) -> None:
    """Send the merchant the digest of what needs attention, the most urgent first, one entry for each kind."""
    chosen = select(Attention).where(Attention.id.in_(message.payload["attention_ids"]))
    items = db.session.scalars(chosen.order_by(urgency(), Attention.id)).all()
    still_open = select(Attention.kind, func.count()).where(Attention.closed_at.is_(None)).group_by(Attention.kind)
    counts = {row.kind: row.count for row in db.session.execute(still_open)}
    kinds = [(kind, list(of_kind)) for kind, of_kind in groupby(items, lambda item: item.kind) if kind in counts]
    unknown = select(CallbackAttempt.gateway_id).filter_by(outcome=CallbackOutcome.UNKNOWN_SECRET).distinct()
    invoices = db.session.scalars(unknown.where(CallbackAttempt.gateway_id != "").limit(DIGEST_PER_KIND)).all()
    if kinds:
        about = {"kinds": kinds, "counts": counts, "invoices": {AttentionKind.UNKNOWN_SECRET: invoices}}
        mail.send(message, settings.merchant_email, settings.shop_locales[0], **about)


def _mail_paid_order(message: OutboxMessage) -> None:
    """Tell the merchant that an order was paid, unless they chose to get no such e-mails."""
    if settings.merchant_email and db.session.scalars(select(Shop.mails_paid_orders)).one():
        order = db.session.get_one(Order, message.payload["order_id"])
        link = f"{settings.public_url}/dashboard/orders/{order.number}"
        mail.send(message, settings.merchant_email, settings.shop_locales[0], order=order, link=link)


def _mail_new_password(message: OutboxMessage) -> None:
    """Send a member of staff the link for a new password. It is made now, so a late e-mail has a fresh one."""
    person = db.session.get_one(Staff, message.payload["staff_id"])
    if person.active:
        link = f"{settings.public_url}/dashboard/new-password/{staff.new_link(person)}"
        mail.send(message, person.email, message.payload["locale"], person=person, link=link)


HANDLERS: dict[OutboxKind, Callable[[OutboxMessage], None]] = {
    OutboxKind.MAIL_PAY_HERE: _mail_customer,
    OutboxKind.MAIL_RECEIPT: _mail_customer,
    OutboxKind.MAIL_DELIVERY: _mail_delivery,
    OutboxKind.MAIL_DIGEST: _mail_digest,
    OutboxKind.MAIL_PAID_ORDER: _mail_paid_order,
    OutboxKind.MAIL_NEW_PASSWORD: _mail_new_password,
}
