"""The closed sets: the order's states and who may move it where, and what else is stored as one of a few words."""

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
    """Where an order stands. `TRANSITIONS` says how it may go on."""

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


TRANSITIONS: dict[OrderState | None, frozenset[OrderState]] = {
    None: frozenset({OrderState.PLACED}),
    OrderState.PLACED: frozenset({OrderState.AWAITING_PAYMENT, OrderState.EXPIRED, OrderState.CANCELLED}),
    OrderState.AWAITING_PAYMENT: frozenset({OrderState.PAID, OrderState.EXPIRED, OrderState.CANCELLED}),
    OrderState.EXPIRED: frozenset(
        {
            OrderState.PLACED,
            OrderState.AWAITING_PAYMENT,
            OrderState.PAID,
            OrderState.NEEDS_REVIEW,
            OrderState.CANCELLED,  # when its buyer is forgotten: there is nobody to send anything to
        }
    ),
    OrderState.CANCELLED: frozenset({OrderState.NEEDS_REVIEW}),
    OrderState.NEEDS_REVIEW: frozenset({OrderState.PAID, OrderState.REFUNDED}),
    OrderState.PAID: frozenset({OrderState.REFUNDED}),
    OrderState.REFUNDED: frozenset(),
}
"""The one table of allowed transitions, by the state that an order leaves (`None`: it is being placed)."""


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


class PaymentSource(StrEnum):
    """What a payment rests on: the gateway's callback, or a named person who saw it in the gateway's account."""

    CALLBACK = "callback"
    MANUAL = "manual"


class CallbackOutcome(StrEnum):
    """What was made of a callback. `shop.payments.STATUS_OF` gives each its HTTP status.

    TOO_MANY is never stored, and the database's own constraint would refuse it: storing is what it saves.
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
