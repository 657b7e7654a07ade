"""Error pages: what happened, what to do next, and nothing of the inside."""

import logging

from flask import Flask, render_template, request
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from shop.security import is_same_origin

log = logging.getLogger(__name__)


def init_errors(app: Flask) -> None:
    """Give every error its page."""
    app.register_error_handler(CSRFError, stale_form)
    app.register_error_handler(HTTPException, http_error)
    # Internal is what PostgreSQL's driver calls a transaction that was ended from outside, or may only read any more.
    for error in (OperationalError, InterfaceError, InternalError, PoolTimeoutError):
        app.register_error_handler(error, database_busy)
    app.register_error_handler(Exception, unexpected)


def stale_form(_error: CSRFError) -> ResponseReturnValue:
    """A form whose protection is missing or outdated: what was typed is kept, and can be sent once more.

    Not so for a form that another site sent: its contents are not the visitor's.
    """
    retry: dict[str, object] | None = None
    if is_same_origin(request):
        fields = [(name, value) for name, value in request.form.items(multi=True) if name != "csrf_token"]
        retry = {"action": request.full_path.rstrip("?"), "fields": fields}
    message = _("This page was open for too long, or cookies are switched off. What you typed is kept.")
    return _page(400, _("Please confirm once more"), message if retry else _texts(400)[1], retry=retry)


def http_error(error: HTTPException) -> ResponseReturnValue:
    """Any other HTTP error, with the headers that belong to it (a 405 names what is allowed)."""
    code = error.code or 500
    title, message = _texts(code)
    own_words = error.description if code in (400, 403) and error.description != type(error).description else None
    body, status = _page(code, title, own_words or message)
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    return body, status, headers


def database_busy(error: Exception) -> ResponseReturnValue:
    """The database is locked, full or gone: nothing was written, and trying again later is safe."""
    log.error("the database did not take part: %s", type(error).__name__)
    body, status = _page(503, *_texts(503))
    return body, status, {"Retry-After": "5"}


def unexpected(_error: Exception) -> ResponseReturnValue:
    """A mistake of ours: logged in full, shown in plain words."""
    log.exception("%s %s failed", request.method, request.path)
    return _page(500, *_texts(500))


def _page(code: int, title: str, message: str, *, retry: dict[str, object] | None = None) -> tuple[str, int]:
    return render_template("errors/error.html", code=code, title=title, message=message, retry=retry), code


def _texts(code: int) -> tuple[str, str]:
    """Title and message of an error."""
    known = {
        400: (_("That did not work"), _("The request was not complete. Please go back and try again.")),
        403: (_("This is not open to you"), _("Please use the link that was sent to you.")),
        404: (_("Nothing here"), _("The page was moved or never existed. The shop is still open.")),
        405: (_("That did not work"), _("This address cannot be used that way.")),
        413: (_("That was too much"), _("What you sent is too large. Please shorten it and try again.")),
        503: (
            _("One moment, please"),
            _("The shop is very busy. Nothing was lost: please try again in a few seconds."),
        ),
    }
    fallback = (_("Something went wrong"), _("The fault is ours. Nothing was charged by this page."))
    return known.get(code, known[400] if 400 <= code < 500 else fallback)
