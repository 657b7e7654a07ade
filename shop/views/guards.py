"""Guards of views: CSRF tokens, an origin check for the two forms on shared pages, no caching of what is private."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from flask import Response, abort, request
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect

from shop.security import is_same_origin

csrf = CSRFProtect()

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
