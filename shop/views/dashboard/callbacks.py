"""The inbox: every callback that arrived, what we answered and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from flask import Blueprint, abort, render_template, request
from flask_babel import gettext as _
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import joinedload

from models import CallbackAttempt, Invoice, Order
from shop import worker
from shop.db import db
from shop.paging import Keys, page
from shop.states import CallbackOutcome
from shop.text import plain

bp = Blueprint("callbacks", __name__, url_prefix="/callbacks")
PAGE = 50


@dataclass(frozen=True)
class CallbackList:
    """A list of callbacks by its filters. Those that can't be read are left out."""

    query: str = ""
    """An order's number, or an invoice's id."""
    outcome: CallbackOutcome | None = None

    @classmethod
    def from_args(cls, args: Mapping[str, str]) -> Self:
        """Read the filters from an address."""
        outcome = next((one for one in CallbackOutcome if one == args.get("outcome")), None)
        return cls(plain(args.get("q", ""))[:200], outcome)

    @property
    def args(self) -> dict[str, str]:
        """The filters as an address has them."""
        found = {"q": self.query, "outcome": self.outcome.value if self.outcome else ""}
        return {name: value for name, value in found.items() if value}

    @property
    def chips(self) -> list[tuple[str, dict[str, str]]]:
        """Each filter in words, with the filters of the address in which it is taken away."""
        words = {"q": self.query, "outcome": str(self.outcome.label) if self.outcome else ""}
        return [(words[name], {other: self.args[other] for other in self.args if other != name}) for name in self.args]

    def where(self) -> Iterator[ColumnElement[bool]]:
        """The conditions of all filters. What names no order of ours is among the misses, which are few."""
        if self.query:
            of_invoice = select(Invoice.order_id).where(Invoice.gateway_id == self.query.lower())
            order_id = Order.id_of(self.query) or db.session.scalar(of_invoice)
            unknown = CallbackAttempt.order_id.is_(None) & (CallbackAttempt.gateway_id == self.query)
            yield CallbackAttempt.order_id == order_id if order_id else unknown
        if self.outcome:
            yield CallbackAttempt.outcome == self.outcome


@bp.get("")
def index() -> str:
    """List callbacks, the newest first."""
    wanted = CallbackList.from_args(request.args)
    attempts = select(CallbackAttempt).where(*wanted.where()).options(joinedload(CallbackAttempt.order))
    return render_template(
        "dashboard/callbacks.html",
        wanted=wanted,
        page=page(attempts, Keys([CallbackAttempt.id], down=True), request.args.get("after", ""), PAGE),
        outcomes=[one for one in CallbackOutcome if one is not CallbackOutcome.TOO_MANY],
        days=worker.MISSES_KEPT_FOR.days,
        most=worker.MISSES_KEPT,
    )


@bp.get("/<int(max=2147483647):attempt_id>")
def show(attempt_id: int) -> str:
    """Show a callback."""
    attempt = db.session.get(CallbackAttempt, attempt_id, options=[joinedload(CallbackAttempt.order)])
    if attempt is None:
        abort(404, _("Callbacks without a known secret are deleted after a while; all others are kept."))
    return render_template("dashboard/callback.html", attempt=attempt)
