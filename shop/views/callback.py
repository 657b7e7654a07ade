"""The gateway's callback, a POST without CSRF token, authenticated by its secret.

The last of the five files of the payment flow. Only HTTP is handled here; `payments.accept_callback` does the rest.
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


# Both spellings are routes: the gateway would count a redirect as a failed attempt.
@bp.post("/amwal/callback")
@bp.post("/amwal/callback/")
def receive() -> ResponseReturnValue:
    """Answer the gateway (protocol: The callback): 200 only once the payment is durably committed.

    Any Content-Type is accepted, since the body is validated anyway. At most one byte over the limit is read, which is
    enough to detect a body that is too large.
    """
    request.max_content_length = sys.maxsize  # `accept_callback` rejects and records what is too large
    body = request.stream.read(amwal.CALLBACK_LIMIT + 1)
    try:
        outcome = payments.accept_callback(body, request.remote_addr or "")
    except SQLAlchemyError as error:
        log.error("a callback could not be stored (%s); the gateway will repeat it", type(error).__name__)
        return {"result": "try again"}, 503, {"Retry-After": "5"}
    return {"result": outcome.value}, payments.STATUS_OF[outcome]
