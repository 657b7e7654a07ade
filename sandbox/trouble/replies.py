"""Faulty answers to a request for an invoice."""

import base64
import json
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flask import Response, abort, g, jsonify, request
from flask.typing import ResponseReturnValue
from waitress.channel import ClientDisconnected
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from sandbox import web
from sandbox.store import LEASE
from sandbox.trouble import callbacks

SLOW_SECONDS = 5
DRIP_SECONDS = 30
RETRY_AFTER_SECONDS = 2
HUGE_BYTES = 16 * 1024 * 1024
BOMB_BYTES = 64 * 1024 * 1024
PIECE = b" " * 64 * 1024
SVG = "data:image/svg+xml;base64," + base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg"/>').decode()

Data = dict[str, Any]


def reply(name: str, make: Callable[[], Data]) -> ResponseReturnValue:
    """Answer a `PUT` with the fault case `name`.

    `make` creates the invoice and returns the reply's `data`. Afterwards, `g.bait` is text in the answer that the
    shop's pages must not show.
    """
    return _REPLIES[name](make)


def _refuse(_make: Callable[[], Data]) -> ResponseReturnValue:
    abort(422, "Refused, as planned.")


def _401(_make: Callable[[], Data]) -> ResponseReturnValue:
    raise Unauthorized("The API key is rejected, as planned.", www_authenticate=WWWAuthenticate("bearer"))


def _429(_make: Callable[[], Data]) -> ResponseReturnValue:
    refusal = {"data": None, "err": 429, "message": "Too many requests, as planned."}
    return jsonify(refusal), 429, {"Retry-After": str(RETRY_AFTER_SECONDS)}


def _500(_make: Callable[[], Data]) -> ResponseReturnValue:
    return jsonify(data=None, err=500, message="Server error, as planned."), 500


def _err(make: Callable[[], Data]) -> ResponseReturnValue:
    return jsonify(data=_bait_url(make()), err=7)


def _slow(make: Callable[[], Data]) -> ResponseReturnValue:
    time.sleep(SLOW_SECONDS)
    return jsonify(data=make(), err=0)


def _drip(make: Callable[[], Data]) -> ResponseReturnValue:
    body = json.dumps({"data": make(), "err": 0}).encode()

    def pieces() -> Iterator[bytes]:
        for second in range(DRIP_SECONDS):
            yield body[second : second + 1]
            time.sleep(1)
        raise ClientDisconnected

    return _streamed(pieces(), len(body))


def _reset(make: Callable[[], Data]) -> ResponseReturnValue:
    body = json.dumps({"data": make(), "err": 0}).encode()

    def pieces() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        raise ClientDisconnected

    return _streamed(pieces(), len(body))


def _lost(make: Callable[[], Data]) -> ResponseReturnValue:
    make()
    g.status = 0

    def close() -> bytes:
        raise ClientDisconnected  # makes waitress close the connection without an answer

    return _streamed(iter(close, b""))


def _html(make: Callable[[], Data]) -> ResponseReturnValue:
    return f"<!doctype html><title>Maintenance</title><a href='{_bait_url(make())['url']}'>Soon</a>"


def _missing_field(make: Callable[[], Data]) -> ResponseReturnValue:
    data = _bait_url(make())
    del data["secret"]
    return jsonify(data=data, err=0)


def _wrong_type(make: Callable[[], Data]) -> ResponseReturnValue:
    return jsonify(data=_bait_url(make()) | {"invoiceId": 65448, "secret": 9227}, err=0)


def _javascript_url(make: Callable[[], Data]) -> ResponseReturnValue:
    return jsonify(data=_bait_url(make() | {"url": "javascript:alert(document.cookie)"}), err=0)


def _foreign_host(make: Callable[[], Data]) -> ResponseReturnValue:
    data = make()
    return jsonify(data=_bait_url(data | {"url": f"https://pay.example.net/en/invoice/{data['invoiceId']}"}), err=0)


def _svg_qr(make: Callable[[], Data]) -> ResponseReturnValue:
    g.bait = SVG
    return jsonify(data=make() | {"QR": SVG}, err=0)


def _no_qr(make: Callable[[], Data]) -> ResponseReturnValue:
    data = make()
    del data["QR"]
    return jsonify(data=data, err=0)


def _secret_in_url(make: Callable[[], Data]) -> ResponseReturnValue:
    data = make()
    g.bait = data["secret"]
    return jsonify(data=data | {"url": f"{data['url']}?secret={data['secret']}"}, err=0)


def _repeated_id(make: Callable[[], Data]) -> ResponseReturnValue:
    """Answer with an earlier invoice: the newest paid one, or the newest of all."""
    newest = partial(web.store().invoices, before=2**63 - 1, limit=1)
    earlier = newest(only_paid=True) or newest()
    data = make()
    if earlier:
        data |= {"invoiceId": earlier[0].id, "secret": earlier[0].secret}
        data["url"] = data["url"].rpartition("/")[0] + f"/{earlier[0].id}"
        g.bait = data["url"]
    return jsonify(data=data, err=0)


def _redirect(_make: Callable[[], Data]) -> ResponseReturnValue:
    # 307 repeats the PUT with its body. The repeat gets a good invoice, and is logged as "redirect followed".
    return "", 307, {"Location": f"{request.base_url}?followed"}


def _huge(make: Callable[[], Data]) -> ResponseReturnValue:
    head = json.dumps({"data": _bait_url(make()), "err": 0}).encode()
    return _streamed(iter([head, *[PIECE] * (HUGE_BYTES // len(PIECE))]), len(head) + HUGE_BYTES)


def _bomb(make: Callable[[], Data]) -> ResponseReturnValue:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: gzip format
    pieces = [packer.compress(json.dumps({"data": _bait_url(make()), "err": 0}).encode())]
    pieces += [packer.compress(PIECE) for _ in range(BOMB_BYTES // len(PIECE))]
    body = b"".join([*pieces, packer.flush()])
    return Response(body, mimetype="application/json", headers={"Content-Encoding": "gzip"})


def _early(make: Callable[[], Data]) -> ResponseReturnValue:
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


_REPLIES: dict[str, Callable[[Callable[[], Data]], ResponseReturnValue]] = {
    "refuse": _refuse,
    "401": _401,
    "429": _429,
    "500": _500,
    "err": _err,
    "slow": _slow,
    "drip": _drip,
    "reset": _reset,
    "lost": _lost,
    "html": _html,
    "missing-field": _missing_field,
    "wrong-type": _wrong_type,
    "javascript-url": _javascript_url,
    "foreign-host": _foreign_host,
    "svg-qr": _svg_qr,
    "no-qr": _no_qr,
    "secret-in-url": _secret_in_url,
    "repeated-id": _repeated_id,
    "redirect": _redirect,
    "huge": _huge,
    "bomb": _bomb,
    "early": _early,
}
