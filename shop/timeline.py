"""The timeline of an order: what happened, in the order in which it happened, and who did it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from flask_babel import LazyString
from flask_babel import lazy_gettext as _
from sqlalchemy import select

from models import Attention, CallbackAttempt, GatewayCall, Order, OrderEvent, OrderNote, OutboxMessage, Staff
from shop.db import db
from shop.outbox import keys_of
from shop.states import Actor, DeliveryState, EventKind, OrderState, PaymentSource

_BECAME: dict[str, LazyString] = {
    OrderState.PLACED: _("Order placed, goods reserved"),
    OrderState.AWAITING_PAYMENT: _("Payment page and QR code shown"),
    OrderState.PAID: _("Paid"),
    OrderState.NEEDS_REVIEW: _("Paid, but the goods were no longer reserved: to be decided"),
    OrderState.EXPIRED: _("Reservation expired, goods returned to stock"),
    OrderState.CANCELLED: _("Cancelled, goods returned to stock"),
    OrderState.REFUNDED: _("Refunded"),
}
_WENT: dict[tuple[str | None, str | None], LazyString] = {
    (OrderState.EXPIRED, OrderState.PLACED): _("Goods reserved again"),
    (OrderState.EXPIRED, OrderState.AWAITING_PAYMENT): _("Goods reserved again"),
    (OrderState.EXPIRED, OrderState.CANCELLED): _("Contact data erased"),
    (OrderState.NEEDS_REVIEW, OrderState.PAID): _("Decided: the goods are handed over"),
}
_HAPPENED: dict[str, LazyString] = {
    EventKind.RESERVATION_EXTENDED: _("Customer came back from the payment page; reservation extended"),
    EventKind.PAYMENT_ADDED: _("Another payment was stored"),
}


@dataclass(frozen=True)
class Act:
    """A row of the timeline."""

    at: datetime
    who: str | LazyString
    what: str | LazyString
    detail: str = ""
    """What somebody wrote, or a program said; not translated."""
    callback_id: int | None = None


def of(order: Order) -> list[Act]:
    """Everything that happened to an order, the oldest first. What happened at one moment stands by its cause."""
    names = {person.id: person.name for person in db.session.scalars(select(Staff))}
    acts = [*_calls(order), *_callbacks(order), *_events(order, names), *_payments(order, names), *_mails(order)]
    return sorted([*acts, *_flags(order, names), *_notes(order, names)], key=lambda act: act.at)


def _events(order: Order, names: dict[int, str]) -> Iterator[Act]:
    for event in order.events:
        who = names.get(event.staff_id, "") if event.staff_id else event.actor.label
        detail = event.detail if event.kind is not EventKind.DELIVERY_CHANGED else ""
        yield Act(event.at, who, _describe(event), detail)


def _describe(event: OrderEvent) -> str | LazyString:
    if event.kind is EventKind.DELIVERY_CHANGED:
        labels: dict[str, LazyString] = {state: state.label for state in DeliveryState}
        return _("Delivery: %(state)s", state=labels.get(event.detail, event.detail))
    became = _BECAME.get(event.to_state or "") or _HAPPENED.get(event.kind)
    return _WENT.get((event.from_state, event.to_state)) or became or event.kind


def _calls(order: Order) -> Iterator[Act]:
    for call in db.session.scalars(select(GatewayCall).filter_by(order_id=order.id)):
        if call.outcome == "ok":
            text = _("Invoice asked for, and received after %(ms)s ms", ms=call.milliseconds)
        else:
            text = _("Invoice asked for, without success")
        yield Act(call.started_at, Actor.SHOP.label, text, call.detail)


def _callbacks(order: Order) -> Iterator[Act]:
    for attempt in db.session.scalars(select(CallbackAttempt).filter_by(order_id=order.id)):
        outcome = attempt.outcome.label
        text = _("Callback answered %(status)s: %(outcome)s", status=attempt.status, outcome=outcome)
        yield Act(attempt.received_at, Actor.GATEWAY.label, text, attempt.reason, attempt.id)


def _payments(order: Order, names: dict[int, str]) -> Iterator[Act]:
    for payment in order.payments:
        if payment.source is PaymentSource.MANUAL:
            who = names.get(payment.staff_id or 0, "")
            yield Act(payment.received_at, who, _("Payment confirmed by hand"), payment.note)
        for refund in payment.refunds:
            who = names.get(refund.staff_id, "")
            yield Act(refund.at, who, _("Refund recorded"), " · ".join(filter(None, (refund.reference, refund.note))))


def _mails(order: Order) -> Iterator[Act]:
    for message in db.session.scalars(select(OutboxMessage).where(OutboxMessage.key.in_(keys_of(order.id)))):
        if message.done_at:
            yield Act(message.done_at, Actor.SHOP.label, _("E-mail sent: %(what)s", what=message.kind.label))
        else:
            text = _("E-mail waits to be sent: %(what)s", what=message.kind.label)
            yield Act(message.created_at, Actor.SHOP.label, text, message.error)


def _flags(order: Order, names: dict[int, str]) -> Iterator[Act]:
    for item in db.session.scalars(select(Attention).filter_by(order_id=order.id)):
        yield Act(item.opened_at, Actor.SHOP.label, _("Needs attention: %(what)s", what=item.kind.label), item.detail)
        if item.closed_at:
            who = names.get(item.closed_by or 0, Actor.SHOP.label)
            yield Act(item.closed_at, who, _("Settled: %(what)s", what=item.kind.label), item.resolution)


def _notes(order: Order, names: dict[int, str]) -> Iterator[Act]:
    for note in db.session.scalars(select(OrderNote).filter_by(order_id=order.id)):
        yield Act(note.at, names[note.staff_id], _("Note"), note.text)
