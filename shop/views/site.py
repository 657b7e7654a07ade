"""Editable pages, language switch, stylesheet and health checks."""

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from flask import Blueprint, abort, current_app, jsonify, make_response, redirect, render_template, request
from flask.typing import ResponseReturnValue

from shop.config import settings
from shop.ops import health
from shop.security import own_path
from shop.views.guards import same_origin_only
from shop.views.style import style

bp = Blueprint("site", __name__)

PAGES = ("terms", "privacy", "returns", "contact")
LANGUAGE_SECONDS = 365 * 24 * 3600


@bp.get("/pages/<name>")
def page(name: str) -> str:
    """Show an editable page, a template in `templates/pages/`."""
    if name not in PAGES:
        abort(404)
    return render_template(f"pages/{name}.html")


@bp.post("/language")
@same_origin_only
def language() -> ResponseReturnValue:
    """Store the chosen language and return to the visitor's page."""
    chosen = request.form.get("language", "")
    if chosen not in settings.shop_locales:
        abort(400)
    response = make_response(redirect(_without_language(own_path(request.form.get("next", "/"))), 303))
    response.set_cookie(
        current_app.config["LANGUAGE_COOKIE"],
        chosen,
        max_age=LANGUAGE_SECONDS,
        samesite="Lax",
        httponly=True,
        secure=current_app.config["SESSION_COOKIE_SECURE"],
    )
    return response


def _without_language(path: str) -> str:
    """The path without `?lang=`, which would override the new choice."""
    parts = urlsplit(path)
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "lang"])
    return urlunsplit(("", "", parts.path, query, ""))


@bp.get("/<any(style, dashboard):name>.css")
def stylesheet(name: str) -> ResponseReturnValue:
    """A stylesheet, its files in one response: a browser waits for each stylesheet before it paints."""
    response = make_response(style(current_app, name), {"Content-Type": "text/css; charset=utf-8"})
    response.cache_control.max_age = 86_400  # a changed one has another address
    response.add_etag()
    return response.make_conditional(request)


@bp.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Liveness: the process is up."""
    return "ok\n", {"Content-Type": "text/plain; charset=utf-8"}


@bp.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Readiness, for what routes traffic: 503 only if this process can't serve."""
    problems = health.unready()
    return jsonify(ready=not problems, problems=problems), 503 if problems else 200


@bp.get("/statusz")
def statusz() -> ResponseReturnValue:
    """The shop as a whole, for alarms: worker, overdue tasks, a write; 503 with the problems otherwise."""
    problems = health.alarms()
    return jsonify(well=not problems, problems=problems), 503 if problems else 200
