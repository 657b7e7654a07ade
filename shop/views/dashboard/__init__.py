"""The merchant's pages, a file an area. All of them ask for signing in, except those of `sign_in`."""

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from models import Heartbeat
from shop import gateway, staff
from shop.db import db
from shop.ops import health
from shop.security import own_path
from shop.views.dashboard import account, attention, callbacks, compare, orders, people, settings, today
from shop.views.dashboard.sign_in import staff_cookie
from shop.views.guards import private

bp = Blueprint("dashboard", __name__, url_prefix="/dashboard")
bp.after_request(private)
for area in (today, orders, attention, callbacks, compare, settings, people, account):
    bp.register_blueprint(area.bp)


@bp.before_request
def require_sign_in() -> ResponseReturnValue | None:
    """Let in who is signed in. Others sign in first, and come back to the page that they asked for, or sent from."""
    cookie = staff_cookie()
    g.signed_in = staff.find_session(cookie) if cookie else None
    if g.signed_in is not None:
        return None
    page = request.full_path if request.method == "GET" else urlsplit(request.referrer or "").path
    return redirect(url_for("sign_in.form", next=own_path(page.rstrip("?"))), 303)


@bp.context_processor
def frame() -> dict[str, Any]:
    """Who is signed in, what is open, and what is wrong with the shop, for the frame of the pages."""
    if g.get("signed_in") is None:
        return {"signed_in": None}
    beat = db.session.scalar(select(Heartbeat.at).filter_by(name="worker"))
    return {
        "signed_in": g.signed_in,
        "open_items": sum(attention.count_open().values()),
        "worker_is_silent": not health.worker_is_alive(beat),
        "compare_since": health.uncompared_since(),
        "key_is_rejected": gateway.key_is_rejected(),
        "closed_by_merchant": gateway.closed_by_merchant(),
    }
