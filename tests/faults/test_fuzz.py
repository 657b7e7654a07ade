"""Anything may arrive: random callbacks, and random replies of the gateway.

A callback is answered by the table and pays only with an invoice's secret; a reply is an invoice or an `AmwalError`, in
time. `CALLBACKS=100000` and `REPLIES=20000` make the long run, `SEED=…` another one.
"""

import base64
import gzip
import json
import logging
import os
import re
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

import amwal
from models import CallbackAttempt, Order, Payment, Product
from shop import orders
from shop.db import db
from shop.limits import MissLimiter
from shop.ops import audit
from shop.payments import draw_qr
from shop.states import CUSTOMER, OrderState
from tests.conftest import OrderFactory, rows

pytestmark = pytest.mark.slow
CALLBACKS = int(os.environ.get("CALLBACKS", "400"))
REPLIES = int(os.environ.get("REPLIES", "300"))
SEED = int(os.environ.get("SEED", "1"))
URL = "/amwal/callback"


def often(examples: int) -> settings:
    """Settings of a run of so many examples."""
    return settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def count_in_long_runs(examples: int, what: str) -> None:
    """Say how many there were."""
    print(f"{examples} {what}, SEED={SEED}")


# --- Bytes that are almost right -------------------------------------------------------------------------------------

SCRAPS = st.sampled_from(
    [
        *(b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"-0", b"null", b"true", b"{}", b"[]", b'""', b'{"$ne": null}'),
        *(
            b"\\ud800",
            b"\\u0000",
            b"\x00",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"\xc0\x80",
            b"\\",
            b'"',
            b",",
            b":",
            b"}",
            b"{",
        ),
        *(b"\r\n", b"\r\n\r\n", b"\t", "\u202e٣سر".encode(), b"[" * 2000, b'{"a":' * 900, b" " * 8000, b"x" * 70_000),
        *(b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"; a=b"),
        *(
            b"https://evil.example/",
            b"javascript:alert(1)",
            b"//",
            b"@evil.example",
            b"\\\\evil.example",
            b"%0d%0a",
            b"<",
        ),
    ]
)
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["cut", "drop", "twice", "flip", "insert", "replace"]),
        st.floats(0, 1),
        st.integers(1, 40),
        SCRAPS | st.binary(max_size=8),
    ),
    max_size=4,
)


def mutate(body: bytes, mutations: list[tuple[str, float, int, bytes]]) -> bytes:
    """Damage something here and there."""
    for what, where, length, scrap in mutations:
        at = int(where * len(body))
        head, middle, tail = body[:at], body[at : at + length], body[at + length :]
        body = {
            "cut": head,
            "drop": head + tail,
            "twice": head + middle + middle + tail,
            "flip": head + bytes(byte ^ 1 << length % 8 for byte in middle[:1]) + middle[1:] + tail,
            "insert": head + scrap + middle + tail,
            "replace": head + scrap + tail,
        }[what]
    return body


# --- Callbacks -------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    """A request to the callback's address."""

    body: bytes
    method: str = "POST"
    path: str = URL
    headers: list[tuple[str, str]] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=30)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Content-Type", "Origin", "Cookie", "X-Forwarded-For", "Accept-Language", "Expect", "Range"]),
        PRINTABLE
        | st.sampled_from(["application/json", "multipart/form-data; boundary=x", "text/plain; charset=utf-7"]),
    )
    | st.tuples(st.just("Host"), st.sampled_from(["evil.example", "", "127.0.0.1:9@evil.example", "127.0.0.1:9."])),
    max_size=3,
    unique_by=lambda pair: pair[0],
)
METHODS = st.sampled_from(["POST"] * 12 + ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO", "post"])
PATHS = st.sampled_from([URL] * 12 + [URL + "/"] * 3 + [URL + "/x", URL.upper(), URL + "?secret=%00"])
ENVIRONS = st.sampled_from(
    [{}] * 12 + [{"CONTENT_LENGTH": text} for text in ("", "-1", "abc", "5", "99999999999", "1e3")]
)


def bodies(known: list[dict[str, str]]) -> st.SearchStrategy[bytes]:
    """Bodies that have to do with these good messages, or nothing."""
    good = st.sampled_from(known)
    parts = st.sampled_from([text for message in known for text in message.values()])
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | parts,
        lambda kids: st.lists(kids, max_size=4) | st.dictionaries(st.text(max_size=4), kids, max_size=4),
        max_leaves=8,
    )
    keys = st.sampled_from(["secret", "invoiceId", "paymentSessionId", "Secret", "amount", "", "secret\x00"])
    shapes = st.dictionaries(keys, values, max_size=5) | values
    changed = st.builds(lambda message, more: message | more, good, st.dictionaries(keys, values, max_size=2))
    forged = st.builds(lambda message, secret: message | {"secret": secret}, good, st.uuids().map(str) | st.text())
    dumped = st.builds(
        lambda value, ascii_, code: json.dumps(value, ensure_ascii=ascii_).encode(code, "surrogatepass"),
        changed | forged | shapes,
        st.booleans(),
        st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-32"]),
    )
    sound = good.map(lambda message: json.dumps(message).encode())
    at_the_limit = st.builds(
        lambda message, size: json.dumps(message | {"x": ""}).encode()[:-2].ljust(size - 2, b"x") + b'"}',
        good,
        st.integers(amwal.CALLBACK_LIMIT - 2, amwal.CALLBACK_LIMIT + 2),
    )
    return st.one_of(
        sound, st.builds(mutate, sound, MUTATIONS), dumped, st.builds(mutate, dumped, MUTATIONS), at_the_limit,
        st.binary(max_size=200),
    )  # fmt: skip


def what_it_says(body: bytes) -> dict[str, Any]:
    """What any reader of JSON would make of a body, if it makes an object of it."""
    with suppress(ValueError, RecursionError):
        value = json.loads(body.decode())
        return value if isinstance(value, dict) else {}
    return {}


def expected(request: Request, known: list[dict[str, str]]) -> set[int]:
    """The statuses that a request may be answered with."""
    if any(name == "Host" for name, _ in request.headers):
        return {400}
    if request.path not in (URL, URL + "/"):
        return {400, 404, 405, 413}
    if request.method.upper() != "POST":
        return {200} if request.method == "OPTIONS" else {405}
    if "CONTENT_LENGTH" in request.environ:
        return {200, 400, 404, 409, 413, 429}
    return expected_of(request.body, known)


def expected_of(body: bytes, known: list[dict[str, str]]) -> set[int]:
    """The statuses that a body may be answered with that arrived whole."""
    message = what_it_says(body)
    secret, named = message.get("secret"), message.get("invoiceId")
    own = next((one["invoiceId"] for one in known if one["secret"] == secret), None)
    if len(body) > amwal.CALLBACK_LIMIT:
        return {413, 429}
    if message in known and json.dumps(message).encode() == body:
        return {200}
    if own is None:
        return {400, 404, 429}
    # With a right secret it is taken, unless one of JSON's traps is in it, or it clearly names another invoice.
    return {200, 400, 429} | ({409} if isinstance(named, str | int) and str(named) != own else set())


class Canary(logging.Handler):
    """Notes errors that are logged, and secrets that are, at whatever level."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        self.secrets = secrets
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR or any(secret in text for secret in self.secrets):
            self.found.append(text)


@pytest.fixture
def canary() -> Iterator[Canary]:
    """Listens to all loggers."""
    handler, root = Canary([]), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.sqlite
@pytest.mark.parametrize("limited", [False, True], ids=["all recorded", "misses limited"])
def test_whatever_is_sent_is_answered_by_the_table_and_pays_only_with_the_secret(
    app: Flask, order: OrderFactory, canary: Canary, limited: bool
) -> None:
    pool: Any = db.engines["write"].pool
    event.listen(pool, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))  # there is no power to lose
    pool.dispose()
    app.extensions["miss_limiter"] = MissLimiter() if limited else MissLimiter(limit=10**6)
    waiting = [order.awaiting(quantity=number) for number in (1, 2, 3)]
    paid, cancelled = order.awaiting(), order.awaiting("brass-dallah")
    order.pay(paid)
    orders.cancel(cancelled.id, CUSTOMER)
    ours = [*waiting, paid, cancelled]
    known = [order.callback(one) for one in ours]
    canary.secrets = [message["secret"] for message in known]
    order_of = {message["secret"]: one.id for message, one in zip(known, ours, strict=True)}
    stock = {one.slug: one.stock for one in rows(Product)}
    may_be_paid, answers = {paid.id}, Counter[int]()
    client = app.test_client()

    @hypothesis.seed(SEED)
    @often(CALLBACKS // 2)
    @given(st.builds(Request, bodies(known), METHODS, PATHS, HEADERS, ENVIRONS))
    def send(request: Request) -> None:
        response = app.test_client().open(
            request.path,
            method=request.method,
            data=request.body,
            headers=request.headers,
            environ_overrides=request.environ,
        )
        answers[response.status_code] += 1
        assert response.status_code in expected(request, known)
        shown = response.get_data()
        assert b"Traceback" not in shown
        assert not any(secret.encode() in shown for secret in canary.secrets)
        if response.status_code == 200 and request.method != "OPTIONS":
            may_be_paid.add(order_of[what_it_says(request.body)["secret"]])

    send()
    count_in_long_runs(CALLBACKS // 2, f"callbacks: {dict(sorted(answers.items()))}")
    assert set(answers) <= {200, 400, 404, 405, 409, 413, 429}
    assert not canary.found
    assert {payment.order_id for payment in rows(Payment)} <= may_be_paid
    assert {one.id for one in rows(Order, state=OrderState.PAID)} <= may_be_paid - {cancelled.id}
    assert {one.slug: one.stock for one in rows(Product)} == stock
    assert not audit.violations()
    kept = " ".join(attempt.body + attempt.reason for attempt in rows(CallbackAttempt))
    assert not any(secret in kept for secret in canary.secrets)
    assert client.post(URL, json=known[0]).status_code == 200, "a good one is still taken"


# --- Replies ---------------------------------------------------------------------------------------------------------

ORIGINS = frozenset({"https://amwal.exchange", "http://127.0.0.1:8001"})
PNG = draw_qr("https://amwal.exchange/en/invoice/65448ddef4924a5dd1b241a9")
SECRET = "0927f7cc-98a7-4b67-a8b5-254fe46227dd"
DATA = {
    "invoiceId": "65448ddef4924a5dd1b241a9",
    "url": "https://amwal.exchange/en/invoice/65448ddef4924a5dd1b241a9",
    "QR": "data:image/png;base64," + base64.b64encode(PNG).decode(),
    "secret": SECRET,
}
URLS = st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            [
                *(
                    "https:",
                    "http:",
                    "HTTPS:",
                    "javascript:",
                    "data:",
                    "//",
                    "/",
                    "\\",
                    "///",
                    "@",
                    ":443",
                    ":8001",
                    ":",
                    ".",
                ),
                *(
                    "amwal.exchange",
                    "AMWAL.exchange",
                    "127.0.0.1",
                    "evil.example",
                    "amwal.exchange.evil.example",
                    "[::1]",
                ),
                *(
                    "/en/invoice/1",
                    "?a=b",
                    "#x",
                    " ",
                    "\t",
                    "\n",
                    "\x00",
                    "%00",
                    "%2f",
                    "<b>",
                    "'",
                    SECRET,
                    "٣",
                    "ａ",
                    "。",
                ),
            ]
        ),
        max_size=7,
    ),
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | URLS,
    lambda kids: st.lists(kids, max_size=3) | st.dictionaries(st.text(max_size=4), kids, max_size=3),
    max_leaves=5,
)
CHANGES = st.dictionaries(
    st.sampled_from([*DATA, "status"]), JUNK | st.binary(max_size=90).map(lambda b: b.hex()), max_size=2
)
PICTURES = st.builds(mutate, st.just(PNG), MUTATIONS).map(lambda picture: base64.b64encode(picture).decode())
REPLY = st.builds(
    lambda changes, err, more: json.dumps({"data": DATA | changes, "err": err} | more).encode("utf-8", "surrogatepass"),
    CHANGES | URLS.map(lambda url: {"url": url}) | PICTURES.map(lambda picture: {"QR": picture}),
    st.just(0) | st.just(0) | st.just(0) | JUNK,
    st.just({}) | st.just({}) | st.dictionaries(st.sampled_from(["data", "x"]), JUNK, max_size=1),
)
CONTENTS = st.one_of(
    REPLY, st.builds(mutate, REPLY, MUTATIONS), JUNK.map(lambda v: json.dumps(v).encode()), st.binary()
)


def assert_fit_to_show(invoice: amwal.Invoice) -> None:
    """Nothing of an invoice may lead elsewhere, tell the secret, or break a page."""
    parts = urlsplit(invoice.url)
    assert f"{parts.scheme}://{parts.netloc}" in ORIGINS
    assert invoice.url.startswith(tuple(ORIGINS))
    assert re.fullmatch(r"[!#-&(-;=?-\[\]^_a-~]+", invoice.url), "a blank, a quote, an angle bracket or a backslash"
    assert invoice.secret not in invoice.url
    for text in (invoice.id, invoice.secret):
        assert text.isascii()
        assert text.isprintable()
        assert 0 < len(text) <= 200
    assert invoice.qr is None or (invoice.qr.startswith(b"\x89PNG") and len(invoice.qr) <= amwal.QR_LIMIT)


def judge(ask_for: Callable[[], amwal.Invoice], answers: Counter[str]) -> amwal.Invoice | None:
    """Count what came of it; nothing but an invoice that may be shown, or an error that tells no secret, will do."""
    try:
        came: amwal.Invoice | amwal.AmwalError = ask_for()
    except amwal.AmwalError as error:
        came = error
    answers[type(came).__name__] += 1
    if isinstance(came, amwal.AmwalError):
        assert SECRET not in str(came)
        return None
    assert_fit_to_show(came)
    return came


def test_whatever_is_replied_is_an_invoice_that_may_be_shown_or_an_error() -> None:
    answers = Counter[str]()

    @hypothesis.seed(SEED)
    @often(REPLIES)
    @given(CONTENTS)
    def read(content: bytes) -> None:
        judge(lambda: amwal.parse_invoice(content, ORIGINS), answers)

    read()
    count_in_long_runs(REPLIES, f"replies read: {dict(answers)}")
    assert set(answers) == {"Invoice", "BadReply", "Refused"}


# --- Replies over the wire -------------------------------------------------------------------------------------------

DEADLINE = 0.4
"""Seconds, in place of the client's six."""
SLACK = 2.0
"""Seconds by which a busy machine may be late."""


@dataclass(frozen=True)
class Reply:
    """What a gateway sends, and what it does with the connection then."""

    content: bytes
    end: str
    """`close`, `reset`, `keep` it for the next request, or `hang`."""
    pieces: int = 1


class Wire:
    """A gateway made of a socket. It sends what it is told to, whatever it is asked."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/projects/1"
        self.reply = Reply(b"", "close")
        self.sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            while self._hear(connection):
                reply = self.reply
                size = max(1, -(-len(reply.content) // reply.pieces))
                for start in range(0, len(reply.content), size):
                    connection.sendall(reply.content[start : start + size])
                    self.sent += size
                if reply.end == "hang":
                    connection.recv(1)  # until the client has had enough
                if reply.end == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if reply.end != "keep":
                    return

    def _hear(self, connection: socket.socket) -> bool:
        """Read a request; False if there is none any more."""
        heard = b""
        while True:
            chunk = connection.recv(65536)
            if not chunk:
                return False
            heard += chunk
            head, _, body = heard.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            if length and len(body) >= int(length[1]):
                return True


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A gateway made of a socket."""
    made = Wire()
    yield made
    made.close()


OK = [b"HTTP/1.1 200 OK"] * 14 + [b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1  200  OK"]
ODD = [100, 101, 103, 201, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 422, 429, 500, 503, 0, 999]
VERSIONS = st.sampled_from([b"1.1", b"1.0", b"0.9", b"2", b"9.9", b"x"])
STATUSES = st.one_of(
    st.sampled_from(OK),
    st.builds(lambda version, code: b"HTTP/%s %d Whatever" % (version, code), VERSIONS, st.sampled_from(ODD)),
    st.binary(max_size=12),
)
LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    b"Content-Encoding: gzip",
                    b"Content-Encoding: br",
                    b"Content-Encoding: zstd",
                    b"Content-Encoding: x, gzip",
                ),
                *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x"),
                *(
                    b"Connection: close",
                    b"Connection: keep-alive",
                    b"Location: /elsewhere",
                    b"Location: http://[",
                    b"Location: \xff",
                ),
                *(
                    b"Location: https://evil.example/",
                    b"Retry-After: 0",
                    b"Retry-After: -1",
                    b"Retry-After: inf",
                    b"Retry-After: 1e9",
                ),
                *(
                    b"Set-Cookie: a=b; Domain=.; Max-Age=x",
                    b"Content-Type: text/html; charset=x",
                    b"no colon",
                    b": empty",
                    b" folded",
                ),
                *(b"X: " + b"y" * 70_000, b"Upgrade: h2c", b"\r", b"\x00: \x00"),
            ]
        ),
        st.builds(
            lambda size: b"Content-Length: %s" % size,
            st.sampled_from([b"0", b"5", b"-1", b"x", b"99999", b"5, 6", b"1e3"]),
        ),
        st.binary(max_size=20),
    ),
    max_size=3,
)
FRAMES = st.sampled_from(
    ["length"] * 5 + ["chunked"] * 3 + ["none", "both", "gzip", "deflate", "short", "long", "unfinished"]
)


def framed(status: bytes, lines: list[bytes], body: bytes, frame: str) -> bytes:
    """A reply as HTTP has it, or nearly so."""
    head = [status, *lines]
    if frame in ("gzip", "deflate"):
        body = gzip.compress(body) if frame == "gzip" else zlib.compress(body)
        head.append(b"Content-Encoding: " + frame.encode())
    if frame in ("chunked", "both", "unfinished"):
        head.append(b"Transfer-Encoding: chunked")
    if frame not in ("chunked", "none", "unfinished"):
        head.append(b"Content-Length: %d" % (len(body) + {"short": -7, "long": 7}.get(frame, 0)))
    if frame in ("chunked", "unfinished"):
        end = b"0\r\n\r\n" if frame == "chunked" else b""
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:]) if part) + end
    return b"\r\n".join([*head, b"", body])


RAW = st.builds(framed, STATUSES, LINES, CONTENTS, FRAMES)
SOUND = st.builds(
    framed, st.just(b"HTTP/1.1 200 OK"), st.just([]), REPLY, st.sampled_from(["length", "chunked", "gzip", "short"])
)
ENDS = st.sampled_from(["close"] * 12 + ["keep"] * 12 + ["reset"] * 4 + ["hang"])
SENT = st.builds(Reply, SOUND | RAW | st.builds(mutate, SOUND | RAW, MUTATIONS), ENDS, st.integers(1, 4))


def ask(client: amwal.Client) -> amwal.Invoice:
    """Ask for an invoice."""
    urls = {"success_url": "https://shop.example/s", "cancel_url": "https://shop.example/c"}
    return client.create_invoice(amount=Decimal("47.20"), header="Order A-1042", description="1 × قهوة", **urls)


REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: %s\r\n"
TORN = b"Content-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n" + gzip.compress(b"x" * 5000)


def test_a_redirects_body_is_not_read_beyond_the_limit(wire: Wire) -> None:
    size = 64 * 1024 * 1024
    head = REDIRECT % b"/elsewhere" + b"Content-Length: %d\r\n\r\n" % size
    wire.reply = Reply(head + bytes(size), "close", pieces=64)
    with pytest.raises(amwal.Refused, match="redirect"):
        ask(amwal.Client(wire.url, "the-key", ORIGINS))
    assert wire.sent < size // 4, "what the system buffers on the way is a few megabytes"


@pytest.mark.parametrize(
    "content",
    [REDIRECT % b"/" + TORN, REDIRECT % b"http://[" + b"Content-Length: 0\r\n\r\n"],
    ids=["its body breaks off", "its Location is no address"],
)
def test_a_redirect_is_refused_whatever_comes_with_it(wire: Wire, content: bytes) -> None:
    wire.reply = Reply(content, "close")
    with pytest.raises(amwal.Refused, match="redirect"):
        ask(amwal.Client(wire.url, "the-key", ORIGINS))


def test_whatever_comes_over_the_wire_is_an_invoice_or_an_error_in_time(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amwal, "DEADLINE", DEADLINE)
    client = amwal.Client(wire.url, "the-key", ORIGINS)
    answers, slowest, earlier = Counter[str](), 0.0, set[str]()

    @hypothesis.seed(SEED)
    @often(REPLIES)
    @given(SENT)
    def exchange(reply: Reply) -> None:
        nonlocal slowest
        own = f"{len(earlier):024x}"
        wire.reply = replace(reply, content=reply.content.replace(str(DATA["invoiceId"]).encode(), own.encode()))
        started = time.monotonic()
        invoice = judge(lambda: ask(client), answers)
        assert invoice is None or invoice.id not in earlier, "the answer to an earlier request"
        earlier.add(own)
        slowest = max(slowest, time.monotonic() - started)
        assert slowest < DEADLINE + SLACK

    exchange()
    count_in_long_runs(REPLIES, f"replies over the wire: {dict(answers)}; the slowest took {slowest:.2f} s")
    assert {"Invoice", "BadReply", "Unavailable"} <= set(answers)
