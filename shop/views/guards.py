"""Guards of views: CSRF tokens, an origin check for the two forms on shared pages, no caching of what is private."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from flask import Flask, Response, abort, request
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect

from shop.security import is_same_origin
from shop.views import browser

csrf = CSRFProtect()


def init_csrf(app: Flask) -> None:
    """Ask every form for a CSRF token, except where `csrf.exempt` says otherwise."""
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False  # for `check_token`, which checks it instead
    csrf.init_app(app)
    app.before_request(check_token)


def check_token() -> None:
    """Refuse a form without its CSRF token, unless the browser sent no cookie but an order's key.

    Without a cookie there is nothing that another site could use, and no token could be checked. So whoever keeps no
    cookies can still use the buttons of an order that they opened by the link in their e-mail.
    """
    if not ("key" in request.args and not browser.sends_cookies() and is_same_origin(request)):
        csrf.protect(apply_exemptions=True)


P = ParamSpec("P")


def same_origin_only(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Protect a form on pages shared by all visitors, which can't carry a CSRF token.

    The request's `Origin` must be the shop's.
    """

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        if not is_same_origin(request):
            abort(400)
        return view(*args, **kwargs)

    csrf.exempt(guarded)
    return guarded


def never_cached(response: Response) -> Response:
    """Forbid caches to store a response about one customer. For `after_request`."""
    response.cache_control.no_store = True
    return response


def private(response: Response) -> Response:
    """Keep a page of the dashboard out of caches and search engines. For `after_request`."""
    response.headers["X-Robots-Tag"] = "noindex"
    return never_cached(response)
