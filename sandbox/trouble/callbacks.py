"""Faulty callbacks: sending them to the shop and judging its answers.

Each case is given an invoice, and returns the callbacks that it sent; `late` and `never` send none.
"""

import json
import secrets
import shlex
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from flask import current_app

from sandbox import web
from sandbox.delivery import send
from sandbox.records import Attempt, Delivery, Invoice
from sandbox.store import LEASE, callback_body
from sandbox.trouble.cases import case

LATE_SECONDS = 35 * 60
"""Slightly longer than shops usually reserve goods for an unpaid order."""
OVERSIZED_BYTES = 1024 * 1024
COPIES = 10
MAX_AT_ONCE = 50
MAX_LINE = 2000
"""The longest body that is printed."""


@dataclass(frozen=True)
class Step:
    """A callback that was sent, the expected answer, and whether the shop gave it."""

    what: str
    expected: str
    ok: bool
    attempt: Attempt
    body: str

    @property
    def answer(self) -> str:
        """The HTTP status, or why there was none."""
        return str(self.attempt.status or self.attempt.error)

    @property
    def curl(self) -> str:
        """A command that sends the same again."""
        return curl(self.attempt.url, self.body)

    def as_json(self) -> dict[str, object]:
        """Return the step as JSON, for the reply to `POST /trouble`."""
        return {
            "what": self.what,
            "expected": self.expected,
            "answer": self.answer,
            "ok": self.ok,
            "milliseconds": round(self.attempt.seconds * 1000),
            "reply": self.attempt.reply[:500],
            "again": self.curl,
        }


def curl(url: str, body: str) -> str:
    """Return a shell command that posts a body."""
    start, end = "", f"--data-raw {shlex.quote(body)}"
    if len(body) > MAX_LINE:
        start, end = f"head -c {len(body)} /dev/zero | tr '\\0' x | ", "--data-binary @-"
    return f"{start}curl -i -H 'Content-Type: application/json' {end} {shlex.quote(url)}"


def send_now(invoice_id: str) -> list[Step]:
    """Send an invoice's ordinary callback now, if one is waiting."""
    delivery = web.store().claim_delivery(invoice_id)
    return [_taken("the callback", delivery)] if delivery else []


def _pay_and_send(invoice: Invoice, trouble: str) -> list[Step]:
    """Pay the invoice and send its callback, unless that was done before."""
    web.store().pay(invoice.id, tell_after=LEASE.total_seconds(), trouble=trouble)
    return send_now(invoice.id)


@case("callback", rule=8)
def good(invoice: Invoice) -> list[Step]:
    """An ordinary payment.

    A shop must answer 200 within 10 seconds, and mark the order paid.

    This is how payments arrive.
    """
    return _pay_and_send(invoice, "")


@case("callback", rule=9)
def duplicate(invoice: Invoice) -> list[Step]:
    """Duplicate.

    A shop must answer 200 again, and store the payment only once.

    The gateway retries when a 200 was lost on the way. Goods must not be sent twice.
    """
    first = _pay_and_send(invoice, "")
    return [*first, _taken("the same again", _copy(invoice, "duplicate"))]


@case("callback", rule=9)
def concurrent(invoice: Invoice) -> list[Step]:
    """Ten at once.

    A shop must answer each 200, or 503 and accept the retry; store one payment.

    Retries, and several machines of the gateway, can overlap. Goods must not be sent twice.
    """
    store = web.store()
    store.pay(invoice.id, tell_after=LEASE.total_seconds())
    real = store.claim_delivery(invoice.id)
    copies = [_copy(invoice, "concurrent") for _ in range(COPIES - bool(real))]
    attempts = _send_together([*([real] if real else []), *copies])
    good = {200, 503} if any(attempt.succeeded for attempt in attempts) else {200}
    expected = "200, or 503 if another got 200"
    return [
        Step(f"copy {number}", expected, attempt.status in good, attempt, copies[0].body)
        for number, attempt in enumerate(attempts, 1)
    ]


@case("callback", rule=10)
def late(invoice: Invoice) -> list[Step]:
    """Late.

    A shop must answer 200 and store the payment; if the goods are gone, alert staff.

    Payments are final: nobody can trace a payment that wasn't stored.
    """
    web.store().pay(invoice.id, tell_after=LATE_SECONDS, trouble="late")
    return []


@case("callback", rule=10, deliveries=0)
def after_cancel(invoice: Invoice) -> list[Step]:
    """After the order was cancelled.

    A shop must answer 200, store the payment, and alert staff.

    Payments are final: nobody can trace a payment that wasn't stored.
    """
    return _pay_and_send(invoice, "after-cancel")


@case("callback", rule=7, payments=0, deliveries=0)
def forged(invoice: Invoice) -> list[Step]:
    """Forged.

    A shop must answer 4xx, leave the order unpaid, and alert staff if it keeps coming.

    Whoever can send such a callback gets goods for nothing.
    """
    return [_refused("a guessed secret", _once(invoice, "forged", guess(invoice.id)))]


def guess(invoice_id: str) -> str:
    """Return a callback's body with a random secret."""
    return callback_body(invoice_id, str(uuid.uuid4()))


@case("callback", rule=7, payments=0, deliveries=0)
def other_invoice(invoice: Invoice) -> list[Step]:
    """Another invoice's id.

    A shop must answer 4xx, leave the order unpaid, and alert staff if it keeps coming.

    A leaked secret of a cheap order must not pay for another order.
    """
    others = [one.id for one in web.store().invoices(before=2**63 - 1, limit=2) if one.id != invoice.id][:1]
    return [
        _refused(what, _once(invoice, "other-invoice", callback_body(other, invoice.secret)))
        for other, what in (
            (secrets.token_hex(12), "the right secret, an unknown id"),
            *((other, "the right secret, another invoice's id") for other in others),
        )
    ]


@case("callback", rule=9, payments=2)
def second_session(invoice: Invoice) -> list[Step]:
    """Paid twice.

    A shop must answer 200, store the second payment too, and alert staff.

    The customer paid twice, and staff must send one payment back.
    """
    store = web.store()
    store.pay(invoice.id, tell_after=LEASE.total_seconds())
    first = store.claim_delivery(invoice.id)
    store.pay_again(invoice.id, tell_after=LEASE.total_seconds())
    both = [one for one in (first, store.claim_delivery(invoice.id)) if one]  # sent at once
    return [
        Step(f"payment {number}", "200", attempt.succeeded, attempt, one.body)
        for number, (one, attempt) in enumerate(zip(both, _send_together(both), strict=True), 1)
    ]


@case("callback", rule=10)
def missing_ids(invoice: Invoice) -> list[Step]:
    """Without ids.

    A shop must answer 200 and store the payment: the secret is right.

    Payments are final: nobody can trace a payment that wasn't stored.
    """
    web.store().pay(invoice.id, tell=False)
    body, more = json.dumps({"secret": invoice.secret}), json.dumps({"secret": invoice.secret, "note": None})
    delivery = web.store().add_delivery(invoice.id, body, trouble="missing-ids", once=False)
    again = _once(invoice, "missing-ids", more)
    return [_taken("the secret alone", delivery), _taken("the same again, with a field more", again)]


@case("callback", rule=7, payments=0, deliveries=0)
def malformed(invoice: Invoice) -> list[Step]:
    """Malformed.

    A shop must answer 4xx to each, never 5xx and never 200.

    The callback URL is public: anybody can post to it. The gateway retries a 5xx for 3 days.
    """
    return [_refused(what, _once(invoice, "malformed", body)) for what, body in malformed_bodies(invoice.id).items()]


def malformed_bodies(invoice_id: str) -> dict[str, str]:
    """Return malformed callback bodies by their fault. None has the invoice's secret."""
    good = guess(invoice_id)
    return {
        "nothing": "",
        "half of it": good[: len(good) // 2],
        "a form": "invoiceId=1&secret=2",
        "a list": f"[{good}]",
        "null": "null",
        "no secret": json.dumps({"invoiceId": invoice_id, "paymentSessionId": "1"}),
        "a number as secret": json.dumps({"invoiceId": invoice_id, "paymentSessionId": "1", "secret": 5}),
        "an object as secret": json.dumps({"invoiceId": invoice_id, "secret": {"$ne": None}}),
        "true as secret": json.dumps({"invoiceId": invoice_id, "paymentSessionId": "1", "secret": True}),
        "an object as id": json.dumps({"invoiceId": {"a": 1}, "secret": str(uuid.uuid4())}),
        "no text as secret": json.dumps({"invoiceId": invoice_id, "paymentSessionId": "1", "secret": ""}),
        "null as secret": json.dumps({"invoiceId": invoice_id, "paymentSessionId": "1", "secret": None}),
        "a percent sign as secret": json.dumps({"paymentSessionId": "1", "secret": "%"}),
        "SQL as secret": json.dumps({"paymentSessionId": "1", "secret": "' OR '1'='1"}),
        "3,000 nested lists": "[" * 3000 + "]" * 3000,
        "half a character": json.dumps({"invoiceId": invoice_id, "secret": "\ud800"}),
        "NUL in the secret": json.dumps({"invoiceId": invoice_id, "secret": "a\x00b"}),
    }


@case("callback", rule=7, payments=0, deliveries=0)
def oversized(invoice: Invoice) -> list[Step]:
    """Oversized.

    A shop must refuse it, best with 413 and without reading it all.

    A few of these at once exhaust the shop's memory.
    """
    body = json.dumps({"secret": str(uuid.uuid4()), "invoiceId": "x" * OVERSIZED_BYTES})
    step = _refused("1 MiB", _once(invoice, "oversized", body))
    # A server that refuses early may close the connection while the body is still being sent.
    closed = step.attempt.status is None and step.attempt.seconds < 5
    return [replace(step, expected="413", ok=step.ok or closed)]


@case("callback", rule=0)
def never(invoice: Invoice) -> list[Step]:
    """Missing.

    A shop must let staff check the gateway's account, not trust the customer's word.
    """
    web.store().pay(invoice.id, tell=False, trouble="never")
    return []


@case("callback", rule=0)
def last_unit(_invoice: Invoice) -> list[Step]:
    """Last unit.

    A shop must reserve goods at checkout, so that only one buyer gets the last unit.
    """
    store, deliveries = web.store(), []
    for invoice in store.invoices(before=2**63 - 1, limit=MAX_AT_ONCE):
        if store.pay(invoice.id, tell_after=LEASE.total_seconds(), trouble="last-unit"):
            deliveries += [delivery for delivery in [store.claim_delivery(invoice.id)] if delivery]
    return [
        Step(f"invoice {delivery.invoice_id}", "200", attempt.succeeded, attempt, delivery.body)
        for delivery, attempt in zip(deliveries, _send_together(deliveries), strict=True)
    ]


def _copy(invoice: Invoice, trouble: str) -> Delivery:
    """Store a copy of the invoice's callback, to be sent once."""
    sent = [one for one in web.store().deliveries_of([invoice.id]) if not one.once]
    body = sent[0].body if sent else callback_body(invoice.id, invoice.secret)
    return web.store().add_delivery(invoice.id, body, trouble=trouble, once=True)


def _once(invoice: Invoice, trouble: str, body: str) -> Delivery:
    return web.store().add_delivery(invoice.id, body, trouble=trouble, once=True)


def _send_together(deliveries: Sequence[Delivery]) -> list[Attempt]:
    store, sending = web.store(), current_app.config["SENDING"]
    with ThreadPoolExecutor(max(1, len(deliveries))) as pool:
        return list(pool.map(lambda delivery: send(store, delivery, sending), deliveries))


def _taken(what: str, delivery: Delivery) -> Step:
    [attempt] = _send_together([delivery])
    return Step(what, "200", attempt.succeeded, attempt, delivery.body)


def _refused(what: str, delivery: Delivery) -> Step:
    [attempt] = _send_together([delivery])
    return Step(what, "4xx", 400 <= (attempt.status or 0) < 500, attempt, delivery.body)
