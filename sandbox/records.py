"""Records: project, requests, invoices, callback deliveries and attempts."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


@dataclass(frozen=True)
class Project:
    """The merchant's project. Its clock is `clock_ahead` seconds ahead of real time."""

    id: str
    api_key: str
    callback_url: str
    callbacks_on: bool
    failure_mails_on: bool
    clock_ahead: float

    @property
    def sends_callbacks(self) -> bool:
        """Whether payments trigger callbacks."""
        return self.callbacks_on and bool(self.callback_url)


@dataclass(frozen=True, kw_only=True)
class NewInvoice:
    """A requested invoice. `amount` is in the project's currency; no text is ""."""

    amount: Decimal
    header: str
    description: str = ""
    success_url: str = ""
    cancel_url: str = ""


@dataclass(frozen=True, kw_only=True)
class Invoice(NewInvoice):
    """A stored invoice. `number` counts from 1; times are UTC.

    `paid_at` is None for an unpaid invoice, and in the future while the payment is being confirmed.
    """

    number: int
    id: str
    secret: str
    created_at: datetime
    paid_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A `PUT` that arrived (UTC), its outcome and its fault case ("" for none)."""

    received_at: datetime
    trouble: str = ""
    status: int
    """HTTP status of the answer; 0 for none."""
    invoice_id: str | None = None
    body: str = ""
    refusal: str = ""
    bait: str = ""
    """Text in the answer that a shop's pages must not show; "" for none."""
    number: int = 0
    """Counts from 1; 0 before it is stored."""


class DeliveryState(StrEnum):
    """The state of a callback's delivery."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given up"
    SENT_ONCE = "sent once"


@dataclass(frozen=True)
class Delivery:
    """A callback to the shop, with all its attempts. Times are UTC.

    `trouble` is its fault case, "" for an ordinary payment. With `once`, there is no retry.
    """

    id: int
    invoice_id: str
    body: str
    attempts_made: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    trouble: str
    once: bool

    @property
    def state(self) -> DeliveryState:
        """How far the delivery is."""
        if self.delivered_at:
            return DeliveryState.DELIVERED
        if self.next_attempt_at:
            return DeliveryState.WAITING
        return DeliveryState.SENT_ONCE if self.once else DeliveryState.GIVEN_UP


@dataclass(frozen=True)
class Attempt:
    """One POST to the shop: start (UTC), duration in seconds, HTTP status or `error`."""

    delivery_id: int
    number: int
    started_at: datetime
    url: str
    seconds: float
    status: int | None
    reply: str
    error: str

    @property
    def succeeded(self) -> bool:
        """Whether the shop accepted the callback: only HTTP 200 counts ("The callback")."""
        return self.status == 200
