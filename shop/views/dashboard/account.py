"""One's own account: the password, and where one is signed in."""

from flask import Blueprint, flash, g, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _

from shop import staff
from shop.refusals import Refusal
from shop.views.dashboard.forms import ChangePasswordForm
from shop.views.dashboard.sign_in import sign_in_again

bp = Blueprint("account", __name__, url_prefix="/account")


@bp.get("")
def show() -> ResponseReturnValue:
    """Show the form for a new password, and the sessions."""
    return _page(ChangePasswordForm())


@bp.post("")
def change_password() -> ResponseReturnValue:
    """Change the password. All other sessions end."""
    sent = ChangePasswordForm()
    if not sent.validate_on_submit():
        return _page(sent), 422
    try:
        staff.ask_again(g.signed_in, sent.password.data or "")
    except Refusal as refused:
        sent.password.errors = [refused.message]
        return _page(sent), 429 if isinstance(refused, staff.TooManyTries) else 422
    if not staff.set_password(g.signed_in.staff, sent.new_password.data or ""):
        return redirect(url_for("sign_in.form"), 303)
    flash(_("Your password is changed. All other browsers are signed out."), "success")
    return sign_in_again(g.signed_in.staff)


@bp.post("/sessions/<int(max=2147483647):session_id>")
def end_session(session_id: int) -> ResponseReturnValue:
    """End one of one's own sessions."""
    staff.end_sessions(g.signed_in.staff, session_id)
    return redirect(url_for(".show"), 303)


@bp.post("/sessions")
def end_all() -> ResponseReturnValue:
    """End all of one's own sessions, this one too."""
    staff.end_sessions(g.signed_in.staff)
    flash(_("You are signed out everywhere."), "success")
    return redirect(url_for("sign_in.form"), 303)


def _page(sent: ChangePasswordForm) -> str:
    return render_template("dashboard/account.html", form=sent, sessions=staff.sessions_of(g.signed_in.staff))
