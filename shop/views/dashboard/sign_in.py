"""Signing in and out, and a new password for who has forgotten theirs."""

from flask import Blueprint, abort, current_app, flash, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_babel import get_locale
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from models import Staff
from shop import staff
from shop.security import own_path
from shop.views import browser
from shop.views.dashboard.forms import AddressForm, NewPasswordForm, SignInForm
from shop.views.guards import private

bp = Blueprint("sign_in", __name__, url_prefix="/dashboard")
bp.after_request(private)

COOKIE_SECONDS = int(staff.KNOWN_FOR.total_seconds())
_BROWSERS = {"Edg/": "Edge", "OPR/": "Opera", "SamsungBrowser/": "Samsung Internet", "FxiOS/": "Firefox"}
_BROWSERS |= {"Firefox/": "Firefox", "CriOS/": "Chrome", "Chrome/": "Chrome", "Safari/": "Safari"}
_SYSTEMS = {name: name for name in ("Android", "iPhone", "iPad", "Windows")} | {"Mac OS X": "macOS", "Linux": "Linux"}


@bp.before_request
def refuse_early() -> ResponseReturnValue | None:
    """Answer a flood of guesses as cheaply as can be: callbacks come through the same threads."""
    if request.endpoint == "sign_in.submit":
        try:
            staff.refuse_early(browser.network(), staff_cookie())
        except staff.TooManyTries as refused:
            return _too_many(str(refused.message)), 429
    return None


@bp.get("/sign-in")
def form() -> ResponseReturnValue:
    """Ask for address and password."""
    return _page(SignInForm())


@bp.post("/sign-in")
def submit() -> ResponseReturnValue:
    """Sign in, and go on to the page that was asked for."""
    sent = SignInForm()
    if not sent.validate_on_submit():
        return _page(sent), 422
    whose = (browser.network(), staff_cookie(), browser_name(request.user_agent.string))
    try:
        token = staff.sign_in(sent.email.data or "", sent.password.data or "", *whose)
    except staff.TooManyTries as refused:
        return _too_many(str(refused.message)), 429
    except staff.WrongPassword as refused:
        return _page(sent, str(refused.message)), 422
    return signed_in(token)


@bp.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """End this browser's session. The cookie stays: by it, a browser that has signed in before is told from others."""
    found = staff.find_session(staff_cookie())
    if found is not None:
        staff.end_sessions(found.staff, found.id)
    flash(_("You are signed out."), "success")
    return redirect(url_for("sign_in.form"), 303)


@bp.get("/forgotten")
def forgotten() -> ResponseReturnValue:
    """Ask for the address that a link for a new password is sent to."""
    return render_template("dashboard/forgotten.html", form=AddressForm())


@bp.post("/forgotten")
def mail_link() -> ResponseReturnValue:
    """Send the link. The page says the same whether somebody has this address or not."""
    sent = AddressForm()
    if not sent.validate_on_submit():
        return render_template("dashboard/forgotten.html", form=sent), 422
    try:
        staff.mail_link(sent.email.data or "", browser.network(), str(get_locale()))
    except staff.TooManyTries:
        abort(429, _("There were too many requests from your internet connection. Please try again in an hour."))
    flash(_("If this is the address of an account, a link is on its way to it. It works for 30 minutes."), "success")
    return redirect(url_for("sign_in.form"), 303)


@bp.route("/new-password/<token>", methods=["GET", "POST"])
def new_password(token: str) -> ResponseReturnValue:
    """Set a new password by an e-mailed link, and sign in. All other sessions end."""
    person, sent = staff.read_link(token), NewPasswordForm()
    if person is None:
        return render_template("dashboard/link_expired.html"), 404
    if not sent.validate_on_submit():
        page = render_template("dashboard/new_password.html", form=sent, person=person)
        return page, 422 if sent.is_submitted() else 200
    if not staff.set_password(person, sent.new_password.data or ""):  # the link was used a moment ago
        return render_template("dashboard/link_expired.html"), 404
    return sign_in_again(person)


def staff_cookie() -> str:
    """The token in this browser's cookie, of a session that may have ended; "" if it has none."""
    return request.cookies.get(current_app.config["STAFF_COOKIE"], "")


def signed_in(token: str) -> Response:
    """Give the browser the cookie of its session, and go on."""
    session.pop("csrf_token", None)  # one that was planted before is worth nothing afterwards
    g.pop("csrf_token", None)
    page = own_path(request.args.get("next", ""))
    response = redirect(page if page.startswith("/dashboard/") else url_for("dashboard.today.show"), 303)
    response.set_cookie(
        current_app.config["STAFF_COOKIE"],
        token,
        max_age=COOKIE_SECONDS,
        samesite="Lax",
        httponly=True,
        secure=current_app.config["SESSION_COOKIE_SECURE"],
    )
    return response


def sign_in_again(person: Staff) -> Response:
    """Sign in somebody whose password was set in this browser, which has ended their sessions."""
    person = staff.find(person.email) or abort(403)
    return signed_in(staff.begin(person, browser_name(request.user_agent.string)))


def browser_name(user_agent: str) -> str:
    """Name a browser and its system as people know them: `Firefox · Windows`."""
    known = [next((name for mark, name in names.items() if mark in user_agent), "") for names in (_BROWSERS, _SYSTEMS)]
    return " · ".join(filter(None, known))


def _too_many(message: str) -> str:
    """The page for whoever is refused, made once in each language: guessers ask for it hundreds of times a second."""
    pages: dict[str, str] = current_app.extensions.setdefault("too_many_tries", {})
    if message not in pages:
        pages[message] = render_template("dashboard/too_many.html", message=message)
    return pages[message]


def _page(sent: SignInForm, error: str = "") -> str:
    return render_template("dashboard/sign_in.html", form=sent, error=error)
