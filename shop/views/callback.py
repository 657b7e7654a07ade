"""The gateway's callback, the one POST without CSRF protection: its secret is what authenticates it.

Last stop on the money's way. What a callback means is `payments.accept_callback`'s business; here is only HTTP.
"""

import logging
import sys

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

import amwal
from shop import payments
from shop.views.guards import csrf

bp = Blueprint("callback", __name__)
csrf.exempt(bp)
log = logging.getLogger(__name__)


# Both spellings are routes of their own: a redirect to the right one would count as a failed attempt.
@bp.post("/amwal/callback")
@bp.post("/amwal/callback/")
def receive() -> ResponseReturnValue:
    """Answer the gateway (protocol: The callback). 200 only after the payment's commit is durable.

    Any Content-Type will do, since the body is checked anyway. One byte over the limit is read, which is enough to
    refuse the rest.
    """
    request.max_content_length = sys.maxsize  # "too large" is for `accept_callback` to say, which records it
    body = request.stream.read(amwal.CALLBACK_LIMIT + 1)
    try:
        outcome = payments.accept_callback(body, request.remote_addr or "")
    except SQLAlchemyError as error:
        log.error("a callback could not be stored (%s); the gateway will repeat it", type(error).__name__)
        return {"result": "try again"}, 503, {"Retry-After": "5"}
    return {"result": outcome.value}, payments.STATUS_OF[outcome]
