"""Error pages: what happened and what to do next, without internal details."""

import logging

from flask import Flask, g, render_template, request
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from shop.config import SettingError
from shop.security import is_same_origin

log = logging.getLogger(__name__)


def init_errors(app: Flask) -> None:
    """Register an error page for every kind of error."""
    app.register_error_handler(CSRFError, stale_form)
    app.register_error_handler(HTTPException, http_error)
    # PostgreSQL's driver raises InternalError for a transaction that was terminated or became read-only.
    for error in (OperationalError, InterfaceError, InternalError, PoolTimeoutError):
        app.register_error_handler(error, database_busy)
    app.register_error_handler(SettingError, wrong_setting)
    app.register_error_handler(Exception, unexpected)


def stale_form(_error: CSRFError) -> ResponseReturnValue:
    """A form with a missing or expired CSRF token.

    The visitor can send it again with what was typed. Forms sent by another site get no retry: their contents aren't
    the visitor's.
    """
    retry: dict[str, object] | None = None
    if is_same_origin(request):
        fields = [(name, value) for name, value in request.form.items(multi=True) if name != "csrf_token"]
        retry = {"action": request.full_path.rstrip("?"), "fields": fields}
    message = _("This page was open too long, or cookies are turned off. What you entered is still here.")
    return _page(400, _("Please confirm again"), message if retry else _texts(400)[1], retry=retry)


def http_error(error: HTTPException) -> ResponseReturnValue:
    """Any other HTTP error, with its headers (such as Allow for a 405)."""
    code = error.code or 500
    title, message = _texts(code)
    own_words = error.description if code in (403, 404, 429) and error.description != type(error).description else None
    body, status = _page(code, title, own_words or message)
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    return body, status, headers


def database_busy(error: Exception) -> ResponseReturnValue:
    """A locked, full or unreachable database: nothing was written, a retry is safe."""
    log.error("database unavailable: %s", type(error).__name__)
    body, status = _page(503, *_texts(503))
    return body, status, {"Retry-After": "5"}


def wrong_setting(error: SettingError) -> ResponseReturnValue:
    """A setting that doesn't fit the database: nothing was written. The gateway repeats its callbacks."""
    log.error("%s", error.message)
    body, status = _page(503, *_texts(503))
    return body, status, {"Retry-After": "5"}


def unexpected(_error: Exception) -> ResponseReturnValue:
    """A bug: logged in full, and shown without details."""
    log.exception("%s %s failed", request.method, request.path)
    return _page(500, *_texts(500))


def _page(code: int, title: str, message: str, *, retry: dict[str, object] | None = None) -> tuple[str, int]:
    if code >= 500:
        g.pop("signed_in", None)  # without the dashboard's frame, which would ask the database again
    return render_template("errors/error.html", code=code, title=title, message=message, retry=retry), code


def _texts(code: int) -> tuple[str, str]:
    """Title and message of an error."""
    known = {
        400: (_("That didn't work"), _("The request was incomplete. Please go back and try again.")),
        403: (_("You don't have access to this page"), _("Please use the link we sent you.")),
        404: (_("Page not found"), _("It may have moved, or the address may be wrong.")),
        405: (_("That didn't work"), _("This address can't be used that way.")),
        413: (_("That's too large"), _("Please shorten what you entered and try again.")),
        503: (
            _("One moment, please"),
            _("The shop is very busy. Nothing was lost. Please try again in a few seconds."),
        ),
    }
    fallback = (_("Something went wrong"), _("The problem is on our side. This page didn't charge you."))
    return known.get(code, known[400] if 400 <= code < 500 else fallback)
