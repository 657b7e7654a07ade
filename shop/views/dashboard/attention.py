"""What needs attention: for each kind what happened, what the customer was told, and what to do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from flask import Blueprint, abort, flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _
from sqlalchemy import ColumnElement, Select, String, func, select, type_coerce
from sqlalchemy.orm import joinedload

from models import Attention
from shop import shipping
from shop.attention import close, urgency
from shop.db import db, write
from shop.paging import Keys, page
from shop.refusals import Refusal
from shop.states import AttentionKind
from shop.views.dashboard.forms import SettleForm

bp = Blueprint("attention", __name__, url_prefix="/attention")
PER_KIND = 20
PAGE = 50
DECIDED_ELSEWHERE = (AttentionKind.PAID_SOLD_OUT, AttentionKind.PAID_CANCELLED, AttentionKind.RESTORED)
"""Kinds that a note alone can't settle: money would stay undecided."""


@dataclass(frozen=True)
class AttentionList:
    """A list of items by its filters."""

    kind: AttentionKind | None = None
    settled: bool = False

    @classmethod
    def from_args(cls, args: Mapping[str, str]) -> Self:
        """Read the filters from an address."""
        return cls(next((one for one in AttentionKind if one == args.get("kind")), None), "settled" in args)

    @property
    def args(self) -> dict[str, str]:
        """The filters as an address has them."""
        found = {"kind": self.kind.value if self.kind else "", "settled": "1" if self.settled else ""}
        return {name: value for name, value in found.items() if value}

    def where(self) -> Iterator[ColumnElement[bool]]:
        """The conditions of all filters."""
        yield Attention.closed_at.is_not(None) if self.settled else Attention.closed_at.is_(None)
        if self.kind:
            yield type_coerce(Attention.kind, String) == self.kind.value  # or a word of a later version

    def select(self) -> Select[Attention]:
        """The items, unsorted."""
        return select(Attention).where(*self.where()).options(joinedload(Attention.order), joinedload(Attention.closer))


@bp.get("")
def index() -> str:
    """List what is open, the most urgent kind first, or what was settled."""
    return _page(AttentionList.from_args(request.args))


@bp.post("/<int(max=2147483647):item_id>")
def settle(item_id: int) -> ResponseReturnValue:
    """Close an item, with a note and the name of who settled it."""
    item, sent = _open_item(item_id), SettleForm()
    if item.kind in DECIDED_ELSEWHERE:
        abort(404)
    if not sent.validate_on_submit():
        return _page(AttentionList(), wrong=(item.id, sent)), 422
    did = _acts().get(request.form.get("act", ""), _("Settled"))
    with write() as session:
        close(session, Attention.id == item.id, g.signed_in.staff_id, f"{did}: {sent.note.data}")
    flash(_("Settled."), "success")
    return redirect(url_for(".index"), 303)


@bp.post("/<int(max=2147483647):item_id>/release")
def release(item_id: int) -> ResponseReturnValue:
    """Hand over the goods of an order in review after all."""
    item, sent = _open_item(item_id), SettleForm()
    if item.order is None:
        abort(404)
    if not sent.validate_on_submit():
        return _page(AttentionList(), wrong=(item.id, sent)), 422
    try:
        shipping.release(item.order.id, g.signed_in.staff_id, sent.note.data or "")
    except Refusal as refused:
        flash(str(refused.message), "error")
        return redirect(url_for(".index"), 303)
    return redirect(url_for("dashboard.orders.show", number=item.order.number), 303)


def count_open() -> dict[AttentionKind, int]:
    """How many items of each kind are open, the most urgent kind first."""
    counted = select(Attention.kind, func.count()).where(Attention.closed_at.is_(None))
    rows = db.session.execute(counted.group_by(Attention.kind).order_by(urgency()))
    return {row[0]: row[1] for row in rows}


def _acts() -> dict[str, str]:
    """What staff may have done about an item, by the button's value."""
    return {
        "told": _("Told the customer"),
        "refunded": _("Refunded by hand"),
        "not-ours": _("Not ours"),
        "settled": _("Settled"),
    }


def _open_item(item_id: int) -> Attention:
    item = db.session.get(Attention, item_id, options=[joinedload(Attention.order)])
    return item if item and item.closed_at is None else abort(404)


def _page(wanted: AttentionList, wrong: tuple[int, SettleForm] | None = None) -> str:
    after = request.args.get("after", "")
    if wanted.settled:
        settled = page(wanted.select(), Keys([Attention.id], down=True), after, PAGE)
        return render_template("dashboard/settled.html", page=settled, wanted=wanted)
    counted = count_open()
    kinds = [wanted.kind] if wanted.kind else [*counted]
    size = PAGE if wanted.kind else PER_KIND
    lists = [(kind, page(AttentionList(kind).select(), Keys([Attention.id]), after, size)) for kind in kinds]
    return render_template(
        "dashboard/attention.html",
        wanted=wanted,
        lists=lists,
        counted=counted,
        acts=_acts(),
        decided_elsewhere=DECIDED_ELSEWHERE,
        wrong=wrong,
        empty=SettleForm(formdata=None),
    )
