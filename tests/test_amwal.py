"""The gateway's client: what it sends, what it takes for an invoice, and how long it waits."""

import base64
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import amwal
from shop.payments import draw_qr
from tests import vectors
from tests.children import ROOT

ORIGINS = {"https://amwal.exchange"}
PNG = draw_qr("https://amwal.exchange/en/invoice/65448ddef4924a5dd1b241a9")
DATA = {
    "invoiceId": "65448ddef4924a5dd1b241a9",
    "url": "https://amwal.exchange/en/invoice/65448ddef4924a5dd1b241a9",
    "QR": "data:image/png;base64," + base64.b64encode(PNG).decode(),
    "secret": "0927f7cc-98a7-4b67-a8b5-254fe46227dd",
    "status": 1,
}


def reply(err: object = 0, **changes: object) -> bytes:
    """A reply of the gateway, changed; `None` leaves a field out."""
    data = {name: value for name, value in (DATA | changes).items() if value is not None}
    return json.dumps({"data": data, "err": err}).encode()


# --- Reading replies -------------------------------------------------------------------------------------------------

REPLIES = vectors.read("replies.json")
SECRET = REPLIES["secret"]
FAULTS = {
    "reply": "JSON|larger",
    "err": "refused the invoice",
    "data": "`data` is",
    "invoiceId": "`invoiceId` is",
    "url": "`url` (is|leads)",
    "secret": "`secret` is|contains the secret",
}
"""What the client says where a vector has its fault."""


@vectors.each("replies.json")
def test_rows_28_to_31_every_reply_of_the_vectors(bad_gateway: "Gateway", vector: dict[str, Any]) -> None:
    bad_gateway.behaviours = [answer("200 OK", vectors.body(vector))]
    client = amwal.Client(bad_gateway.url, "the-key", REPLIES["paymentOrigins"])
    if vector["shown"]:
        invoice = ask(client)
        assert {"invoiceId": invoice.id, "url": invoice.url} == vector["shown"]
        assert invoice.secret == SECRET
        assert (invoice.qr is not None) == vector["qr"]
        return
    with pytest.raises(amwal.AmwalError, match=FAULTS[vector["at"]]) as caught:
        ask(client)
    assert type(caught.value) is (amwal.Refused if vector["at"] == "err" else amwal.BadReply)
    assert SECRET not in str(caught.value).lower()


@pytest.mark.parametrize("err", ["bad key the-key", ["the-key"], {"key": "the-key"}])
def test_row_53_what_err_says_is_not_repeated(err: object) -> None:
    with pytest.raises(amwal.Refused) as caught:
        amwal.parse_invoice(reply(err), ORIGINS)
    assert "the-key" not in str(caught.value)


def in_base64(secret: bytes, before: bytes = b"") -> str:
    return base64.urlsafe_b64encode(before + secret + b"; and more").decode()


BARE = SECRET.replace("-", "")
DISGUISED = [
    BARE.upper(),
    SECRET.replace("-", "--"),
    quote(quote("%" + SECRET.encode().hex("%"))),
    "".join(f"%25{ord(c):02X}" for c in SECRET),
    quote(base64.b64encode(SECRET.encode()).decode(), safe=""),
    base64.urlsafe_b64encode(bytes.fromhex(BARE)).decode().rstrip("="),
    in_base64(SECRET.encode(), b"1"),
    in_base64(SECRET.encode(), b"id"),
    in_base64(BARE.encode(), b"session"),
    in_base64(bytes.fromhex(BARE), bytes(7)),
]


@pytest.mark.parametrize("disguised", DISGUISED)
@pytest.mark.parametrize("place", ["url", "invoiceId"])
def test_row_107_a_disguised_secret_is_a_bad_reply_too(disguised: str, place: str) -> None:
    value = f"{DATA['url']}?s={disguised}" if place == "url" else disguised
    with pytest.raises(amwal.BadReply, match=r"contains the secret|no plain text") as caught:
        amwal.parse_invoice(reply(**{place: value}), ORIGINS)
    assert disguised not in str(caught.value)


def test_row_107_a_common_beginning_is_no_secret() -> None:
    shared = f"{DATA['url']}/{SECRET[:20]}"
    assert amwal.parse_invoice(reply(url=shared), ORIGINS).url == shared


def test_the_secret_shows_in_no_representation() -> None:
    assert str(DATA["secret"]) not in repr(amwal.parse_invoice(reply(), ORIGINS))
    callback = amwal.parse_callback(json.dumps({"secret": DATA["secret"]}).encode())
    assert str(DATA["secret"]) not in repr(callback)


# --- Reading callbacks -----------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.text() | st.floats() | st.integers(),
        lambda kids: st.lists(kids) | st.dictionaries(st.sampled_from(["secret", "invoiceId", "x"]), kids),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_arrives_is_a_callback_or_a_bad_callback(body: bytes) -> None:
    try:
        callback = amwal.parse_callback(body)
    except amwal.BadCallback:
        return
    assert callback.secret.isascii()
    assert len(callback.invoice_id) <= 200
    assert "\x00" not in callback.invoice_id + callback.session_id


# --- Over the wire ---------------------------------------------------------------------------------------------------

Behaviour = Callable[[socket.socket, bytes], None]


class Gateway:
    """A gateway that misbehaves at the level of sockets; `requests` holds what arrived."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []
        self.behaviours: list[Behaviour] = []
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/projects/1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            received = b""
            while b"\r\n\r\n" not in received or not received.rstrip().endswith(b"}"):
                chunk = connection.recv(65536)
                if not chunk:
                    return
                received += chunk
            self.requests.append(received)
            behave = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
            try:
                behave(connection, received)
            except OSError:
                return

    def client(self) -> amwal.Client:
        """A client of this gateway."""
        return amwal.Client(self.url, "the-key", ORIGINS)


def answer(status: str, body: bytes = b"", *headers: str) -> Behaviour:
    """Answer and close."""

    def behave(connection: socket.socket, _: bytes) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return behave


def drip(before: bytes) -> Behaviour:
    """Send a beginning, then a byte each tenth of a second, for longer than anybody should wait."""

    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(before)
        for _second in range(200):
            connection.sendall(b"x")
            time.sleep(0.1)

    return behave


def reset(connection: socket.socket, _: bytes) -> None:
    """Break off in the middle of the reply."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


@pytest.fixture
def bad_gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.listener.shutdown(socket.SHUT_RDWR)
    gateway.listener.close()


def ask(client: amwal.Client, amount: str = "47.20") -> amwal.Invoice:
    """Ask for an invoice."""
    return client.create_invoice(
        amount=Decimal(amount),
        header="Order A-1042",
        description="1 × قهوة",
        success_url="https://shop.example/s",
        cancel_url="https://shop.example/c",
    )


def test_the_put_is_as_documented(bad_gateway: Gateway) -> None:
    bad_gateway.behaviours = [answer("200 OK", reply())]
    invoice = ask(bad_gateway.client())
    assert (invoice.id, invoice.qr) == (DATA["invoiceId"], PNG)
    head, _, body = bad_gateway.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /projects/1 HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer the-key\r\n" in head + b"\r\n"
    assert b"application/json" in head
    assert json.loads(body) == {
        "amount": 47.2,
        "header": "Order A-1042",
        "description": "1 × قهوة",
        "successUrl": "https://shop.example/s",
        "cancelUrl": "https://shop.example/c",
    }


def test_row_109_optional_fields_are_optional_and_an_empty_one_is_an_absent_one(bad_gateway: Gateway) -> None:
    bad_gateway.behaviours = [answer("200 OK", reply())]
    client = amwal.Client(bad_gateway.url, "the-key")
    client.create_invoice(amount=Decimal("5"), header="Order")
    client.create_invoice(amount=Decimal("5"), header="Order", description="", success_url="", cancel_url="")
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in bad_gateway.requests]
    assert bodies == [{"amount": 5, "header": "Order"}] * 2


def test_the_reply_can_be_had_as_it_came(bad_gateway: Gateway) -> None:
    """Tried as often as ever, but not read: what the gateway refused or got wrong comes back byte by byte."""
    odd = b' {"err": 7, "data": "?"}\n'
    bad_gateway.behaviours = [answer("503 Busy"), answer("200 OK", odd)]
    fields = {"header": "h", "description": "d", "success_url": "https://s.example", "cancel_url": "https://c.example"}
    assert bad_gateway.client().put_invoice(amount=Decimal(1), **fields) == odd
    assert len(bad_gateway.requests) == 2


@pytest.mark.parametrize(("body", "error"), [(reply(err=7), amwal.Refused), (b"<html>", amwal.BadReply)])
def test_a_refusal_or_a_bad_reply_is_not_tried_again(
    bad_gateway: Gateway, body: bytes, error: type[amwal.AmwalError]
) -> None:
    bad_gateway.behaviours = [answer("200 OK", body)]
    with pytest.raises(error):
        ask(bad_gateway.client())
    assert len(bad_gateway.requests) == 1


@pytest.mark.parametrize("amount", ["47.20", "0.30000000000000004", "0.1", "5", "1000000000000000000.01", "4.720"])
def test_the_amount_goes_out_exactly(bad_gateway: Gateway, amount: str) -> None:
    bad_gateway.behaviours = [answer("200 OK", reply())]
    ask(bad_gateway.client(), amount)
    assert f'"amount": {amount},'.encode() in bad_gateway.requests[0]


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_a_rejected_key_is_not_tried_again(bad_gateway: Gateway, status: str) -> None:
    bad_gateway.behaviours = [answer(status)]
    with pytest.raises(amwal.KeyRejected):
        ask(bad_gateway.client())
    assert len(bad_gateway.requests) == 1


def test_a_redirect_is_not_followed(bad_gateway: Gateway) -> None:
    bad_gateway.behaviours = [answer("307 Temporary Redirect", b"", f"Location: {bad_gateway.url}")]
    with pytest.raises(amwal.Refused, match="redirect"):
        ask(bad_gateway.client())
    assert len(bad_gateway.requests) == 1


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Internal Server Error", "503 Busy"])
def test_a_gateway_that_is_not_ready_is_tried_twice_more(bad_gateway: Gateway, status: str) -> None:
    bad_gateway.behaviours = [answer(status), answer(status), answer("200 OK", reply())]
    assert ask(bad_gateway.client()).id == DATA["invoiceId"]
    assert len(bad_gateway.requests) == 3


def test_no_more_than_two_retries(bad_gateway: Gateway) -> None:
    bad_gateway.behaviours = [answer("500 Error")]
    with pytest.raises(amwal.Unavailable) as caught:
        ask(bad_gateway.client())
    assert caught.value.retryable
    assert len(bad_gateway.requests) == 3


def test_retry_after_is_kept_to_or_the_try_given_up(bad_gateway: Gateway) -> None:
    bad_gateway.behaviours = [answer("429 Slow down", b"", "Retry-After: 60")]
    started = time.monotonic()
    with pytest.raises(amwal.Unavailable):
        ask(bad_gateway.client())
    assert len(bad_gateway.requests) == 1
    assert time.monotonic() - started < 1


def test_a_reset_in_the_middle_is_tried_again(bad_gateway: Gateway) -> None:
    bad_gateway.behaviours = [reset, answer("200 OK", reply())]
    assert ask(bad_gateway.client()).id == DATA["invoiceId"]


def test_nobody_listening_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(amwal.Unavailable):
        ask(amwal.Client(f"http://127.0.0.1:{port}/projects/1", "the-key", ORIGINS))


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
    ],
    ids=["from the first byte", "in the headers", "in the body", "in a body that ends with the connection", "HTTP/1.0"],
)
def test_a_drip_ends_at_the_deadline(bad_gateway: Gateway, before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amwal, "DEADLINE", 0.7)
    bad_gateway.behaviours = [drip(before)]
    started = time.monotonic()
    with pytest.raises(amwal.Unavailable, match="took too long"):
        ask(bad_gateway.client())
    assert time.monotonic() - started < 2


def flood(before: bytes, again: bytes) -> Behaviour:
    """Send a beginning, then bytes that say nothing, without a pause."""

    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(before)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            connection.sendall(again)

    return behave


NOTHING = gzip.compress(b"") * 100
FLOODS = {
    "empty gzip members": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", NOTHING),
    "empty gzip members in chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        f"{len(NOTHING):x}\r\n".encode() + NOTHING + b"\r\n",
    ),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 100),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_that_says_nothing_ends_at_the_deadline(
    bad_gateway: Gateway, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are always there, so no wait for the next one ever times out."""
    monkeypatch.setattr(amwal, "DEADLINE", 0.7)
    bad_gateway.behaviours = [flood(*FLOODS[kind])]
    started = time.monotonic()
    with pytest.raises(amwal.AmwalError):
        ask(bad_gateway.client())
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("body", [b"x" * 300_000, gzip.compress(b"x" * 50_000_000)], ids=["huge", "compressed bomb"])
def test_a_reply_over_256_kib_is_not_read_on(bad_gateway: Gateway, body: bytes) -> None:
    headers = ["Content-Encoding: gzip"] if body.startswith(b"\x1f\x8b") else []
    bad_gateway.behaviours = [answer("200 OK", body, *headers)]
    with pytest.raises(amwal.BadReply, match="larger"):
        ask(bad_gateway.client())


def test_broken_compression_is_a_bad_reply(bad_gateway: Gateway) -> None:
    bad_gateway.behaviours = [answer("200 OK", b"no gzip", "Content-Encoding: gzip")]
    with pytest.raises(amwal.BadReply):
        ask(bad_gateway.client())


@pytest.mark.parametrize("number", ["-1E+99999999999999999999", "1e-9999999999999999999"])
def test_a_number_too_large_for_a_decimal_is_a_bad_reply(bad_gateway: Gateway, number: str) -> None:
    bad_gateway.behaviours = [answer("200 OK", f'{{"err": {number}}}'.encode())]
    with pytest.raises(amwal.BadReply):
        ask(bad_gateway.client())


@pytest.mark.parametrize("headers", [["deflate, deflate, deflate"], ["deflate"] * 3], ids=["one line", "three lines"])
def test_a_reply_compressed_twice_is_not_unpacked(bad_gateway: Gateway, headers: list[str]) -> None:
    """579 bytes, which unpack to 100 MB of blocks with nothing in them: the library would not come back for minutes."""
    bomb = zlib.compressobj(9)
    empty = b"".join(
        [bomb.compress(b"x\x9c"), *(bomb.compress(b"\0\0\0\xff\xff" * 200_000) for _ in range(100)), bomb.flush()]
    )
    body = zlib.compress(empty, 9)
    bad_gateway.behaviours = [answer("200 OK", body, *(f"Content-Encoding: {header}" for header in headers))]
    started = time.monotonic()
    with pytest.raises(amwal.BadReply, match="compressed twice"):
        ask(bad_gateway.client())
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("status", ["101 Switching Protocols", "102 Processing", "103 Early Hints", "199 Other"])
def test_an_interim_reply_is_not_taken_for_the_reply(bad_gateway: Gateway, status: str) -> None:
    """Taken for it, each reply would go to the request after its own: one order would get another's invoice."""

    def behave(connection: socket.socket, request: bytes) -> None:
        connection.sendall(f"HTTP/1.1 {status}\r\nLink: </style.css>\r\n\r\n".encode() * 2)
        time.sleep(0.1)
        answer("200 OK", reply())(connection, request)

    bad_gateway.behaviours = [behave]
    assert ask(bad_gateway.client()).id == DATA["invoiceId"]
    assert len(bad_gateway.requests) == 1


def test_what_follows_an_odd_reply_is_not_taken_for_the_next(bad_gateway: Gateway) -> None:
    """A 204 has no body, so what is sent after it would wait for the next request on that connection."""

    def behave(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        time.sleep(0.15)
        answer("200 OK", reply(invoiceId="another-order"))(connection, request)
        time.sleep(0.5)

    bad_gateway.behaviours = [behave, answer("200 OK", reply())]
    client = bad_gateway.client()
    with pytest.raises(amwal.BadReply):
        ask(client)
    assert ask(client).id == DATA["invoiceId"]


def test_cookies_are_not_kept(bad_gateway: Gateway) -> None:
    bad_gateway.behaviours = [answer("200 OK", reply(), "Set-Cookie: a=b; Path=/")]
    client = bad_gateway.client()
    assert [ask(client).id, ask(client).id] == [DATA["invoiceId"]] * 2
    assert not any(b"cookie" in request.lower() for request in bad_gateway.requests)


def test_the_environment_cannot_reroute_requests(bad_gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    bad_gateway.behaviours = [answer("200 OK", reply())]
    assert ask(bad_gateway.client()).id == DATA["invoiceId"]


def test_one_connection_serves_several_invoices(gateway: Any) -> None:
    client = amwal.Client(gateway.project_url, "a-key-for-tests", {"http://127.0.0.1:8001"})
    ids = {ask(client).id for _ in range(5)}
    assert len(ids) == 5
    [pool] = client.session.get_adapter("http://").poolmanager.pools._container.values()  # type: ignore[attr-defined]
    assert pool.num_connections == 1


def test_a_requests_library_without_deadlines_is_refused() -> None:
    code = "from requests.adapters import HTTPAdapter as A; del A.get_connection_with_tls_context; import amwal"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ImportError: amwal.py needs requests 2.32.2 or newer" in ran.stderr
