"""Fault cases on demand: what happens to real payments sooner or later.

`replies.py` has the faulty answers to a request for an invoice, `callbacks.py` the faulty callbacks, `views.py` the
endpoint that starts them. This file lists the cases, with what a shop must do.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A fault case."""

    name: str
    at: str
    """"put" for the shop's next request for an invoice, or "callback"."""
    title: str
    must: str
    """What a shop must do; continues the words "a shop must"."""


_NOT_SHOWN = "show no payment link from this answer, keep the order, and offer a retry"
_UNPAID = "answer 4xx, leave the order unpaid, and alert staff if it keeps coming"

CASES = {
    case.name: case
    for case in (
        Case("refuse", "put", "Refused", f"{_NOT_SHOWN}; repeating the same request doesn't help"),
        Case("401", "put", "Key rejected", "keep the order and alert staff that the key is wrong, without retries"),
        Case("429", "put", "Too many requests", "wait for Retry-After, or keep the order and tell the customer"),
        Case("500", "put", "Server error", "keep the order, retry a few times at most, and tell the customer"),
        Case("err", "put", "err other than 0", _NOT_SHOWN),
        Case("slow", "put", "Slow gateway", "keep answering other requests, callbacks above all, during the 5 seconds"),
        Case("drip", "put", "One byte per second", "limit the time for the whole answer, not for each byte"),
        Case("reset", "put", "Connection lost in the middle", "use nothing of half an answer; a new request is safe"),
        Case("lost", "put", "Answer lost", "request a new invoice: nobody has seen the lost one"),
        Case("html", "put", "HTML instead of JSON", _NOT_SHOWN),
        Case("missing-field", "put", "No secret in the answer", _NOT_SHOWN),
        Case("wrong-type", "put", "Numbers instead of strings", _NOT_SHOWN),
        Case("javascript-url", "put", "A script as link", _NOT_SHOWN),
        Case("foreign-host", "put", "A link to another host", _NOT_SHOWN),
        Case("svg-qr", "put", "An SVG as QR code", "not show that image, but its own QR code or just the link"),
        Case("no-qr", "put", "No QR code", "let the customer pay by the link"),
        Case("secret-in-url", "put", "The secret in the link", "not show it: whoever reads it could confirm the order"),
        Case("repeated-id", "put", "A used id and secret", f"{_NOT_SHOWN}; a payment must not count for two orders"),
        Case("redirect", "put", "A redirect", "not follow it: the API key would be sent along"),
        Case("huge", "put", "An answer of 16 MiB", f"stop reading, {_NOT_SHOWN}"),
        Case("bomb", "put", "A gzip bomb of 64 MiB", f"stop decompressing, {_NOT_SHOWN}"),
        Case("early", "put", "Callback before the answer", "refuse a secret it doesn't know yet, and accept the retry"),
        Case("duplicate", "callback", "Duplicate", "answer 200 again, and store the payment only once"),
        Case(
            "concurrent", "callback", "Ten at once", "answer each 200, or 503 and accept the retry; store one payment"
        ),
        Case("late", "callback", "Late", "answer 200 and store the payment; if the goods are gone, alert staff"),
        Case(
            "after-cancel",
            "callback",
            "After the order was cancelled",
            "answer 200, store the payment, and alert staff",
        ),
        Case("forged", "callback", "Forged", _UNPAID),
        Case("other-invoice", "callback", "Another invoice's id", _UNPAID),
        Case("second-session", "callback", "Paid twice", "answer 200, store the second payment too, and alert staff"),
        Case("missing-ids", "callback", "Without ids", "answer 200 and store the payment: the secret is right"),
        Case("malformed", "callback", "Malformed", "answer 4xx to each, never 5xx and never 200"),
        Case("oversized", "callback", "Oversized", "answer 413 without reading it all"),
        Case("never", "callback", "Missing", "let staff check the gateway's account, not trust the customer's word"),
        Case(
            "last-unit", "callback", "Last unit", "reserve goods at checkout, so that only one buyer gets the last unit"
        ),
    )
}

BUTTONS = tuple(CASES[name] for name in ("duplicate", "late", "forged", "slow", "last-unit", "never"))
"""The cases with a button in the account: the ones that are easy to understand."""
