"""The checks: what a shop must do, and why it matters."""

from dataclasses import dataclass
from enum import StrEnum

from sandbox.trouble import CASES


class Verdict(StrEnum):
    """The outcome of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Check:
    """A requirement for a shop."""

    name: str
    expected: str
    why: str


@dataclass(frozen=True)
class Result:
    """The outcome of one check, and what it observed."""

    name: str
    verdict: Verdict
    seen: str


def _case(name: str, why: str) -> Check:
    return Check(name, CASES[name].must, why)


_WRONG_LINK = "With a wrong link, the customer pays someone else or nobody, and the order can never be confirmed."
_LOST_MONEY = "Payments are final: nobody can trace a payment that wasn't stored."
_CRASH = "The customer sees a server error, and the order may be lost."
_STILL_PAYABLE = "An order without an invoice can still be paid later"
_MEMORY = "A few of these at once exhaust the shop's memory."

ALL = (
    Check("request", "request the invoice with an exact amount", "A float such as 0.30000000000000004 is not a price."),
    Check("link", "show the payment link from the gateway", "Without it the customer can't pay."),
    Check("secret", "not show the secret on the page", "Whoever reads it can confirm the order without paying."),
    Check("success-url", "not mark the order paid when successUrl is opened", "Anybody can open that address."),
    Check("wrong-method", "not mark the order paid on GET, and not crash", "Previews, crawlers and caches send GETs."),
    _case("forged", "Whoever can send such a callback gets goods for nothing."),
    _case("other-invoice", "A leaked secret of a cheap order must not pay for another order."),
    _case("malformed", "The callback URL is public: anybody can post to it. The gateway retries a 5xx for 3 days."),
    _case("oversized", _MEMORY),
    Check("good", "answer 200 within 10 seconds, and mark the order paid", "This is how payments arrive."),
    _case("duplicate", "The gateway retries when a 200 was lost on the way. Goods must not be sent twice."),
    _case("second-session", "The customer paid twice, and staff must send one payment back."),
    Check("cancel-url", "accept the payment after cancelUrl was opened", f"Opening it proves nothing. {_LOST_MONEY}"),
    _case("concurrent", "Retries, and several machines of the gateway, can overlap. Goods must not be sent twice."),
    _case("missing-ids", _LOST_MONEY),
    _case("early", "A callback can overtake the answer. A 200 to an unknown secret ends the retries: money is lost."),
    _case("after-cancel", _LOST_MONEY),
    Check("guesses", "refuse 200 guessed secrets, then accept the real callback", "A block would hit the gateway."),
    Check("slow-senders", "answer within 5 s despite 50 slow senders", "Otherwise one machine can block the shop."),
    _case("refuse", f"{_STILL_PAYABLE}."),
    _case("401", "A retry can't help, and may lock the key."),
    _case("429", "Early retries prolong the rate limit."),
    _case("500", f"{_STILL_PAYABLE}, and a storm of retries keeps the gateway down."),
    _case("err", _WRONG_LINK),
    _case("slow", "If callbacks wait behind slow requests, the gateway counts them as failed."),
    _case("drip", "A few such answers occupy every thread of the shop."),
    _case("reset", _CRASH),
    _case("lost", _CRASH),
    _case("html", _CRASH),
    _case("missing-field", "Without the secret, no callback can ever confirm the order."),
    _case("wrong-type", "The callback's secret is a string: it would match no order, or the wrong one."),
    _case("javascript-url", "A link that runs a script can take over the shop's page."),
    _case("foreign-host", _WRONG_LINK),
    _case("svg-qr", "An SVG can contain a script."),
    _case("no-qr", "The QR code is optional: the link is enough to pay."),
    _case("secret-in-url", "The customer could confirm the order without paying."),
    _case("repeated-id", "One payment would count for two orders."),
    _case("redirect", "The API key would be sent wherever the redirect leads."),
    _case("huge", _MEMORY),
    _case("bomb", _MEMORY),
    _case("late", _LOST_MONEY),
)
