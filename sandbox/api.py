"""The merchant's API: a `PUT` to the project URL ("Create an invoice")."""

import hmac
import json
from decimal import Decimal
from typing import Any, NoReturn
from urllib.parse import urlsplit

import segno
from flask import Blueprint, Response, abort, current_app, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from sandbox import web
from sandbox.records import NewInvoice, Request
from sandbox.trouble import CASES

# The real gateway's limits are not documented; beyond these, the shop has a bug.
AMOUNT_BELOW = Decimal(10) ** 15
MAX_DECIMALS = 18
NEW_INVOICE_STATUS = 1

blueprint = Blueprint("api", __name__)
blueprint.before_request(web.refuse_other_machines)


@blueprint.route("/projects/<hex:project_id>", methods=["PUT"], provide_automatic_options=False)
def create_invoice(project_id: str) -> ResponseReturnValue:
    """Create an invoice from the JSON body.

    Returns its id, payment page, QR code and secret, or the answer of the planned fault case. The HTTP statuses of
    errors are not documented; these are the usual ones: 404 for another project, 401 for a wrong API key, 400 for a
    body other than a JSON object, 422 for a missing or invalid field.
    """
    project = web.store().project()
    g.received_at, g.trouble, g.status, g.invoice_id, g.bait = web.store().now(), "", None, None, ""
    if project_id != project.id:
        abort(404, "Unknown project. The sandbox's account shows the project URL.")
    if not _key_is_right(project.api_key):
        raise Unauthorized("The API key is missing or wrong.", www_authenticate=WWWAuthenticate("bearer"))
    if "followed" in request.args:
        g.trouble = "redirect followed"
    else:
        g.trouble = web.store().take_trouble(_logged_body())
    if g.trouble in CASES:
        response: ResponseReturnValue = CASES[g.trouble].act(_make_invoice)
        return response
    return jsonify(data=_make_invoice(), err=0)


@blueprint.after_request
def log_request(response: Response) -> Response:
    """Log requests for invoices with their outcome, except those of other machines."""
    if "received_at" in g:
        error = {} if response.is_streamed or response.status_code < 400 else response.get_json(silent=True) or {}
        web.store().record_request(
            Request(
                received_at=g.received_at,
                trouble=g.trouble,
                status=response.status_code if g.status is None else g.status,
                invoice_id=g.invoice_id,
                body="" if response.status_code == 413 else _logged_body(),
                refusal=str(error.get("message", "")),
                bait=g.bait,
            )
        )
    return response


def _logged_body() -> str:
    return request.get_data(as_text=True)[:4000]


def _make_invoice() -> dict[str, Any]:
    """Create the requested invoice; return the reply's `data`."""
    invoice = web.store().add_invoice(read_invoice(request.get_data()))
    g.invoice_id = invoice.id
    url = payment_url(invoice.id)
    return {
        "invoiceId": invoice.id,
        "url": url,
        "QR": qr_code(url),
        "secret": invoice.secret,
        "status": NEW_INVOICE_STATUS,
    }


def payment_url(invoice_id: str, lang: str = "en") -> str:
    """Return the public address of an invoice's payment page."""
    return f"{current_app.config['PUBLIC_URL']}/{lang}/invoice/{invoice_id}"


def qr_code(url: str) -> str:
    """Return a QR code for `url`: a PNG in a data URI, 8 pixels per module."""
    return str(segno.make(url, error="m", micro=False).png_data_uri(scale=8, border=4))


def read_invoice(body: bytes) -> NewInvoice:
    """Parse a request for an invoice.

    Aborts with 400 or 422 and a message for the developer if it's invalid. The content type and unknown fields are
    ignored: neither is documented as an error.
    """
    fields = _parse(body)
    return NewInvoice(
        amount=_amount(fields),
        header=_text(fields, "header"),
        description=_text(fields, "description", required=False),
        success_url=_url(fields, "successUrl"),
        cancel_url=_url(fields, "cancelUrl"),
    )


def _key_is_right(api_key: str) -> bool:
    given = request.authorization
    if given is None or given.type != "bearer" or given.token is None:
        return False
    return hmac.compare_digest(given.token.encode(errors="replace"), api_key.encode())


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _parse(body: bytes) -> dict[str, Any]:
    """Return the body's object, with exact numbers (Decimal)."""
    try:
        fields = json.loads(body.decode("utf-8"), parse_float=Decimal, parse_int=Decimal, parse_constant=_no_number)
    # RecursionError: nested too deeply. ArithmeticError: an exponent out of Decimal's range.
    except (ValueError, ArithmeticError, RecursionError):
        abort(400, "The body must be JSON in UTF-8.")
    if not isinstance(fields, dict):
        abort(400, "The body must be a JSON object.")
    return fields


def _amount(fields: dict[str, Any]) -> Decimal:
    amount = fields.get("amount")
    if not isinstance(amount, Decimal):
        abort(422, "amount must be a JSON number.")
    if not 0 < amount < AMOUNT_BELOW or int(amount.as_tuple().exponent) < -MAX_DECIMALS:
        abort(422, f"amount must be above 0 and below {AMOUNT_BELOW:,f}, with at most {MAX_DECIMALS} decimals.")
    return amount


def _text(fields: dict[str, Any], name: str, *, required: bool = True) -> str:
    text = fields.get(name, "")
    if not isinstance(text, str) or (required and not text.strip()):
        abort(422, f"{name} must be {'a string that is not empty' if required else 'a string'}.")
    # Lone surrogates can't be stored or displayed; control characters such as NUL are a mistake.
    if any("\ud800" <= char <= "\udfff" or (char < " " and char not in "\t\r\n") for char in text):
        abort(422, f"{name} contains control characters or invalid Unicode.")
    return text


def _url(fields: dict[str, Any], name: str) -> str:
    url = _text(fields, name, required=False)
    if not url.strip():  # the documentation's own example sends empty ones
        return ""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and not any(c <= " " for c in url)
    except ValueError:
        usable = False
    if not usable:
        abort(422, f"{name} must be a URL that starts with http:// or https://.")
    return url
