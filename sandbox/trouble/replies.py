"""Faulty answers to a request for an invoice.

Each is given `make`, which creates the invoice and returns the reply's `data`. Afterwards, `g.bait` is text in the
answer that the shop's pages must not show.
"""

import base64
import json
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flask import Response, abort, current_app, g, jsonify, request
from flask.typing import ResponseReturnValue
from waitress.channel import ClientDisconnected
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from sandbox import web
from sandbox.store import LEASE
from sandbox.trouble import callbacks
from sandbox.trouble.cases import case

SLOW_SECONDS = 5
DRIP_SECONDS = 30
RETRY_AFTER_SECONDS = 2
HUGE_BYTES = 16 * 1024 * 1024
BOMB_BYTES = 64 * 1024 * 1024
PIECE = b" " * 64 * 1024
MARKUP = '"><script>alert(1)</script>'
SVG = "data:image/svg+xml;base64," + base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg"/>').decode()

Data = dict[str, Any]


@case("put", rule=1, max_requests=3)
def refuse(_make: Callable[[], Data]) -> ResponseReturnValue:
    """Refused.

    A shop must show no payment link from this answer, keep the order, and offer a retry; repeating the same request
    doesn't help.

    An order without an invoice can still be paid later.
    """
    abort(422, "Refused, as planned.")


@case("put", rule=4, max_requests=1)
def _401(_make: Callable[[], Data]) -> ResponseReturnValue:
    """Key rejected.

    A shop must keep the order and alert staff that the key is wrong, without retries.

    A retry can't help, and may lock the key.
    """
    raise Unauthorized("The API key is rejected, as planned.", www_authenticate=WWWAuthenticate("bearer"))


@case("put", rule=4, max_requests=5)
def _429(_make: Callable[[], Data]) -> ResponseReturnValue:
    """Too many requests.

    A shop must wait for Retry-After, or keep the order and tell the customer.

    Early retries prolong the rate limit.
    """
    refusal = {"data": None, "err": 429, "message": "Too many requests, as planned."}
    return jsonify(refusal), 429, {"Retry-After": str(RETRY_AFTER_SECONDS)}


@case("put", rule=1, max_requests=5)
def _500(_make: Callable[[], Data]) -> ResponseReturnValue:
    """Server error.

    A shop must keep the order, retry a few times at most, and tell the customer.

    An order without an invoice can still be paid later, and a storm of retries keeps the gateway down.
    """
    return jsonify(data=None, err=500, message="Server error, as planned."), 500


@case("put", rule=2)
def err(make: Callable[[], Data]) -> ResponseReturnValue:
    """err other than 0.

    A shop must show no payment link from this answer, keep the order, and offer a retry.

    With a wrong link, the customer pays someone else or nobody, and the order can never be confirmed.
    """
    return jsonify(data=_bait_url(make()), err=7)


@case("put", rule=3, payable=True)
def slow(make: Callable[[], Data]) -> ResponseReturnValue:
    """Slow gateway.

    A shop must keep answering other requests, callbacks above all, during the 5 seconds.

    If callbacks wait behind slow requests, the gateway counts them as failed.
    """
    time.sleep(SLOW_SECONDS)
    return jsonify(data=make(), err=0)


@case("put", rule=3)
def drip(make: Callable[[], Data]) -> ResponseReturnValue:
    """One byte per second.

    A shop must limit the time for the whole answer, not for each byte.

    A few such answers occupy every thread of the shop.
    """
    body = json.dumps({"data": make(), "err": 0}).encode()

    def pieces() -> Iterator[bytes]:
        for second in range(DRIP_SECONDS):
            yield body[second : second + 1]
            time.sleep(1)
        raise ClientDisconnected

    return _streamed(pieces(), len(body))


@case("put", rule=4)
def reset(make: Callable[[], Data]) -> ResponseReturnValue:
    """Connection lost in the middle.

    A shop must use nothing of half an answer; a new request is safe.

    The customer sees a server error, and the order may be lost.
    """
    body = json.dumps({"data": make(), "err": 0}).encode()

    def pieces() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        raise ClientDisconnected

    return _streamed(pieces(), len(body))


@case("put", rule=4)
def lost(make: Callable[[], Data]) -> ResponseReturnValue:
    """Answer lost.

    A shop must request a new invoice: nobody has seen the lost one.

    The customer sees a server error, and the order may be lost.
    """
    make()
    g.status = 0

    def close() -> bytes:
        raise ClientDisconnected  # makes waitress close the connection without an answer

    return _streamed(iter(close, b""))


@case("put", rule=2)
def html(make: Callable[[], Data]) -> ResponseReturnValue:
    """HTML instead of JSON.

    A shop must show no payment link from this answer, keep the order, and offer a retry.

    The customer sees a server error, and the order may be lost.
    """
    return f"<!doctype html><title>Maintenance</title><a href='{_bait_url(make())['url']}'>Soon</a>"


@case("put", rule=2)
def missing_field(make: Callable[[], Data]) -> ResponseReturnValue:
    """No secret in the answer.

    A shop must show no payment link from this answer, keep the order, and offer a retry.

    Without the secret, no callback can ever confirm the order.
    """
    data = _bait_url(make())
    del data["secret"]
    return jsonify(data=data, err=0)


@case("put", rule=2)
def wrong_type(make: Callable[[], Data]) -> ResponseReturnValue:
    """Numbers instead of strings.

    A shop must show no payment link from this answer, keep the order, and offer a retry.

    The callback's secret is a string: it would match no order, or the wrong one.
    """
    return jsonify(data=_bait_url(make()) | {"invoiceId": 65448, "secret": 9227}, err=0)


@case("put", rule=2)
def javascript_url(make: Callable[[], Data]) -> ResponseReturnValue:
    """A script as link.

    A shop must show no payment link from this answer, keep the order, and offer a retry.

    A link that runs a script can take over the shop's page.
    """
    return jsonify(data=_bait_url(make() | {"url": "javascript:alert(document.cookie)"}), err=0)


@case("put", rule=0, payable=None)
def markup(make: Callable[[], Data]) -> ResponseReturnValue:
    """Markup in the link.

    A shop must refuse it, or escape it.

    Markup that a page repeats can run a script there.
    """
    data = make()
    g.bait = MARKUP
    return jsonify(data=data | {"url": data["url"] + MARKUP}, err=0)


@case("put", rule=0, payable=True)
def markup_qr(make: Callable[[], Data]) -> ResponseReturnValue:
    """Markup in the QR code.

    A shop must not show that image, but its own QR code or just the link.

    Markup that a page repeats can run a script there.
    """
    g.bait = MARKUP
    return jsonify(data=make() | {"QR": f"data:image/png;base64,{MARKUP}"}, err=0)


@case("put", rule=2)
def foreign_host(make: Callable[[], Data]) -> ResponseReturnValue:
    """A link to another host.

    A shop must show no payment link from this answer, keep the order, and offer a retry.

    With a wrong link, the customer pays someone else or nobody, and the order can never be confirmed.
    """
    data = make()
    return jsonify(
        data=_bait_url(
            data | {"url": f"{current_app.config['PUBLIC_URL']}@pay.example.net/en/invoice/{data['invoiceId']}"}
        ),
        err=0,
    )


@case("put", rule=2, payable=True)
def svg_qr(make: Callable[[], Data]) -> ResponseReturnValue:
    """An SVG as QR code.

    A shop must not show that image, but its own QR code or just the link.

    An SVG can contain a script.
    """
    g.bait = SVG
    return jsonify(data=make() | {"QR": SVG}, err=0)


@case("put", rule=0, payable=True)
def remote_qr(make: Callable[[], Data]) -> ResponseReturnValue:
    """A web address as QR code.

    A shop must not show that image, but its own QR code or just the link.

    Whoever runs that host sees the shop's customers, and can show them another code.
    """
    g.bait = "https://pay.example.net/qr.png"
    return jsonify(data=make() | {"QR": g.bait}, err=0)


@case("put", rule=2, payable=True)
def no_qr(make: Callable[[], Data]) -> ResponseReturnValue:
    """No QR code.

    A shop must let the customer pay by the link.

    The QR code is optional: the link is enough to pay.
    """
    data = make()
    del data["QR"]
    return jsonify(data=data, err=0)


@case("put", rule=5)
def secret_in_url(make: Callable[[], Data]) -> ResponseReturnValue:
    """The secret in the link.

    A shop must not show it: whoever reads it could confirm the order.

    The customer could confirm the order without paying.
    """
    data = make()
    g.bait = data["secret"]
    return jsonify(data=data | {"url": f"{data['url']}?secret={data['secret']}"}, err=0)


@case("put", rule=2)
def repeated_id(make: Callable[[], Data]) -> ResponseReturnValue:
    """A used id and secret.

    A shop must show no payment link from this answer, keep the order, and offer a retry; a payment must not count
    for two orders.

    One payment would count for two orders.
    """
    # The newest paid one, or the newest of all.
    newest = partial(web.store().invoices, before=2**63 - 1, limit=1)
    earlier = newest(only_paid=True) or newest()
    data = make()
    if earlier:
        data |= {"invoiceId": earlier[0].id, "secret": earlier[0].secret}
        data["url"] = data["url"].rpartition("/")[0] + f"/{earlier[0].id}"
        g.bait = data["url"]
    return jsonify(data=data, err=0)


@case("put", rule=3)
def redirect(_make: Callable[[], Data]) -> ResponseReturnValue:
    """A redirect.

    A shop must not follow it: the API key would be sent along.

    The API key would be sent wherever the redirect leads.
    """
    # 307 repeats the PUT with its body. The repeat gets a good invoice, and is logged as "redirect followed".
    return "", 307, {"Location": f"{request.base_url}?followed"}


@case("put", rule=3)
def huge(make: Callable[[], Data]) -> ResponseReturnValue:
    """An answer of 16 MiB.

    A shop must stop reading, show no payment link from this answer, keep the order, and offer a retry.

    A few of these at once exhaust the shop's memory.
    """
    head = json.dumps({"data": _bait_url(make()), "err": 0}).encode()
    return _streamed(iter([head, *[PIECE] * (HUGE_BYTES // len(PIECE))]), len(head) + HUGE_BYTES)


@case("put", rule=3)
def bomb(make: Callable[[], Data]) -> ResponseReturnValue:
    """A gzip bomb of 64 MiB.

    A shop must stop decompressing, show no payment link from this answer, keep the order, and offer a retry.

    A few of these at once exhaust the shop's memory.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: gzip format
    pieces = [packer.compress(json.dumps({"data": _bait_url(make()), "err": 0}).encode())]
    pieces += [packer.compress(PIECE) for _ in range(BOMB_BYTES // len(PIECE))]
    body = b"".join([*pieces, packer.flush()])
    return Response(body, mimetype="application/json", headers={"Content-Encoding": "gzip"})


@case("put", rule=8)
def early(make: Callable[[], Data]) -> ResponseReturnValue:
    """Callback before the answer.

    A shop must refuse a secret it doesn't know yet, and accept the retry.

    A callback can overtake the answer. A 200 to an unknown secret ends the retries: money is lost.
    """
    data = make()
    web.store().pay(data["invoiceId"], tell_after=LEASE.total_seconds(), trouble="early")
    callbacks.send_now(data["invoiceId"])
    return jsonify(data=data, err=0)


def _bait_url(data: Data) -> Data:
    g.bait = data["url"]
    return data


def _streamed(pieces: Iterator[bytes], length: int | None = None) -> Response:
    response = Response(pieces, mimetype="application/json")
    if length is not None:
        response.content_length = length
    return response
