"""What the gateway remembers, as plain values: project, requests, invoices, deliveries and attempts."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


@dataclass(frozen=True)
class Project:
    """The merchant's project: what its settings page shows. `clock_ahead` are seconds that its clock was moved on."""

    id: str
    api_key: str
    callback_url: str
    callbacks_on: bool
    failure_mails_on: bool
    clock_ahead: float

    @property
    def tells(self) -> bool:
        """Return whether payments are told to the shop."""
        return self.callbacks_on and bool(self.callback_url)


@dataclass(frozen=True, kw_only=True)
class NewInvoice:
    """What a shop asks for. `amount` is in the unit of the merchant's project; absent texts are empty."""

    amount: Decimal
    header: str
    description: str = ""
    success_url: str = ""
    cancel_url: str = ""


@dataclass(frozen=True, kw_only=True)
class Invoice(NewInvoice):
    """An invoice as the gateway keeps it. `number` counts up from 1; times are UTC, `paid_at` possibly to come."""

    number: int
    id: str
    secret: str
    created_at: datetime
    paid_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A `PUT` that arrived: when (UTC), what became of it, and which trouble was made for it ("" for none)."""

    received_at: datetime
    trouble: str = ""
    status: int
    """HTTP status of the answer; 0 where none was sent."""
    invoice_id: str | None = None
    body: str = ""
    refusal: str = ""
    bait: str = ""
    """Text from the answer that no page of a shop may show; "" for none."""
    number: int = 0
    """Counts up from 1; 0 before it is stored."""


class DeliveryState(StrEnum):
    """How a callback's delivery stands."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given up"
    SENT_ONCE = "sent once"


@dataclass(frozen=True)
class Delivery:
    """One callback that has to reach the shop, by as many attempts as that takes. Times are UTC.

    `trouble` names the case that it was sent for, "" for an ordinary payment. What is sent `once` is never repeated.
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
        """Return whether it arrived, is still tried, was given up, or was not meant to be repeated."""
        if self.delivered_at:
            return DeliveryState.DELIVERED
        if self.next_attempt_at:
            return DeliveryState.WAITING
        return DeliveryState.SENT_ONCE if self.once else DeliveryState.GIVEN_UP


@dataclass(frozen=True)
class Attempt:
    """One POST to the shop: when (UTC), for how many seconds, and the HTTP status, or `error` where none came."""

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
        """Return whether the shop has taken the callback: HTTP 200 and nothing else, as "The callback" says."""
        return self.status == 200
