"""The staff: who may sign in."""

from flask import Blueprint, abort, flash, g, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_babel import get_locale
from flask_babel import gettext as _
from flask_wtf import FlaskForm

from models import Staff
from shop import staff
from shop.db import db
from shop.refusals import Refusal
from shop.views.dashboard.forms import PasswordForm, PersonForm

bp = Blueprint("staff", __name__, url_prefix="/staff")


@bp.get("")
def show() -> ResponseReturnValue:
    """List everybody, with a form to add somebody."""
    return _page(PersonForm())


@bp.post("")
def add() -> ResponseReturnValue:
    """Add somebody, or let somebody sign in again. They set their password by a link that is e-mailed to them."""
    sent = PersonForm()
    if not sent.validate_on_submit() or not is_really_you(sent):
        return _page(sent), 422
    if not staff.add(sent.email.data or "", sent.name.data or ""):
        sent.email.errors = [_("There is an account with this address.")]
        return _page(sent), 422
    staff.mail_link(sent.email.data or "", "", str(get_locale()))
    flash(_("%(name)s gets an e-mail with a link to set a password.", name=sent.name.data), "success")
    return redirect(url_for(".show"), 303)


@bp.route("/<int(max=2147483647):staff_id>/disabled", methods=["GET", "POST"])
def disable(staff_id: int) -> ResponseReturnValue:
    """Ask for one's own password, and disable somebody's account. Nobody disables their own."""
    person, sent = db.session.get(Staff, staff_id), PasswordForm()
    if person is None or not person.active or person.id == g.signed_in.staff_id:
        abort(404)
    if not sent.validate_on_submit() or not is_really_you(sent):
        page = render_template("dashboard/disable.html", person=person, form=sent)
        return page, 422 if sent.is_submitted() else 200
    staff.disable(person.id)
    flash(_("%(name)s can no longer sign in.", name=person.name), "success")
    return redirect(url_for(".show"), 303)


def is_really_you(sent: FlaskForm) -> bool:
    """Check the password that is asked again. If it is wrong, the form's field says so."""
    try:
        staff.ask_again(g.signed_in, sent.password.data)
    except Refusal as refused:
        sent.password.errors = [refused.message]
        return False
    return True


def _page(sent: PersonForm) -> str:
    return render_template("dashboard/staff.html", form=sent, everybody=staff.everybody())
