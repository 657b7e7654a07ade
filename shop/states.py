"""Stored enumerations, and the order's states with their allowed transitions."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from flask_babel import LazyString
from flask_babel import lazy_gettext as _


class Labelled(StrEnum):
    """A string enum of stored values, each with a translated label."""

    label: LazyString

    def __new__(cls, value: str, label: LazyString) -> Self:
        """Create a member from its value and label."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member


class OrderState(Labelled):
    """The state of an order. `TRANSITIONS` lists the allowed changes."""

    PLACED = "placed", _("Preparing payment")
    AWAITING_PAYMENT = "awaiting_payment", _("Waiting for payment")
    PAID = "paid", _("Paid")
    NEEDS_REVIEW = "needs_review", _("Payment received")
    EXPIRED = "expired", _("Reservation expired")
    CANCELLED = "cancelled", _("Cancelled")
    REFUNDED = "refunded", _("Refunded")

    @property
    def is_final(self) -> bool:
        """Whether the customer's page can stop polling.

        Expired and cancelled orders aren't final: they can still be paid.
        """
        return self in (OrderState.PAID, OrderState.NEEDS_REVIEW, OrderState.REFUNDED)

    @property
    def holds_stock_unpaid(self) -> bool:
        """Whether stock is reserved for the order before it is paid."""
        return self in (OrderState.PLACED, OrderState.AWAITING_PAYMENT)

    @property
    def may_have_unseen_payment(self) -> bool:
        """Whether the order may be paid without the shop knowing.

        Its invoice stays payable at the gateway, even after it expired or was cancelled.
        """
        return self in (OrderState.AWAITING_PAYMENT, OrderState.EXPIRED, OrderState.CANCELLED)


class Actor(Labelled):
    """Who acts on an order."""

    CUSTOMER = "customer", _("Customer")
    SHOP = "shop", _("Shop")
    GATEWAY = "gateway", _("Amwal")
    WORKER = "worker", _("Shop")
    OPERATOR = "operator", _("Operator")
    STAFF = "staff", _("Staff")
    COMPARISON = "comparison", _("Staff")
    """A member of staff who saw the payment in the Amwal account, and confirmed it with a note."""

    @property
    def is_person(self) -> bool:
        """Whether the action records a member of staff."""
        return self in (Actor.STAFF, Actor.COMPARISON)


@dataclass(frozen=True)
class By:
    """An actor and, for staff, the staff member's id."""

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
        OrderState.CANCELLED: {Actor.WORKER, Actor.OPERATOR},  # contact data erased, so it can't be delivered
    },
    OrderState.CANCELLED: {OrderState.NEEDS_REVIEW: _PAID_BY},
    OrderState.NEEDS_REVIEW: {OrderState.PAID: {Actor.STAFF}, OrderState.REFUNDED: {Actor.STAFF}},
    OrderState.PAID: {OrderState.REFUNDED: {Actor.STAFF}},
    OrderState.REFUNDED: {},
}
"""Allowed transitions: from a state (`None`: the order is being placed) to a state, with the actors allowed to make it.

Only the gateway, or a comparison with the Amwal account, makes an unpaid order paid. The actor staff can make an order
paid from review alone, where its payment is already stored."""


class EventKind(StrEnum):
    """The kind of an order event. Only STATE_CHANGED changes the state."""

    STATE_CHANGED = "state_changed"
    RESERVATION_EXTENDED = "reservation_extended"
    PAYMENT_ADDED = "payment_added"
    DELIVERY_CHANGED = "delivery_changed"


class LineKind(StrEnum):
    """What an order line charges for. A CUSTOM line has no product ("2 cups of tea")."""

    PRODUCT = "product"
    DELIVERY = "delivery"
    CUSTOM = "custom"


class DeliveryState(Labelled):
    """The state of a delivery."""

    PREPARING = "preparing", _("Being packed")
    SHIPPED = "shipped", _("On its way")
    DELIVERED = "delivered", _("Delivered")
    READY = "ready", _("Ready to collect")
    COLLECTED = "collected", _("Collected")

    @property
    def is_final(self) -> bool:
        """Whether the goods are with the customer."""
        return self in (DeliveryState.DELIVERED, DeliveryState.COLLECTED)


SHIPMENT = (DeliveryState.PREPARING, DeliveryState.SHIPPED, DeliveryState.DELIVERED)
COLLECTION = (DeliveryState.PREPARING, DeliveryState.READY, DeliveryState.COLLECTED)
"""The steps of a delivery, when the goods are sent and when the customer collects them."""


class PaymentSource(StrEnum):
    """The source of a payment: a callback, or staff comparing the Amwal account."""

    CALLBACK = "callback"
    MANUAL = "manual"


class CallbackOutcome(Labelled):
    """The outcome of a callback.

    `shop.payments.STATUS_OF` maps each to an HTTP status. TOO_MANY is never stored: it exists to avoid the write.
    """

    ACCEPTED = "accepted", _("Payment stored")
    DUPLICATE = "duplicate", _("Repetition, stored already")
    UNKNOWN_SECRET = "unknown_secret", _("Unknown secret")
    OTHER_INVOICE = "other_invoice", _("Names another invoice")
    MALFORMED = "malformed", _("Can't be read")
    TOO_LARGE = "too_large", _("Too large")
    TOO_MANY = "too_many", _("Too many")

    @property
    def is_miss(self) -> bool:
        """Whether the callback had no known secret.

        Anyone can send these, so they are rate-limited, and deleted after a while.
        """
        return self in (CallbackOutcome.UNKNOWN_SECRET, CallbackOutcome.MALFORMED, CallbackOutcome.TOO_LARGE)


class StockReason(StrEnum):
    """Why stock changed."""

    INTAKE = "intake"
    RESERVED = "reserved"
    RETURNED = "returned"
    CORRECTED = "corrected"


class AttentionKind(Labelled):
    """What staff must look at, the most urgent first: money that a secret proves, then what anybody can cause."""

    PAID_TWICE = "paid_twice", _("Paid twice")
    PAID_SOLD_OUT = "paid_sold_out", _("Paid late, no longer in stock")
    PAID_CANCELLED = "paid_cancelled", _("Paid after cancellation")
    MISSING_IDS = "missing_ids", _("A payment arrived without ids")
    OTHER_INVOICE = "other_invoice", _("A callback's invoice doesn't match its secret")
    PAID_UNCONFIRMED = "paid_unconfirmed", _("Paid in your Amwal account, not paid here")
    PAID_UNKNOWN = "paid_unknown", _("Paid in your Amwal account, no order here")
    RESTORED = "restored", _("A backup was restored: compare with your Amwal account")
    POSSIBLY_PAID = "possibly_paid", _("Possibly paid: compare with your Amwal account and check the callback URL")
    UNKNOWN_SECRET = "unknown_secret", _("Callbacks with an unknown secret")
    GATEWAY_REFUSED = "gateway_refused", _("The gateway refused an invoice")
    GATEWAY_REPLY = "gateway_reply", _("The gateway sent an unusable reply")
    OUTBOX_STUCK = "outbox_stuck", _("A follow-up task keeps failing")


class OutboxKind(Labelled):
    """A task to run after a commit. `shop.worker.HANDLERS` maps each to its handler."""

    MAIL_PAY_HERE = "mail_pay_here", _("“pay here”, to the customer")
    MAIL_RECEIPT = "mail_receipt", _("receipt, to the customer")
    MAIL_DELIVERY = "mail_delivery", _("where the goods are, to the customer")
    MAIL_PAID_ORDER = "mail_paid_order", _("paid order, to the shop")
    MAIL_DIGEST = "mail_digest", _("what needs attention, to the shop")
    MAIL_NEW_PASSWORD = "mail_new_password", _("new password, to staff")
