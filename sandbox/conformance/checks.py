"""What is checked, what is expected, and why it matters."""

from dataclasses import dataclass
from enum import StrEnum

from sandbox.trouble import CASES


class Verdict(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Check:
    """One thing that a shop must do."""

    name: str
    expected: str
    why: str


@dataclass(frozen=True)
class Result:
    """What was seen in one check."""

    name: str
    verdict: Verdict
    seen: str


def _own(name: str, expected: str, why: str) -> Check:
    return Check(name, expected, why)


def _case(name: str, why: str) -> Check:
    return Check(name, CASES[name].must, why)


_WRONG_LINK = "A customer who follows a wrong link pays somebody else, or nobody, and the order can never be confirmed."
_LOOSE_MONEY = "Payments are final: money that isn't stored is money that nobody can find again."
_FREE_GOODS = "Whoever can send such a callback gets goods for nothing."
_CRASH = "The customer sees a crash, and the order may be lost."

ALL = (
    _own("request", "ask for the invoice with an exact amount", "A float such as 0.30000000000000004 is no price."),
    _own("link", "show the payment link that the gateway gave", "Without it the customer can't pay."),
    _own("secret", "show the secret on no page", "Whoever reads it can confirm the order without paying."),
    _own("success-url", "pay nothing when successUrl is opened", "Anybody can open that address."),
    _own("wrong-method", "pay nothing by GET, and not crash", "Addresses are opened by previews, crawlers and caches."),
    _case("forged", _FREE_GOODS),
    _case("other-invoice", "A secret that leaked from a cheap order must not pay another."),
    _case("malformed", "The callback's address is public: all the world can post to it. A 5xx is repeated for 3 days."),
    _case("oversized", "A few of these at once fill the memory of a shop that reads them."),
    _own("good", "answer 200 within 10 seconds, and have the order paid", "This is how the money comes in."),
    _case("duplicate", "The gateway repeats what it doesn't know to have arrived. Goods must not be sent twice."),
    _case("second-session", "The customer has paid twice, and somebody must send one payment back."),
    _own("cancel-url", "take the payment though cancelUrl was opened", f"Opening it proves nothing. {_LOOSE_MONEY}"),
    _case("concurrent", "Retries and several of the gateway's machines can meet. Goods must not be sent twice."),
    _case("missing-ids", _LOOSE_MONEY),
    _case(
        "early", "Networks are quicker than databases. A 200 to the unknown ends the repeats, and the money is lost."
    ),
    _case("after-cancel", _LOOSE_MONEY),
    _own(
        "guesses", "refuse 200 guessed secrets, and still take the good callback", "A block must not hit the gateway."
    ),
    _own(
        "slow-senders", "answer within 5 s though 50 slow senders hang on", "One telephone line could close the shop."
    ),
    _case("refuse", "An order without an invoice is no lost order."),
    _case("401", "Asking again can't help, and may lock the key."),
    _case("429", "Who asks sooner is turned away longer."),
    _case("500", "An order without an invoice is no lost order, and a storm of requests keeps the gateway down."),
    _case("err", _WRONG_LINK),
    _case("slow", "If callbacks wait behind slow requests, the gateway takes them for failed."),
    _case("drip", "A few such answers hold every thread of the shop."),
    _case("reset", _CRASH),
    _case("lost", _CRASH),
    _case("html", _CRASH),
    _case("missing-field", "Without the secret no callback can ever confirm the order."),
    _case("wrong-type", "The callback's secret is text: it would match nothing, or the wrong thing."),
    _case("javascript-url", "A link that runs a script gives the shop's page away."),
    _case("foreign-host", _WRONG_LINK),
    _case("svg-qr", "An SVG can hold a script."),
    _case("no-qr", "The picture is a help, not the way to pay."),
    _case("secret-in-url", "The customer could confirm the order without paying."),
    _case("repeated-id", "One payment would count for two orders."),
    _case("redirect", "The API key would go wherever the redirect leads."),
    _case("huge", "A few of these at once fill the memory."),
    _case("bomb", "A few of these at once fill the memory."),
    _case("late", _LOOSE_MONEY),
)
