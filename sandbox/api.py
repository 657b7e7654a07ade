"""The merchant's side: `PUT` to the project URL makes an invoice ("Create an invoice")."""

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
from sandbox.trouble import CASES, replies

# Not documented for the real gateway. What lies beyond is a mistake in the shop rather than a price.
AMOUNT_BELOW = Decimal(10) ** 15
MAX_DECIMALS = 18
NEW_INVOICE_STATUS = 1

blueprint = Blueprint("api", __name__)
blueprint.before_request(web.refuse_other_machines)


@blueprint.route("/projects/<hex:project_id>", methods=["PUT"], provide_automatic_options=False)
def create_invoice(project_id: str) -> ResponseReturnValue:
    """Make an invoice from the JSON body and return its id, payment page, QR code and secret.

    Statuses of refusals are not documented; these are the usual ones: 404 for another project, 401 for a wrong key,
    400 for a body that is no JSON object, 422 for a field that is missing or wrong. Planned trouble comes in between.
    """
    project = web.store().project()
    g.received_at, g.trouble, g.status, g.invoice_id, g.bait = web.store().now(), "", None, None, ""
    if project_id != project.id:
        abort(404, "There is no such project: look up its URL in the sandbox's account.")
    if not _key_is_right(project.api_key):
        raise Unauthorized("The API key is missing or wrong.", www_authenticate=WWWAuthenticate("bearer"))
    if "followed" in request.args:
        g.trouble = "redirect followed"
    else:
        g.trouble = web.store().take_trouble()
    if g.trouble in CASES:
        return replies.reply(g.trouble, _make_invoice)
    return jsonify(data=_make_invoice(), err=0)


@blueprint.after_request
def log_request(response: Response) -> Response:
    """Keep what came and what became of it, refused or not, for the account. Nobody else's requests get here."""
    if "received_at" in g:
        told = {} if response.is_streamed or response.status_code < 400 else response.get_json(silent=True) or {}
        web.store().record_request(
            Request(
                received_at=g.received_at,
                trouble=g.trouble,
                status=response.status_code if g.status is None else g.status,
                invoice_id=g.invoice_id,
                body="" if response.status_code == 413 else request.get_data(as_text=True)[:4000],
                refusal=str(told.get("message", "")),
                bait=g.bait,
            )
        )
    return response


def _make_invoice() -> dict[str, Any]:
    """Make the invoice that the request asks for; return the reply's `data`."""
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
    """Return the address of an invoice's payment page, as phones can reach it."""
    return f"{current_app.config['PUBLIC_URL']}/{lang}/invoice/{invoice_id}"


def qr_code(url: str) -> str:
    """Return `url` as a QR code: a PNG picture in a data URI, 8 pixels a module, with the quiet zone cameras need."""
    return str(segno.make(url, error="m", micro=False).png_data_uri(scale=8, border=4))


def read_invoice(body: bytes) -> NewInvoice:
    """Return what the shop asks for; abort with 400 or 422 and a sentence for the shop's developer.

    The content type isn't looked at, and unknown fields are passed over: neither is documented as an error.
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
    """Return the body's object, its numbers as Decimal, so that 47.20 stays 47.20."""
    try:
        fields = json.loads(body.decode("utf-8"), parse_float=Decimal, parse_int=Decimal, parse_constant=_no_number)
    # RecursionError: nested deeper than any parser likes. ArithmeticError: an exponent that no Decimal holds.
    except (ValueError, ArithmeticError, RecursionError):
        abort(400, "The body must be JSON in UTF-8.")
    if not isinstance(fields, dict):
        abort(400, "The body must be a JSON object.")
    return fields


def _amount(fields: dict[str, Any]) -> Decimal:
    amount = fields.get("amount")
    if not isinstance(amount, Decimal):  # text and true are no numbers, though some languages take them for one
        abort(422, "amount must be a JSON number.")
    if not 0 < amount < AMOUNT_BELOW or int(amount.as_tuple().exponent) < -MAX_DECIMALS:
        abort(422, f"amount must be above 0 and below {AMOUNT_BELOW:,f}, with {MAX_DECIMALS} decimals at most.")
    return amount


def _text(fields: dict[str, Any], name: str, *, required: bool = True) -> str:
    if name not in fields and not required:
        return ""
    text = fields.get(name)
    if not isinstance(text, str) or (required and not text.strip()):
        abort(422, f"{name} must be {'text that is not empty' if required else 'text'}.")
    # Lone surrogates can't be stored or shown, and control characters (NUL among them) are never meant.
    if any("\ud800" <= char <= "\udfff" or (char < " " and char not in "\t\r\n") for char in text):
        abort(422, f"{name} has characters that are not text.")
    return text


def _url(fields: dict[str, Any], name: str) -> str:
    url = _text(fields, name, required=False)
    if name not in fields:
        return ""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and not any(c <= " " for c in url)
    except ValueError:
        usable = False
    if not usable:
        abort(422, f"{name} must be an address that starts with http:// or https://.")
    return url
