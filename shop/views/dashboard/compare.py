"""Compare with Amwal: when no callback came, the account's list of paid invoices tells what was paid."""

from flask import Blueprint, flash, g, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _

from shop import reconcile
from shop.config import current_settings
from shop.ops import health
from shop.security import NOT_SHOWN, repeats_a_secret
from shop.views.dashboard.forms import CompareForm, ConfirmForm
from shop.views.dashboard.people import is_really_you

bp = Blueprint("compare", __name__, url_prefix="/compare")


@bp.get("")
def form() -> str:
    """Ask for the list."""
    return _page(CompareForm())


@bp.post("")
def compare() -> ResponseReturnValue:
    """Compare the list. It changes nothing, unless somebody says that it was all: see `reconcile.end_comparison`."""
    sent = CompareForm()
    file = reconcile.decode(sent.file.data.read()) if sent.file.data else ""
    ids, without = reconcile.read_ids(f"{sent.ids.data or ''}\n{file}")
    if not sent.validate_on_submit() or not (ids or sent.total.data == "0"):
        sent.ids.errors = sent.ids.errors or [
            _("There is no invoice id in it. They look like 65448ddef4924a5dd1b241a9.")
        ]
        return _page(sent, without=without), 422
    sent.ids.data = "\n".join(ids)
    found = reconcile.compare(ids)
    if sent.total.data and sent.total.data != str(len(ids)):
        sent.total.errors = [
            _("There are %(count)s in the list: some are missing, or there are too many.", count=len(ids))
        ]
        return _page(sent, found, without), 422
    if sent.total.data:
        reconcile.end_comparison(found, g.signed_in.staff_id)
        flash(_("The comparison is complete. What differs stands among what needs attention."), "success")
        return redirect(url_for("dashboard.attention.index"), 303)
    return _page(sent, found, without)


@bp.post("/confirmation")
def confirm() -> ResponseReturnValue:
    """Mark an order paid whose payment somebody saw in the account: the same transaction as a callback's."""
    sent = ConfirmForm()
    found = reconcile.compare([sent.gateway_id.data or ""])
    if not sent.validate_on_submit() or not is_really_you(sent):
        return _page(CompareForm(formdata=None), found, confirming=sent), 422
    if not reconcile.confirm_by_hand(sent.gateway_id.data or "", g.signed_in.staff_id, sent.note.data or ""):
        flash(_("There is nothing to confirm: the order has a payment already."), "error")
        return redirect(url_for(".form"), 303)
    [order] = found.unpaid
    return redirect(url_for("dashboard.orders.show", number=order.number), 303)


def _page(
    sent: CompareForm,
    found: reconcile.Comparison | None = None,
    without: list[str] | None = None,
    confirming: ConfirmForm | None = None,
) -> str:
    return render_template(
        "dashboard/compare.html",
        form=sent,
        found=found,
        without=[NOT_SHOWN if repeats_a_secret(current_settings(), line) else line for line in without or []],
        since=health.uncompared_since(),
        confirming=confirming,
        empty=ConfirmForm(formdata=None),
    )
