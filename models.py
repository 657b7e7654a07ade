"""What is stored: tables and constraints. The order's states are in shop/states.py.

Money is in integer minor units (cents) of the shop's one currency, times are aware UTC, texts for shoppers are JSON
objects by language (`{"en": "Dates", "ar": "تمر"}`). Nothing that concerns money is ever deleted.
"""

import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from flask_babel import get_locale
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Enum,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
    bindparam,
    false,
    func,
    select,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column, object_session, relationship, validates

from shop.db import Base, OpenEnum, UTCDateTime
from shop.states import (
    COLLECTION,
    SHIPMENT,
    Actor,
    AttentionKind,
    CallbackOutcome,
    DeliveryState,
    EventKind,
    LineKind,
    OrderState,
    OutboxKind,
    PaymentSource,
    StockReason,
)
from shop.text import fold

LocalizedText = dict[str, str]
"""The same text by language code."""


def localized(texts: LocalizedText) -> str:
    """Return a text in the reader's language, or in any other if there is none."""
    locale = str(get_locale())
    return texts.get(locale) or texts.get(locale.partition("_")[0]) or next(iter(texts.values()), "")


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def new_token() -> str:
    """Return an unguessable token for a URL: 160 random bits."""
    return secrets.token_urlsafe(20)


def digest(secret: str) -> str:
    """Return the SHA-256 of a gateway secret, in hex. `Invoice.secret_digest` says why there is no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()


def enum_column(enum: type[StrEnum]) -> Enum:
    """Return a text column for a closed enum, with a CHECK of its values. Enums that grow are an `OpenEnum`."""
    return Enum(
        enum,
        name=enum.__name__.lower(),
        native_enum=False,
        create_constraint=True,
        length=40,
        values_callable=lambda members: [member.value for member in members],
    )


def state_in(column: Any, *states: StrEnum) -> ColumnElement[bool]:
    """Return `column IN (states)`, with the states in the SQL itself: SQLite uses a partial index only then."""
    return cast(ColumnElement[bool], column.in_(bindparam(None, states, expanding=True, literal_execute=True)))


def partial(name: str, column: str, *states: StrEnum) -> Index:
    """Return an index of the few rows in these states, for `state_in`. It stays small when all others pile up."""
    where = text(f"state IN ({', '.join(repr(state.value) for state in states)})")
    return Index(name, column, sqlite_where=where, postgresql_where=where)


# --- The shop itself -------------------------------------------------------------------------------------------------


class Shop(Base):
    """The state of the shop itself: one row, made by the first migration."""

    __tablename__ = "shop"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    currency: Mapped[str | None] = mapped_column(String(3))
    """The currency of all stored amounts, and its decimals; NULL until the first price is stored."""
    exponent: Mapped[int | None]
    closed_since: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """Since when the merchant has closed the checkout, and the sentence for customers."""
    closed_why: Mapped[str] = mapped_column(String(500), default="", server_default="")
    restored_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When a backup was restored last, and when it was then compared with the gateway's account; NULL until then."""
    compared_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    next_order_id: Mapped[int] = mapped_column(default=1, server_default="1")
    """Order ids are assigned from here, not by the database, so that a restore can leave a gap for lost ones."""
    catalogue_version: Mapped[int] = mapped_column(default=0, server_default="0")
    """Counts changes of what the catalogue shows."""
    mails_paid_orders: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Whether the merchant gets an e-mail for each paid order."""


UNCOMPARED = select(Shop.restored_at).where(Shop.compared_at.is_(None))
"""When a backup was restored that nobody has compared with the gateway's account yet."""


# --- The catalogue ---------------------------------------------------------------------------------------------------


class Category(Base):
    """A category of products."""

    __tablename__ = "category"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(80), unique=True)
    name: Mapped[LocalizedText] = mapped_column(JSON)
    position: Mapped[int] = mapped_column(default=0)


class Product(Base):
    """A product. `stock` is always the sum of its `StockMovement`s; a sold-out product stays in the list."""

    __tablename__ = "product"
    __table_args__ = (
        CheckConstraint("price > 0", name="price_positive"),
        CheckConstraint("stock >= 0", name="stock_not_negative"),
        # One index for each order of the list, with the id at its end for exact keyset pages.
        Index("ix_product_featured", "active", "position", "id"),
        Index("ix_product_newest", "active", "id"),
        Index("ix_product_price", "active", "price", "id"),
        Index("ix_product_category", "category_id", "active", "position", "id"),
        Index("ix_product_category_newest", "category_id", "active", "id"),
        Index("ix_product_stock", "active", "stock"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(80), unique=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id"))
    name: Mapped[LocalizedText] = mapped_column(JSON)
    subtitle: Mapped[LocalizedText] = mapped_column(JSON)
    description: Mapped[LocalizedText] = mapped_column(JSON)
    label: Mapped[LocalizedText | None] = mapped_column(JSON(none_as_null=True))
    facts: Mapped[list[dict[str, LocalizedText]]] = mapped_column(JSON, default=list)
    """Facts in their order, each a `name` and a `value` by language: origin, process, weight, …"""
    price: Mapped[int] = mapped_column(BigInteger)
    stock: Mapped[int] = mapped_column(default=0)
    image: Mapped[str] = mapped_column(String(200))
    position: Mapped[int] = mapped_column(default=0)
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    search: Mapped[str] = mapped_column(default="")
    """Name, subtitle and description in all languages, folded by `shop.text.fold` for searching."""

    category: Mapped[Category] = relationship()


class ProductPicture(Base):
    """A picture of a product in one size. Its digest names it in URLs, so it can be cached for good."""

    __tablename__ = "product_picture"
    __table_args__ = (UniqueConstraint("product_id", "width"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"))
    digest: Mapped[str] = mapped_column(String(64), index=True)
    """SHA-256 of `content`, in hex."""
    width: Mapped[int]
    height: Mapped[int]
    """Pixels."""
    content: Mapped[bytes] = mapped_column(LargeBinary)
    """WebP."""
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


class StockMovement(Base):
    """The stock ledger: one row for each change of `Product.stock`, in the same transaction."""

    __tablename__ = "stock_movement"
    __table_args__ = (
        # No reservation is taken or returned twice, whatever the code does.
        UniqueConstraint("order_id", "reservation", "product_id", "reason"),
        CheckConstraint("quantity <> 0", name="moves_something"),
        CheckConstraint("(order_id IS NULL) = (reservation IS NULL)", name="reservation_of_an_order"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), index=True)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))
    reservation: Mapped[int | None]
    reason: Mapped[StockReason] = mapped_column(OpenEnum(StockReason))
    quantity: Mapped[int]
    """Signed units: negative when reserved, positive when received or returned."""
    staff_id: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    """Who corrected the stock; `note` says why."""
    note: Mapped[str] = mapped_column(String(300), default="")
    at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


class DeliveryMethod(Base):
    """A delivery method and its price."""

    __tablename__ = "delivery_method"
    __table_args__ = (CheckConstraint("price >= 0 AND free_from >= 0", name="not_negative"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(80), unique=True)
    name: Mapped[LocalizedText] = mapped_column(JSON)
    description: Mapped[LocalizedText] = mapped_column(JSON)
    price: Mapped[int] = mapped_column(BigInteger)
    free_from: Mapped[int | None] = mapped_column(BigInteger)
    """Free of charge for goods worth this much or more (minor units)."""
    is_collection: Mapped[bool] = mapped_column(default=False)
    """Whether the customer collects the goods at the shop."""
    position: Mapped[int] = mapped_column(default=0)
    active: Mapped[bool] = mapped_column(default=True)

    def charge(self, goods: int) -> int:
        """Return the charge for goods of this value, both in minor units."""
        return 0 if self.free_from is not None and goods >= self.free_from else self.price


# --- Baskets ---------------------------------------------------------------------------------------------------------


class Basket(Base):
    """A browser's basket, found by the token in its signed cookie.

    It belongs to its order from the moment the order is placed, and reopens if that is cancelled. `version` counts its
    changes, so that a submitted checkout form can be checked against what it showed.
    """

    __tablename__ = "basket"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(40), unique=True, default=new_token)
    version: Mapped[int] = mapped_column(default=0)
    open: Mapped[bool] = mapped_column(default=True)
    """Whether it can be changed: not while it belongs to an order."""
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now, index=True)

    items: Mapped[list["BasketItem"]] = relationship(back_populates="basket", order_by="BasketItem.id")

    @property
    def units(self) -> int:
        """The number of units in it."""
        return sum(item.quantity for item in self.items)

    @property
    def goods(self) -> int:
        """The value of its products at today's prices, in minor units."""
        return sum(item.amount for item in self.items)

    @property
    def is_in_stock(self) -> bool:
        """Whether all of it can be ordered."""
        return all(item.product.active and item.product.stock >= item.quantity for item in self.items)


class BasketItem(Base):
    """A product and its quantity in a basket."""

    __tablename__ = "basket_item"
    __table_args__ = (
        UniqueConstraint("basket_id", "product_id"),
        CheckConstraint("quantity BETWEEN 1 AND 99", name="quantity_in_range"),
    )

    MAX_QUANTITY = 99

    id: Mapped[int] = mapped_column(primary_key=True)
    basket_id: Mapped[int] = mapped_column(ForeignKey("basket.id"))
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"))
    quantity: Mapped[int]

    basket: Mapped[Basket] = relationship(back_populates="items")
    product: Mapped[Product] = relationship()

    @property
    def amount(self) -> int:
        """Price times quantity at today's price, in minor units."""
        return self.product.price * self.quantity


def _by_letters(length: int) -> Any:
    """Text compared by its code points on both databases, so that an index finds what begins with something."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


# --- Orders ----------------------------------------------------------------------------------------------------------


class Order(Base):
    """An order: what was bought, where it goes, its state.

    Contact fields are empty strings, never NULL: a till order has none, and erased ones are emptied.
    """

    PATH = "/orders/<token>"
    """The path of an order's page, as a pattern of Flask's."""
    INVOICE_LEASE = timedelta(seconds=15)
    """How long one request may ask for the invoice before another may take over. Longer than `amwal.DEADLINE`."""

    UNPAID = tuple(state for state in OrderState if state.holds_stock_unpaid)

    __tablename__ = "orders"
    __table_args__ = (
        # A version of a basket makes one order, however often the form is submitted.
        UniqueConstraint("basket_id", "basket_version"),
        CheckConstraint("total > 0", name="total_positive"),
        CheckConstraint("tax BETWEEN 0 AND total", name="tax_within_total"),
        Index("ix_orders_reserved_until", "state", "reserved_until"),
        Index("ix_orders_returned_at", "state", "returned_at"),
        Index("ix_orders_network", "network", "state"),
        Index("ix_orders_network_placed_at", "network", "placed_at"),
        Index("ix_orders_state", "state", "id"),
        partial("ix_orders_unpaid", "id", *UNPAID),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Assigned from `Shop.next_order_id`."""
    token: Mapped[str] = mapped_column(String(40), unique=True, default=new_token)
    """Identifies the order in URLs, including the gateway's return URLs. Shows no personal data by itself."""
    key: Mapped[str] = mapped_column(String(40), default=new_token)
    """Shows all of the order to whoever holds it: the link in the customer's e-mails has it."""
    state: Mapped[OrderState] = mapped_column(enum_column(OrderState))
    events_count: Mapped[int] = mapped_column(default=0)
    placed_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now, index=True)
    paid_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    paid_late: Mapped[bool] = mapped_column(default=False)

    basket_id: Mapped[int | None] = mapped_column(ForeignKey("basket.id"))
    basket_version: Mapped[int | None]
    locale: Mapped[str] = mapped_column(String(16))
    currency: Mapped[str] = mapped_column(String(3))
    total: Mapped[int] = mapped_column(BigInteger)
    tax: Mapped[int] = mapped_column(BigInteger)
    """The tax that the total contains, in minor units."""
    tax_rate: Mapped[int]
    """In hundredths of a percent: 1500 is 15 %."""
    tax_number: Mapped[str] = mapped_column(String(40))

    reservation: Mapped[int] = mapped_column(default=1)
    """Counts up each time the stock is reserved again."""
    reserved_until: Mapped[datetime] = mapped_column(UTCDateTime)
    held_since: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    """When the current reservation began."""
    returned_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When the buyer's browser last came back by successUrl. It proves no payment."""
    invoice_claimed_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """The lease of the request that is asking the gateway for the invoice, see `INVOICE_LEASE`."""

    name: Mapped[str] = mapped_column(String(120), default="")
    name_key: Mapped[str] = mapped_column(_by_letters(240), default="", index=True)
    """Name and e-mail address as `shop.text.fold` makes them, for searching; set with them."""
    email: Mapped[str] = mapped_column(String(254), default="")
    email_key: Mapped[str] = mapped_column(_by_letters(254), default="", index=True)
    phone: Mapped[str] = mapped_column(String(40), default="")
    address: Mapped[str] = mapped_column(String(300), default="")
    city: Mapped[str] = mapped_column(String(120), default="")
    region: Mapped[str] = mapped_column(String(120), default="")
    postcode: Mapped[str] = mapped_column(String(20), default="")
    country: Mapped[str] = mapped_column(String(2), default="")
    note: Mapped[str] = mapped_column(String(500), default="")
    network: Mapped[str] = mapped_column(String(64), default="", server_default="")
    """A keyed digest of the buyer's network (`shop.limits.network_digest`), for the limits; empty for a till's. Erased
    with the contact fields."""

    is_collected: Mapped[bool] = mapped_column(default=False)
    """Whether the customer collects the goods at the shop."""

    lines: Mapped[list["OrderLine"]] = relationship(back_populates="order", order_by="OrderLine.id")
    basket: Mapped[Basket | None] = relationship()
    invoice: Mapped["Invoice | None"] = relationship(back_populates="order")
    payments: Mapped[list["Payment"]] = relationship(order_by="Payment.id")
    delivery: Mapped["Delivery | None"] = relationship()
    events: Mapped[list["OrderEvent"]] = relationship(order_by="OrderEvent.seq")

    @validates("name", "email")
    def _fold(self, field: str, value: str) -> str:
        key = getattr(type(self), f"{field}_key")
        setattr(self, key.key, fold(value)[: key.type.length])  # folded, ﷺ is eighteen letters
        return value

    @property
    def path(self) -> str:
        """The path of its page."""
        return self.PATH.replace("<token>", self.token)

    @property
    def number(self) -> str:
        """The number that people use, such as `A-1042`."""
        return f"A-{1000 + self.id}"

    @staticmethod
    def id_of(number: str) -> int:
        """The id of a number that people use; 0, which no order has, for anything else."""
        found = re.fullmatch(r"(?i)a-(\d{4,9})", number)
        return max(0, int(found[1]) - 1000) if found else 0

    @property
    def is_asking(self) -> bool:
        """Whether a request is asking the gateway for the invoice. A lease that is too long is a wrong clock's."""
        until = self.invoice_claimed_until
        return until is not None and now() < until <= now() + self.INVOICE_LEASE

    @property
    def is_in_doubt(self) -> bool:
        """Whether it was open when a backup was restored, and may have been paid since: see `shop.ops.restore`."""
        session = object_session(self)
        if session is None or self.returned_at is None or not self.may_still_be_paid:
            return False
        return self.returned_at == session.scalar(UNCOMPARED)

    @classmethod
    def unpaid(cls) -> ColumnElement[bool]:
        """Whether it holds its goods and waits for the payment, in SQL."""
        return state_in(cls.state, *cls.UNPAID)

    @classmethod
    def in_doubt(cls) -> ColumnElement[bool]:
        """`is_in_doubt`, of open orders, in SQL."""
        return func.coalesce(cls.returned_at == UNCOMPARED.scalar_subquery(), false())

    @property
    def is_payable(self) -> bool:
        """Whether the payment page may be shown: only while the stock is reserved."""
        return self.state is OrderState.AWAITING_PAYMENT

    @property
    def may_still_be_paid(self) -> bool:
        """Whether its buyer can still pay, so that an e-mail may say where."""
        return self.state.holds_stock_unpaid or self.state is OrderState.EXPIRED

    @property
    def delivery_steps(self) -> tuple[DeliveryState, ...]:
        """The steps of its delivery."""
        return COLLECTION if self.is_collected else SHIPMENT

    @property
    def steps_left(self) -> tuple[DeliveryState, ...]:
        """What is still to be done with its goods."""
        if self.state is not OrderState.PAID or self.delivery is None or self.delivery.state not in self.delivery_steps:
            return ()
        return self.delivery_steps[self.delivery_steps.index(self.delivery.state) + 1 :]

    @property
    def has_receipt(self) -> bool:
        """Whether it has a receipt: not before its review is over."""
        return self.state in (OrderState.PAID, OrderState.REFUNDED)

    @property
    def is_cancellable(self) -> bool:
        """Whether the customer may still cancel."""
        return self.state.holds_stock_unpaid and not self.is_in_doubt

    @property
    def buyer_returned(self) -> bool:
        """Whether a browser came back by successUrl since the reservation began: the buyer believes they have paid."""
        return self.returned_at is not None and self.returned_at >= self.held_since

    @property
    def product_lines(self) -> list["OrderLine"]:
        """The lines that use stock."""
        return [line for line in self.lines if line.kind is LineKind.PRODUCT]

    @property
    def is_in_stock(self) -> bool:
        """Whether there is enough of its products to reserve them once more."""
        return all(line.product and line.product.stock >= line.quantity for line in self.product_lines)

    @property
    def quantities(self) -> dict[int, int]:
        """The quantity of each product, by its id."""
        return {line.product_id: line.quantity for line in self.lines if line.product_id is not None}

    @property
    def masked_email(self) -> str:
        """The address shortened to `s•••@example.com`: enough to recognise one's own."""
        name, at, host = self.email.partition("@")
        return f"{name[:1]}•••{at}{host}" if at else ""


class OrderLine(Base):
    """A line of an order, with name and price as they were when it was placed."""

    __tablename__ = "order_line"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity_positive"),
        CheckConstraint("(kind = 'product') = (product_id IS NOT NULL)", name="product_line_has_product"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    kind: Mapped[LineKind] = mapped_column(enum_column(LineKind))
    product_id: Mapped[int | None] = mapped_column(ForeignKey("product.id"))
    name: Mapped[LocalizedText] = mapped_column(JSON)
    quantity: Mapped[int]
    price: Mapped[int] = mapped_column(BigInteger)

    order: Mapped[Order] = relationship(back_populates="lines")
    product: Mapped[Product | None] = relationship()

    @property
    def amount(self) -> int:
        """Price times quantity, in minor units."""
        return self.price * self.quantity


class OrderEvent(Base):
    """An event in an order's history, numbered without gaps, written in the transaction of the change itself."""

    __tablename__ = "order_event"
    __table_args__ = (
        UniqueConstraint("order_id", "seq"),
        CheckConstraint("(kind = 'state_changed') = (to_state IS NOT NULL)", name="state_change_has_target"),
        CheckConstraint("(actor IN ('staff', 'comparison')) = (staff_id IS NOT NULL)", name="person_is_named"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    seq: Mapped[int]
    kind: Mapped[EventKind] = mapped_column(OpenEnum(EventKind))
    from_state: Mapped[str | None] = mapped_column(String(40))
    to_state: Mapped[str | None] = mapped_column(String(40))
    actor: Mapped[Actor] = mapped_column(enum_column(Actor))
    staff_id: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    """The member of staff, where the actor is one."""
    detail: Mapped[str] = mapped_column(String(300), default="")
    at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


class Delivery(Base):
    """The delivery of a paid order: exactly one, made in the transaction that marks the order paid."""

    __tablename__ = "delivery"
    TO_HAND_OVER = (DeliveryState.PREPARING, DeliveryState.READY)
    ON_ITS_WAY = (DeliveryState.SHIPPED,)
    __table_args__ = (
        partial("ix_delivery_to_hand_over", "order_id", *TO_HAND_OVER),
        partial("ix_delivery_on_its_way", "order_id", *ON_ITS_WAY),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), unique=True)
    state: Mapped[DeliveryState] = mapped_column(enum_column(DeliveryState), default=DeliveryState.PREPARING)
    carrier: Mapped[str] = mapped_column(String(80), default="")
    tracking: Mapped[str] = mapped_column(String(500), default="")
    """The carrier's https address for tracking the parcel."""
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    shipped_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    @classmethod
    def to_hand_over(cls) -> ColumnElement[bool]:
        """Whether staff still have something to do, in SQL."""
        return state_in(cls.state, *cls.TO_HAND_OVER)

    @classmethod
    def on_its_way(cls) -> ColumnElement[bool]:
        """Whether a carrier has it, in SQL."""
        return state_in(cls.state, *cls.ON_ITS_WAY)


# --- Money -----------------------------------------------------------------------------------------------------------


class Invoice(Base):
    """The gateway's invoice for an order: at most one, and no id or secret twice."""

    __tablename__ = "invoice"
    __table_args__ = (CheckConstraint("amount > 0", name="amount_positive"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), unique=True)
    gateway_id: Mapped[str] = mapped_column(String(200), unique=True)
    secret_digest: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256 of the secret. The gateway's documentation says "save the secret", but the digest is enough: a callback
    brings the secret, and its digest finds this row. The secret has 122 random bits, so no salt is needed; a leaked
    backup forges no callback; and the index look-up of a digest leaks no timing."""
    url: Mapped[str] = mapped_column(String(2000))
    qr: Mapped[bytes] = mapped_column(LargeBinary)
    """A QR code (PNG) of the payment page's address: the gateway's own, or drawn by us if that can't be used."""
    amount: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)

    order: Mapped[Order] = relationship(back_populates="invoice")


class GatewayCall(Base):
    """A call to the gateway, logged without any secret."""

    __tablename__ = "gateway_call"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"), index=True)
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    milliseconds: Mapped[int]
    outcome: Mapped[str] = mapped_column(String(40))
    """`ok`, the name of the `amwal` error, or `reopened` (the checkout, by hand)."""
    detail: Mapped[str] = mapped_column(String(300), default="")


class CallbackAttempt(Base):
    """A callback in the inbox: what arrived, what we answered and why. Its body is redacted and cut."""

    __tablename__ = "callback_attempt"
    __table_args__ = (
        CheckConstraint("outcome <> 'too_many'", name="limited_attempts_are_not_stored"),
        Index("ix_callback_attempt_outcome", "outcome", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now, index=True)
    sender: Mapped[str] = mapped_column(String(60))
    outcome: Mapped[CallbackOutcome] = mapped_column(OpenEnum(CallbackOutcome))
    status: Mapped[int]
    """The HTTP status of our response."""
    reason: Mapped[str] = mapped_column(String(300), default="")
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"), index=True)
    gateway_id: Mapped[str] = mapped_column(String(200), default="")
    session_id: Mapped[str] = mapped_column(String(200), default="")
    body: Mapped[str] = mapped_column(String(600), default="")

    order: Mapped[Order | None] = relationship()

    @property
    def described(self) -> str:
        """Its sender and the invoice that it names, in a few words."""
        named = f", for invoice {self.gateway_id[:40]}" if self.gateway_id else ""
        return f"last from {self.sender}{named}"


class Staff(Base):
    """A member of staff, who may sign in to the dashboard."""

    __tablename__ = "staff"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    password_hash: Mapped[str] = mapped_column(String(300))
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


class StaffSession(Base):
    """A signed-in browser of a member of staff. Once revoked or idle for too long, its next request is refused."""

    __tablename__ = "staff_session"

    id: Mapped[int] = mapped_column(primary_key=True)
    staff_id: Mapped[int] = mapped_column(ForeignKey("staff.id"), index=True)
    token_digest: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256 of the token in the cookie: a leaked backup signs nobody in."""
    browser: Mapped[str] = mapped_column(String(60), default="", server_default="")
    """Its name and system, such as `Firefox · Windows`, by which people recognise their own."""
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    seen_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    revoked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    staff: Mapped[Staff] = relationship()


class Payment(Base):
    """A payment received for an order. It is final, so a refund is a row beside it."""

    __tablename__ = "payment"
    __table_args__ = (
        UniqueConstraint("order_id", "session_id"),
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint(
            "(source = 'callback' AND callback_id IS NOT NULL) OR (source = 'manual' AND staff_id IS NOT NULL)",
            name="rests_on_callback_or_person",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    session_id: Mapped[str] = mapped_column(String(200))
    """The gateway's paymentSessionId; empty if it sent none."""
    amount: Mapped[int] = mapped_column(BigInteger)
    """The invoice's amount: callbacks carry none."""
    source: Mapped[PaymentSource] = mapped_column(enum_column(PaymentSource))
    callback_id: Mapped[int | None] = mapped_column(ForeignKey("callback_attempt.id"), unique=True)
    staff_id: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    note: Mapped[str] = mapped_column(String(500), default="")
    received_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now, index=True)

    refunds: Mapped[list["Refund"]] = relationship(order_by="Refund.id")

    @property
    def kept(self) -> int:
        """What wasn't sent back of it, in minor units."""
        return self.amount - sum(refund.amount for refund in self.refunds)


class Refund(Base):
    """A refund made by hand, as the gateway has no refund call."""

    __tablename__ = "refund"
    __table_args__ = (CheckConstraint("amount > 0", name="amount_positive"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    payment_id: Mapped[int] = mapped_column(ForeignKey("payment.id"), index=True)
    amount: Mapped[int] = mapped_column(BigInteger)
    staff_id: Mapped[int] = mapped_column(ForeignKey("staff.id"))
    reference: Mapped[str] = mapped_column(String(200), default="")
    """The reference of the transfer, in the system where it was made."""
    note: Mapped[str] = mapped_column(String(500), default="")
    at: Mapped[datetime] = mapped_column(UTCDateTime, default=now, index=True)


# --- Work for the merchant and the worker ----------------------------------------------------------------------------


class OrderNote(Base):
    """A note by staff about an order."""

    __tablename__ = "order_note"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    staff_id: Mapped[int] = mapped_column(ForeignKey("staff.id"))
    text: Mapped[str] = mapped_column(String(2000))
    at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


_OPEN = text("closed_at IS NULL")


class Attention(Base):
    """An item of the *needs attention* queue. Per kind and subject at most one is open, and counted up."""

    __tablename__ = "attention"
    __table_args__ = (
        Index("uq_attention_open", "kind", "subject", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[AttentionKind] = mapped_column(OpenEnum(AttentionKind))
    subject: Mapped[str] = mapped_column(String(200))
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"), index=True)
    detail: Mapped[str] = mapped_column(String(500), default="")
    count: Mapped[int] = mapped_column(default=1)
    opened_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    last_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    mailed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    closed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    closed_by: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    resolution: Mapped[str] = mapped_column(String(500), default="")
    """The note with which it was closed."""

    order: Mapped[Order | None] = relationship()
    closer: Mapped["Staff | None"] = relationship()


class OutboxMessage(Base):
    """An effect to be handled after the commit that stores it: it happens at least once, despite crashes."""

    __tablename__ = "outbox_message"
    __table_args__ = (Index("ix_outbox_message_due", "done_at", "due_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(120), unique=True)
    """Identifies the effect, such as `mail_receipt:17`: it is queued once, and handlers can deduplicate by it."""
    kind: Mapped[OutboxKind] = mapped_column(OpenEnum(OutboxKind))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    """Not to be handled before: back-off after a failure, or the lease of the worker processing it."""
    attempts: Mapped[int] = mapped_column(default=0)
    done_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    error: Mapped[str] = mapped_column(String(300), default="")


class Heartbeat(Base):
    """When a background process, or a periodic chore, last ran."""

    __tablename__ = "heartbeat"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime)
