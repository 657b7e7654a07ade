"""What the gateway remembers, as plain values: project, invoices, deliveries and attempts."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


@dataclass(frozen=True)
class Project:
    """The merchant's project: what its settings page would show."""

    id: str
    api_key: str
    callback_url: str


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
    """An invoice as the gateway keeps it. `number` counts up from 1; times are UTC."""

    number: int
    id: str
    secret: str
    created_at: datetime
    paid_at: datetime | None


class DeliveryState(StrEnum):
    """How a callback's delivery stands."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given up"


@dataclass(frozen=True)
class Delivery:
    """One callback that has to reach the shop, by as many attempts as that takes. Times are UTC."""

    id: int
    invoice_id: str
    body: str
    attempts_made: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None

    @property
    def state(self) -> DeliveryState:
        """Return whether it arrived, is still tried, or was given up."""
        if self.delivered_at:
            return DeliveryState.DELIVERED
        return DeliveryState.WAITING if self.next_attempt_at else DeliveryState.GIVEN_UP


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
