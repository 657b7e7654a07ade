"""The register of fault cases. Each case is one decorated function, and its docstring says what a shop must do."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault case: what happens, what a shop must do, and why."""

    name: str
    at: str
    """"put" for the shop's next request for an invoice, "callback", or "shop" for what only a conformance run does."""
    rule: int
    """The one of the ten rules that it checks; 0 for none: a conformance run leaves it out."""
    title: str
    must: str
    """What a shop must do; continues the words "a shop must"."""
    why: str
    act: Callable[..., Any]
    payments: int = 1
    """How many payments a new order has afterwards."""
    deliveries: int | None = 1
    """How often a new order is delivered afterwards; None if it may be, or left to the merchant."""
    payable: bool | None = False
    """Whether the answer can be used, so that the page must show its link; None if the shop may decide."""
    max_requests: int = 10
    """How many requests for one invoice are tolerable."""


Act = TypeVar("Act", bound=Callable[..., Any])
CASES: dict[str, Case] = {}
"""The cases that the sandbox can start, by name."""


def case(at: str, *, rule: int, cases: dict[str, Case] = CASES, **judged: Any) -> Callable[[Act], Act]:
    """Register the decorated function as a case, under its name with dashes.

    The paragraphs of its docstring are the title, "A shop must …", and why. `judged`: the last fields of `Case`.
    """

    def register(act: Act) -> Act:
        name = act.__name__.strip("_").replace("_", "-")
        title, must, why = (" ".join(part.split()) for part in f"{inspect.getdoc(act)}\n\n".split("\n\n")[:3])
        must = must.removeprefix("A shop must ").removesuffix(".")
        cases[name] = Case(name=name, at=at, rule=rule, title=title.rstrip("."), must=must, why=why, act=act, **judged)
        return act

    return register
