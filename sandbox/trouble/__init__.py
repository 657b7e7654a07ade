"""Trouble on demand: what real money does sooner or later, rehearsed offline.

`replies.py` has the odd answers to a request for an invoice, `callbacks.py` the odd callbacks, `views.py` the address
that starts either. This file lists them, with what a shop must do.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A case of trouble. It concerns the next `PUT` for an invoice ("put"), or an invoice's "callback"."""

    name: str
    at: str
    title: str
    must: str
    """What a shop must do, in one sentence."""


_NOT_SHOWN = "show no payment link from this answer, keep the order, and offer to try again"
_UNPAID = "answer 4xx, pay nothing by it, and tell a person if it keeps coming"
_KEPT = "answer 200 and store the payment: the secret is right, so the money is real"

CASES = {
    case.name: case
    for case in (
        Case("refuse", "put", "Refused", f"{_NOT_SHOWN}; asking again and again changes nothing"),
        Case("401", "put", "Key rejected", "not ask again, keep the order, and tell a person that the key is wrong"),
        Case("429", "put", "Too many requests", "wait as long as Retry-After says, or keep the order and say so"),
        Case("500", "put", "Server error", "keep the order, try again a few times at most, and say so"),
        Case("err", "put", "An err other than 0", _NOT_SHOWN),
        Case(
            "slow", "put", "Slow gateway", "go on answering others, callbacks above all, while it waits for 5 seconds"
        ),
        Case("drip", "put", "One byte a second", "give up after some seconds in all, not after each byte"),
        Case("reset", "put", "Broken off in the middle", "take nothing from half an answer; a new request is safe"),
        Case("lost", "put", "Answer lost", "ask anew: the invoice whose answer was lost was never shown to anyone"),
        Case("html", "put", "A web page instead of JSON", _NOT_SHOWN),
        Case("missing-field", "put", "No secret in the answer", _NOT_SHOWN),
        Case("wrong-type", "put", "Numbers for texts", _NOT_SHOWN),
        Case("javascript-url", "put", "A script for a link", _NOT_SHOWN),
        Case("foreign-host", "put", "A link to another host", _NOT_SHOWN),
        Case("svg-qr", "put", "An SVG for the QR code", "not show that picture, but one of its own making or the link"),
        Case("no-qr", "put", "No QR code", "let the customer pay by the link all the same"),
        Case("secret-in-url", "put", "The secret in the link", "not show it: whoever reads it could confirm the order"),
        Case(
            "repeated-id", "put", "An id and a secret used before", f"{_NOT_SHOWN}; one payment must not count for two"
        ),
        Case("redirect", "put", "A redirect", "not follow it: the API key would travel along"),
        Case("huge", "put", "16 MiB of answer", f"stop reading, and {_NOT_SHOWN}"),
        Case("bomb", "put", "64 MiB, compressed to nothing", f"stop unpacking, and {_NOT_SHOWN}"),
        Case(
            "early",
            "put",
            "The callback before the answer",
            "not answer 200 to what it doesn't know yet; take the repeat",
        ),
        Case("duplicate", "callback", "Duplicate", "answer 200 again, and do nothing twice"),
        Case(
            "concurrent",
            "callback",
            "Ten at once",
            "answer each 200 (or 503 and take the repeat), and do nothing twice",
        ),
        Case(
            "late",
            "callback",
            "Late",
            f"{_KEPT}, even if the reservation ran out; a person decides if the goods are gone",
        ),
        Case("after-cancel", "callback", "After the order was cancelled", f"{_KEPT}, and put it before a person"),
        Case("forged", "callback", "Forged", _UNPAID),
        Case("other-invoice", "callback", "Another invoice's id", _UNPAID),
        Case("second-session", "callback", "Paid twice", f"{_KEPT}, beside the first, and put it before a person"),
        Case("missing-ids", "callback", "Without its ids", _KEPT),
        Case("malformed", "callback", "Malformed", "answer 4xx to each, never 5xx and never 200"),
        Case("oversized", "callback", "Oversized", "answer 413 without reading it all"),
        Case(
            "never",
            "callback",
            "Never",
            "not take the customer's word; let a person compare with the gateway's account",
        ),
        Case(
            "last-unit",
            "callback",
            "Last unit",
            "hold the goods when the order is placed: of several buyers one gets it",
        ),
    )
}

BUTTONS = tuple(CASES[name] for name in ("duplicate", "late", "forged", "slow", "last-unit", "never"))
"""The cases that people understand at a glance: the account has a button for each."""
