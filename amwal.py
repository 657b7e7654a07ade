"""A client for the amwal.exchange payment gateway: it creates invoices and reads callbacks.

    client = Client("https://amwal.exchange/…your project's URL…", "your API key")
    invoice = client.create_invoice(amount=Decimal("12.50"), header="Order A-1042")
    # Store invoice.id and the SHA-256 of invoice.secret with the order. Only then show invoice.url and invoice.qr.

    callback = parse_callback(body)  # in the view of your callback URL
    # Find the order by the SHA-256 of callback.secret. Store the payment, and answer 200 after the commit.

Copy this file anywhere: it imports nothing of this shop, only `requests` (2.32.2 or newer) and its `urllib3`. It
blocks for about `DEADLINE` seconds at most; in async code run it in a thread: `await asyncio.to_thread(…)`.
"Protocol: …" names a section of Dukkan's docs/protocol.md. What can go wrong is one family:

    AmwalError
    ├── Unavailable     no answer, or one that asks to come back later; a later try can succeed
    ├── KeyRejected     401 or 403: the API key is wrong
    ├── Refused         the gateway said no, or answered with a redirect
    ├── BadReply        the reply is not what the protocol promises, and nothing of it may be shown
    └── BadCallback     a callback's body cannot be read

Whoever holds an invoice's secret can confirm its payment. It is never logged, never shown, and never part of an error.

SPDX-License-Identifier: MIT
"""

import base64
import binascii
import http.client
import io
import json
import random
import re
import struct
import time
import unicodedata
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection

__version__ = "0.2.0"

PAYMENT_ORIGINS = frozenset({"https://amwal.exchange"})
"""Where payment pages are, as origins (`https://host`, with the port if it is not the usual one)."""


class AmwalError(Exception):
    """Something went wrong between us and the gateway. The text holds no secret."""

    retryable = False
    """Whether the same request can succeed later without anybody changing anything."""


class Unavailable(AmwalError):
    """The gateway can't be reached, is too slow, or asks us to come back later (429, 5xx)."""

    retryable = True

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after  # seconds


class KeyRejected(AmwalError):
    """The gateway does not know our API key (401, 403)."""


class Refused(AmwalError):
    """The gateway refused the request: `err` other than 0, another 4xx, or a redirect."""


class BadReply(AmwalError):
    """The reply breaks the protocol, or holds something that must not be shown."""


class BadCallback(AmwalError):
    """A callback's body is not the JSON object that the protocol describes."""


# --- Creating an invoice ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Invoice:
    """The gateway's invoice (protocol: Create an invoice)."""

    id: str
    url: str
    """The payment page, checked to be on one of the allowed origins."""
    secret: str = field(repr=False)
    qr: bytes | None = field(repr=False)
    """A PNG of the payment page's address; None where the gateway's picture can't be used."""


class Client:
    """The gateway as one project sees it. Make one for each process: its `session` keeps connections open."""

    def __init__(self, project_url: str, api_key: str, payment_origins: Collection[str] = PAYMENT_ORIGINS) -> None:
        self._url = project_url
        self._origins = frozenset(payment_origins)
        self.session = _session()
        self.session.headers.update({"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"})

    def create_invoice(
        self, *, amount: Decimal, header: str, description: str = "", success_url: str = "", cancel_url: str = ""
    ) -> Invoice:
        """Create an invoice (protocol: Create an invoice).

        Args:
            amount: in the currency of the project, with its exact decimals.
            header: title of the payment page.
            description: a line below it.
            success_url: where the customer's browser goes after paying.
            cancel_url: where it goes after cancelling.

        Raises:
            AmwalError: one of the family above, after `DEADLINE` seconds at the latest. (DNS resolution isn't counted.
                If the host has several addresses, each further one that is dead can add `CONNECT_TIMEOUT`.)
        """
        reply = self.put_invoice(
            amount=amount, header=header, description=description, success_url=success_url, cancel_url=cancel_url
        )
        return parse_invoice(reply, self._origins)

    def put_invoice(
        self, *, amount: Decimal, header: str, description: str = "", success_url: str = "", cancel_url: str = ""
    ) -> bytes:
        """Create an invoice like `create_invoice`, but return the reply's body as it came, with the secret in it.

        A try whose outcome is unknown is repeated: an invoice that never reached us was never shown to anyone, so
        nobody can pay it.
        """
        optional = {"description": description, "successUrl": success_url, "cancelUrl": cancel_url}
        texts = {"header": header} | {name: text for name, text in optional.items() if text}
        # Written as an exact JSON number. A float would turn 0.1 + 0.2 into 0.30000000000000004.
        body = f'{{"amount": {amount:f}, {json.dumps(texts)[1:]}'.encode()
        until = time.monotonic() + DEADLINE
        for attempt in range(RETRIES + 1):
            try:
                return _put(self.session, self._url, body, until)
            except Unavailable as error:
                pause = max(error.retry_after, random.uniform(0.1, 0.3) * 2**attempt)  # noqa: S311  (jitter)
                if attempt == RETRIES or time.monotonic() + pause >= until - 0.5:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")


def parse_invoice(content: bytes, payment_origins: Collection[str] = PAYMENT_ORIGINS) -> Invoice:
    """Check a reply field by field (protocol: Create an invoice).

    Args:
        content: the reply's body.
        payment_origins: origins that the payment page may have.

    Raises:
        Refused: if `err` is not 0.
        BadReply: if anything else is not as promised.
    """
    reply = _read_json(content, BadReply)
    if not isinstance(reply, dict):
        raise BadReply("the reply is no JSON object")
    err = reply.get("err")
    if err != 0 or isinstance(err, bool):
        shown = str(err)[:40] if isinstance(err, int) else f"of type {type(err).__name__}"  # a text could hold a secret
        raise Refused(f"the gateway refused the invoice (err {shown})")
    data = reply.get("data")
    if not isinstance(data, dict):
        raise BadReply("`data` is missing")
    invoice_id, url, secret = (_reply_text(data, name) for name in ("invoiceId", "url", "secret"))
    if _reveals(f"{url} {invoice_id}", secret):  # looked at first: what is said about a wrong address names its host
        raise BadReply("`url` or `invoiceId` contains the secret, so its reader could confirm the payment")
    check_payment_url(url, payment_origins)
    return Invoice(id=invoice_id, url=url, secret=secret, qr=read_qr(data.get("QR")))


def _reply_text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    limit = 2000 if name == "url" else 200
    if not isinstance(value, str) or len(value) > limit or not re.fullmatch(r"[!-~]+", value):
        raise BadReply(f"`{name}` is missing or no plain text")
    return value


def _reveals(text: str, secret: str) -> bool:
    """Whether a text contains the secret: plain, without dashes, percent-encoded any number of times, or in base64."""
    for _ in range(text.count("%") + 1):
        text = unquote(text)
    bare = secret.replace("-", "").lower()
    packed = [secret.encode(), bare.encode()] + ([bytes.fromhex(bare)] if re.fullmatch("[0-9a-f]{32}", bare) else [])
    # Base64 depends on the bytes before: three cases. The groups at the edges hold bits of the neighbours.
    coded = (base64.b64encode(bytes(n) + one)[4 if n else 0 : -4].decode() for one in packed for n in range(3))
    usual = text.replace("-", "+").replace("_", "/")
    return bare in text.replace("-", "").lower() or any(len(one) > 8 and one in usual for one in coded)


def check_payment_url(url: str, payment_origins: Collection[str]) -> None:
    """Accept only a web address on one of the given origins.

    Raises:
        BadReply: for another scheme or host, credentials, blanks or control characters.
    """
    try:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        raise BadReply("`url` is no web address") from None
    if re.search(r"[\s\x00-\x1f\x7f\\<>\"'`]", url) or parts.scheme not in ("http", "https"):
        raise BadReply("`url` is no web address")
    if origin not in payment_origins:
        raise BadReply(f"`url` leads to {origin[:80]}, which is not where payment pages may be")


def read_qr(value: object) -> bytes | None:
    """Decode a PNG from a `data:` URI or bare base64 (both forms are published); None for anything else."""
    if not isinstance(value, str) or len(value) > QR_LIMIT * 4 // 3 + 64:
        return None
    try:
        picture = base64.b64decode(value.removeprefix("data:image/png;base64,"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return picture if len(picture) <= QR_LIMIT and is_png(picture) else None


# --- Reading a callback ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Callback:
    """What a callback says (protocol: The callback). Ids that are missing or of no use are empty strings."""

    secret: str = field(repr=False)
    invoice_id: str
    session_id: str


def parse_callback(body: bytes) -> Callback:
    """Read a callback's body (protocol: The callback). Whether its secret is ours is the caller's question.

    Raises:
        BadCallback: if it is no JSON object, or has no secret.
    """
    message = _read_json(body, BadCallback)
    if not isinstance(message, dict):
        raise BadCallback("no JSON object")
    secret = message.get("secret")
    if not isinstance(secret, str) or not secret or not secret.isascii():
        raise BadCallback("the secret is missing or no plain text")
    return Callback(secret, _canonical_id(message.get("invoiceId")), _canonical_id(message.get("paymentSessionId")))


def _canonical_id(value: object) -> str:
    """An id as plain text; a number as its digits; '' for what is no id at all.

    With the right secret the money is real, so an odd id must not turn it away.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    plain = "".join(c for c in str(value) if unicodedata.category(c)[0] in "LNPS")
    return plain if len(plain) <= 200 else ""


def _read_json(content: bytes, error: type[BadReply] | type[BadCallback]) -> Any:
    """Read JSON without its traps: NaN, duplicate keys, nesting bombs, lone surrogates."""

    def no_constants(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    try:
        value = json.loads(
            content.decode(), parse_constant=no_constants, parse_float=Decimal, object_pairs_hook=no_duplicates
        )
        json.dumps(value, default=str, ensure_ascii=False).encode()  # refuses lone surrogates wherever they stand
    except (ValueError, ArithmeticError, RecursionError):  # JSONDecodeError; a huge exponent; nesting
        raise error("no clean JSON") from None
    return value


# --- Bounds of time and size: one PUT, whatever the gateway does -----------------------------------------------------

DEADLINE = 6.0  # seconds for one invoice, retries and all
CONNECT_TIMEOUT = 2.0  # seconds
RETRIES = 2
REPLY_LIMIT = 256 * 1024  # bytes, after decompression
QR_LIMIT = 64 * 1024  # bytes
CALLBACK_LIMIT = 8 * 1024  # bytes; for the view that reads the body


def _put(session: requests.Session, url: str, body: bytes, until: float) -> bytes:
    left = max(until - time.monotonic(), 0.001)
    timeout: Any = Timeout(connect=min(CONNECT_TIMEOUT, left), total=left)
    try:
        with session.put(url, data=body, timeout=timeout, allow_redirects=False, stream=True) as response:
            _check_status(response)
            if "," in response.headers.get("Content-Encoding", ""):  # within another, a bomb can outlast any deadline
                raise BadReply("the reply is compressed twice")
            return _read_capped(response)
    except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
        raise BadReply(f"no safe connection to the gateway ({type(error).__name__})") from error
    except requests.exceptions.ContentDecodingError as error:
        raise BadReply("the reply's compression is broken") from error
    except (requests.RequestException, OSError, ValueError) as error:
        cause = "took too long" if time.monotonic() >= until else type(error).__name__
        raise Unavailable(f"no answer from the gateway ({cause})") from error


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status in (401, 403):
        raise KeyRejected(f"the gateway does not accept the API key (HTTP {status})")
    if status == 429 or status >= 500:
        wait = response.headers.get("Retry-After", "")
        seconds = float(wait) if re.fullmatch(r"\d{1,6}", wait) else 0.0
        raise Unavailable(f"the gateway is not ready (HTTP {status})", seconds)
    if 300 <= status < 400:
        raise Refused(f"the gateway answered with a redirect (HTTP {status}), which is not followed")
    if status >= 400:
        raise Refused(f"the gateway refused the request (HTTP {status})")


def _read_capped(response: requests.Response) -> bytes:
    content = b""
    for chunk in response.iter_content(16 * 1024):
        content += chunk
        if len(content) > REPLY_LIMIT:
            raise BadReply(f"the reply is larger than {REPLY_LIMIT} bytes")
    return content


def _session() -> requests.Session:
    session = _Session()
    # Environment variables must not reroute our requests or replace the certificates that we trust.
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # kept, they would make requests ever larger
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(pool_maxsize=16))
    return session


class _Session(requests.Session):
    """A session that reads no redirect: `allow_redirects=False` doesn't follow it, and still reads its whole body."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


if not hasattr(HTTPAdapter, "get_connection_with_tls_context"):
    raise ImportError("amwal.py needs requests 2.32.2 or newer: before, replies would have no deadline")


class _Adapter(HTTPAdapter):
    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _HTTPS if pool.scheme == "https" else _HTTP
        return pool


class _Reply(http.client.HTTPResponse):
    """A reply whose timeout is for all of it. Usually a timeout is for the next byte, so a gateway that drips a byte a
    second would hold a thread for days. (urllib3 sets the socket's timeout to what is left of `total`.)"""

    headers: Any
    msg: Any

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_UntilDeadline(sock))

    def begin(self) -> None:
        super().begin()
        while 100 < self.status < 200:  # 103 Early Hints, say. Left unread, the reply would be the next request's
            self.headers = self.msg = None
            super().begin()
        self.will_close = self.will_close or self.status != 200


class _UntilDeadline(io.RawIOBase):
    def __init__(self, sock: Any) -> None:
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:  # bytes that are there already would never time out
            raise TimeoutError("the reply took too long")
        self._sock.settimeout(left)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _HTTP(HTTPConnection):
    response_class = _Reply


class _HTTPS(HTTPSConnection):
    response_class = _Reply


def is_png(picture: bytes) -> bool:
    """Whether this is a whole PNG: signature, sane size, every chunk's checksum, an end."""
    if not picture.startswith(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR") or len(picture) < 57:
        return False
    width, height = struct.unpack(">II", picture[16:24])
    position = 8
    while 0 < width <= 4096 and 0 < height <= 4096 and position + 12 <= len(picture):
        (length,) = struct.unpack(">I", picture[position : position + 4])
        kind, end = picture[position + 4 : position + 8], position + 8 + length
        if picture[end : end + 4] != struct.pack(">I", zlib.crc32(picture[position + 4 : end])):
            return False
        if kind == b"IEND":
            return bool(end + 4 == len(picture))
        position = end + 4
    return False
