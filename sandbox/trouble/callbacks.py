"""Faulty callbacks: sending them to the shop and judging its answers."""

import json
import secrets
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flask import current_app

from sandbox import web
from sandbox.delivery import send
from sandbox.records import Attempt, Delivery, Invoice
from sandbox.store import LEASE, callback_body

LATE_SECONDS = 35 * 60
"""Slightly longer than shops usually reserve goods for an unpaid order."""
OVERSIZED_BYTES = 1024 * 1024
COPIES = 10
MAX_AT_ONCE = 50


@dataclass(frozen=True)
class Step:
    """A callback that was sent, the expected answer, and whether the shop gave it."""

    what: str
    expected: str
    ok: bool
    attempt: Attempt

    def as_json(self) -> dict[str, object]:
        """Return the step as JSON, for the reply to `POST /trouble`."""
        return {
            "what": self.what,
            "expected": self.expected,
            "answer": str(self.attempt.status or self.attempt.error),
            "ok": self.ok,
            "milliseconds": round(self.attempt.seconds * 1000),
            "reply": self.attempt.reply[:500],
        }


def start(name: str, invoice: Invoice) -> list[Step]:
    """Run the fault case `name` on an invoice; return the callbacks sent.

    `late` and `never` send none.
    """
    return _CASES[name](invoice)


def send_now(invoice_id: str) -> Attempt | None:
    """Send an invoice's ordinary callback now; return None if none is waiting."""
    delivery = web.store().claim_delivery(invoice_id)
    return _send(delivery) if delivery else None


def _pay_and_send(invoice: Invoice, trouble: str) -> list[Step]:
    """Pay the invoice and send its callback, unless that was done before."""
    web.store().pay(invoice.id, tell_after=LEASE.total_seconds(), trouble=trouble)
    attempt = send_now(invoice.id)
    return [_taken("the callback", attempt)] if attempt else []


def _duplicate(invoice: Invoice) -> list[Step]:
    first = _pay_and_send(invoice, "")
    return [*first, _taken("the same again", _send(_copy(invoice, "duplicate")))]


def _concurrent(invoice: Invoice) -> list[Step]:
    store = web.store()
    store.pay(invoice.id, tell_after=LEASE.total_seconds())
    real = store.claim_delivery(invoice.id)
    copies = [_copy(invoice, "concurrent") for _ in range(COPIES - bool(real))]
    attempts = _send_together([*([real] if real else []), *copies])
    anyone = any(attempt.succeeded for attempt in attempts)
    return [
        Step(f"copy {number}", "200, or 503 if another got 200", anyone and attempt.status in {200, 503}, attempt)
        for number, attempt in enumerate(attempts, 1)
    ]


def _late(invoice: Invoice) -> list[Step]:
    web.store().pay(invoice.id, tell_after=LATE_SECONDS, trouble="late")
    return []


def _after_cancel(invoice: Invoice) -> list[Step]:
    return _pay_and_send(invoice, "after-cancel")


def _forged(invoice: Invoice) -> list[Step]:
    return [_refused("a guessed secret", _send_once(invoice, "forged", guess(invoice.id)))]


def guess(invoice_id: str) -> str:
    """Return a callback's body with a random secret."""
    return callback_body(invoice_id, str(uuid.uuid4()))


def _other_invoice(invoice: Invoice) -> list[Step]:
    body = callback_body(secrets.token_hex(12), invoice.secret)
    return [_refused("the right secret, another invoice's id", _send_once(invoice, "other-invoice", body))]


def _second_session(invoice: Invoice) -> list[Step]:
    first = _pay_and_send(invoice, "")
    web.store().pay_again(invoice.id, tell_after=LEASE.total_seconds())
    second = web.store().claim_delivery(invoice.id)
    return [*first, *([_taken("a second payment", _send(second))] if second else [])]


def _missing_ids(invoice: Invoice) -> list[Step]:
    web.store().pay(invoice.id, tell=False)
    body = json.dumps({"secret": invoice.secret})
    delivery = web.store().add_delivery(invoice.id, body, trouble="missing-ids", once=False)
    return [_taken("the secret alone", _send(delivery))]


def _malformed(invoice: Invoice) -> list[Step]:
    return [
        _refused(what, _send_once(invoice, "malformed", body)) for what, body in malformed_bodies(invoice.id).items()
    ]


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
        "3,000 nested lists": "[" * 3000 + "]" * 3000,
        "half a character": json.dumps({"invoiceId": invoice_id, "secret": "\ud800"}),
        "NUL in the secret": json.dumps({"invoiceId": invoice_id, "secret": "a\x00b"}),
    }


def _oversized(invoice: Invoice) -> list[Step]:
    body = json.dumps({"secret": str(uuid.uuid4()), "invoiceId": "x" * OVERSIZED_BYTES})
    attempt = _send_once(invoice, "oversized", body)
    # A server that refuses early may close the connection while the body is still being sent.
    closed = attempt.status is None and attempt.seconds < 5
    return [Step("1 MiB", "413", closed or 400 <= (attempt.status or 0) < 500, attempt)]


def _never(invoice: Invoice) -> list[Step]:
    web.store().pay(invoice.id, tell=False, trouble="never")
    return []


def _last_unit(_invoice: Invoice) -> list[Step]:
    """Pay all unpaid invoices, and send their callbacks at once."""
    store, deliveries = web.store(), []
    for invoice in store.invoices(before=2**63 - 1, limit=MAX_AT_ONCE):
        if store.pay(invoice.id, tell_after=LEASE.total_seconds(), trouble="last-unit"):
            deliveries += [delivery for delivery in [store.claim_delivery(invoice.id)] if delivery]
    attempts = _send_together(deliveries)
    return [
        _taken(f"invoice {delivery.invoice_id}", attempt)
        for delivery, attempt in zip(deliveries, attempts, strict=True)
    ]


_CASES: dict[str, Callable[[Invoice], list[Step]]] = {
    "duplicate": _duplicate,
    "concurrent": _concurrent,
    "late": _late,
    "after-cancel": _after_cancel,
    "forged": _forged,
    "other-invoice": _other_invoice,
    "second-session": _second_session,
    "missing-ids": _missing_ids,
    "malformed": _malformed,
    "oversized": _oversized,
    "never": _never,
    "last-unit": _last_unit,
}


def _copy(invoice: Invoice, trouble: str) -> Delivery:
    """Store a copy of the invoice's callback, to be sent once."""
    sent = [one for one in web.store().deliveries_of([invoice.id]) if not one.once]
    body = sent[0].body if sent else callback_body(invoice.id, invoice.secret)
    return web.store().add_delivery(invoice.id, body, trouble=trouble, once=True)


def _send_once(invoice: Invoice, trouble: str, body: str) -> Attempt:
    return _send(web.store().add_delivery(invoice.id, body, trouble=trouble, once=True))


def _send(delivery: Delivery) -> Attempt:
    return send(web.store(), delivery, speed=current_app.config["SPEED"], mails=current_app.config["MAILS"])


def _send_together(deliveries: Sequence[Delivery]) -> list[Attempt]:
    store, speed, mails = web.store(), current_app.config["SPEED"], current_app.config["MAILS"]
    with ThreadPoolExecutor(max(1, len(deliveries))) as pool:
        return list(pool.map(lambda delivery: send(store, delivery, speed=speed, mails=mails), deliveries))


def _taken(what: str, attempt: Attempt) -> Step:
    return Step(what, "200", attempt.succeeded, attempt)


def _refused(what: str, attempt: Attempt) -> Step:
    return Step(what, "4xx", 400 <= (attempt.status or 0) < 500, attempt)
