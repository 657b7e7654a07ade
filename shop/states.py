"""What is stored as one of a few words; the order's states, and who may take an order from one to which."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from flask_babel import LazyString
from flask_babel import lazy_gettext as _


class Labelled(StrEnum):
    """A string enum whose members carry the stored value and the words that a person reads."""

    label: LazyString

    def __new__(cls, value: str, label: LazyString) -> Self:
        """Make a member of a value and its label."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member


class OrderState(Labelled):
    """Where an order stands. `TRANSITIONS` says how it may go on, and by whom."""

    PLACED = "placed", _("Preparing payment")
    AWAITING_PAYMENT = "awaiting_payment", _("Waiting for payment")
    PAID = "paid", _("Paid")
    NEEDS_REVIEW = "needs_review", _("Payment received")
    EXPIRED = "expired", _("No longer held")
    CANCELLED = "cancelled", _("Cancelled")
    REFUNDED = "refunded", _("Refunded")

    @property
    def is_final(self) -> bool:
        """Whether the shopper has nothing more to wait for. (Expired and cancelled orders can still be paid.)"""
        return self in (OrderState.PAID, OrderState.NEEDS_REVIEW, OrderState.REFUNDED)

    @property
    def holds_stock_unpaid(self) -> bool:
        """Whether stock is reserved for the order while its payment is awaited."""
        return self in (OrderState.PLACED, OrderState.AWAITING_PAYMENT)

    @property
    def may_have_unseen_payment(self) -> bool:
        """Whether the buyer may have paid although no callback has said so: an invoice stays payable at the gateway."""
        return self in (OrderState.AWAITING_PAYMENT, OrderState.EXPIRED, OrderState.CANCELLED)


class Actor(StrEnum):
    """Who acts on an order."""

    CUSTOMER = "customer"
    SHOP = "shop"
    GATEWAY = "gateway"
    WORKER = "worker"
    OPERATOR = "operator"
    STAFF = "staff"
    COMPARISON = "comparison"
    """A member of staff who saw the payment in the gateway's account, with password and note."""

    @property
    def is_person(self) -> bool:
        """Whether the act carries the name of a member of staff."""
        return self in (Actor.STAFF, Actor.COMPARISON)


@dataclass(frozen=True)
class By:
    """Who acts: an actor and, if it is a person of the shop, which member of staff."""

    actor: Actor
    staff_id: int | None = None


CUSTOMER, SHOP, GATEWAY, WORKER, OPERATOR = (
    By(actor) for actor in (Actor.CUSTOMER, Actor.SHOP, Actor.GATEWAY, Actor.WORKER, Actor.OPERATOR)
)

_PAID_BY = {Actor.GATEWAY, Actor.COMPARISON}
_CANCELLED_BY = {Actor.CUSTOMER, Actor.STAFF}

TRANSITIONS: dict[OrderState | None, dict[OrderState, set[Actor]]] = {
    None: {OrderState.PLACED: {Actor.CUSTOMER, Actor.STAFF}},
    OrderState.PLACED: {
        OrderState.AWAITING_PAYMENT: {Actor.SHOP},
        OrderState.EXPIRED: {Actor.WORKER},
        OrderState.CANCELLED: _CANCELLED_BY,
    },
    OrderState.AWAITING_PAYMENT: {
        OrderState.PAID: _PAID_BY,
        OrderState.EXPIRED: {Actor.WORKER},
        OrderState.CANCELLED: _CANCELLED_BY,
    },
    OrderState.EXPIRED: {
        OrderState.PLACED: {Actor.CUSTOMER},
        OrderState.AWAITING_PAYMENT: {Actor.CUSTOMER},
        OrderState.PAID: _PAID_BY,
        OrderState.NEEDS_REVIEW: _PAID_BY,
        OrderState.CANCELLED: {Actor.WORKER, Actor.OPERATOR},  # contact data erased: nobody to deliver to
    },
    OrderState.CANCELLED: {OrderState.NEEDS_REVIEW: _PAID_BY},
    OrderState.NEEDS_REVIEW: {OrderState.PAID: {Actor.STAFF}, OrderState.REFUNDED: {Actor.STAFF}},
    OrderState.PAID: {OrderState.REFUNDED: {Actor.STAFF}},
    OrderState.REFUNDED: {},
}
"""The allowed transitions: from a state (`None`: the order is being placed) to a state, and the actors that may.

Only the gateway, or a comparison with its account, makes an order paid; staff do so only out of review, where the money
is known to be there."""


class EventKind(StrEnum):
    """What an order's event tells. Every change of state is a STATE_CHANGED; the others change none."""

    STATE_CHANGED = "state_changed"
    RESERVATION_EXTENDED = "reservation_extended"
    PAYMENT_ADDED = "payment_added"


class LineKind(StrEnum):
    """What an order line charges for. A CUSTOM line has no product: a till's "2 cups of tea"."""

    PRODUCT = "product"
    DELIVERY = "delivery"
    CUSTOM = "custom"


class DeliveryState(Labelled):
    """How far the parcel is."""

    PREPARING = "preparing", _("Being packed")
    SHIPPED = "shipped", _("On its way")
    DELIVERED = "delivered", _("Delivered")
    READY = "ready", _("Ready to collect")
    COLLECTED = "collected", _("Collected")

    @property
    def is_final(self) -> bool:
        """Whether the goods are with the customer."""
        return self in (DeliveryState.DELIVERED, DeliveryState.COLLECTED)


class PaymentSource(StrEnum):
    """What a payment rests on: the gateway's callback, or a named person who saw it in the gateway's account."""

    CALLBACK = "callback"
    MANUAL = "manual"


class CallbackOutcome(StrEnum):
    """What was made of a callback. `shop.payments.STATUS_OF` gives each its HTTP status.

    TOO_MANY is never stored: storing is what it saves.
    """

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    UNKNOWN_SECRET = "unknown_secret"  # noqa: S105  (an outcome's name)
    OTHER_INVOICE = "other_invoice"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"

    @property
    def is_miss(self) -> bool:
        """Whether it brought no secret of ours. Anybody can send these, so they are limited, and not kept for ever."""
        return self in (CallbackOutcome.UNKNOWN_SECRET, CallbackOutcome.MALFORMED, CallbackOutcome.TOO_LARGE)


class StockReason(StrEnum):
    """Why stock moved."""

    INTAKE = "intake"
    RESERVED = "reserved"
    RETURNED = "returned"
    CORRECTED = "corrected"


class AttentionKind(Labelled):
    """What a person must look at."""

    UNKNOWN_SECRET = "unknown_secret", _("Callbacks with a secret that is not ours")
    OTHER_INVOICE = "other_invoice", _("A callback named another invoice than its secret's")
    MISSING_IDS = "missing_ids", _("A payment came without its ids")
    PAID_TWICE = "paid_twice", _("Paid twice")
    PAID_SOLD_OUT = "paid_sold_out", _("Paid late, sold out by then")
    PAID_CANCELLED = "paid_cancelled", _("Paid after it was cancelled")
    POSSIBLY_PAID = "possibly_paid", _("Possibly paid: compare with your Amwal account, check the callback URL")
    GATEWAY_REFUSED = "gateway_refused", _("The gateway refused an invoice")
    GATEWAY_REPLY = "gateway_reply", _("The gateway's reply could not be used")
    OUTBOX_STUCK = "outbox_stuck", _("Something keeps failing after a payment")


class OutboxKind(StrEnum):
    """What is to be done after a commit. `shop.worker.HANDLERS` gives each its handler."""

    MAIL_PAY_HERE = "mail_pay_here"
    MAIL_RECEIPT = "mail_receipt"
    MAIL_DIGEST = "mail_digest"
