"""A client for the amwal.exchange payment gateway. It imports nothing of this shop: copy it anywhere.

It creates invoices and reads callbacks; that is all there is. What can go wrong is one family:

    AmwalError
    ├── Unavailable     no answer, or one that asks to come back later; a later try can succeed
    ├── KeyRejected     401 or 403: the API key is wrong
    ├── Refused         the gateway said no, or answered with a redirect
    ├── BadReply        the reply is not what the protocol promises, and nothing of it may be shown
    └── BadCallback     a callback's body cannot be read

Whoever holds an invoice's secret can confirm its payment. So it is never logged, never shown, and never part of an
error's text here.
"""

import base64
import binascii
import contextlib
import json
import random
import re
import socket
import struct
import threading
import time
import unicodedata
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

CONNECT_TIMEOUT = 2.0  # seconds
DEADLINE = 6.0  # seconds for one invoice, retries and all
RETRIES = 2
REPLY_LIMIT = 256 * 1024  # bytes, after decompression
QR_LIMIT = 64 * 1024  # bytes
CALLBACK_LIMIT = 8 * 1024  # bytes


class AmwalError(Exception):
    """Something went wrong between us and the gateway. The text holds no secret."""

    retryable = False
    """Whether the same request can succeed later without anybody changing anything."""


class Unavailable(AmwalError):
    """The gateway cannot be reached, is too slow, or asks us to come back later (429, 5xx)."""

    retryable = True

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        """Keep the reason, and for how many seconds the gateway asked to be left alone."""
        super().__init__(reason)
        self.retry_after = retry_after


class KeyRejected(AmwalError):
    """The gateway does not know our API key (401, 403)."""


class Refused(AmwalError):
    """The gateway refused the request: `err` other than 0, another 4xx, or a redirect."""


class BadReply(AmwalError):
    """The reply breaks the protocol, or holds something that must not be shown."""


class BadCallback(AmwalError):
    """A callback's body is not the JSON object that the protocol describes."""


@dataclass(frozen=True)
class Invoice:
    """The gateway's invoice (protocol: Create an invoice)."""

    id: str
    url: str
    """The payment page, checked to be on one of the allowed origins."""
    secret: str = field(repr=False)
    qr: bytes | None = field(repr=False)
    """A PNG of the payment page's address; None where the gateway's picture cannot be used."""


@dataclass(frozen=True)
class Callback:
    """What a callback says (protocol: The callback). Ids that are missing or of no use are empty strings."""

    secret: str = field(repr=False)
    invoice_id: str
    session_id: str


# --- Asking for an invoice -------------------------------------------------------------------------------------------


class Client:
    """The gateway as one project sees it. Make one for each process: it keeps its connections open."""

    def __init__(self, project_url: str, api_key: str, payment_origins: Collection[str]) -> None:
        """Keep the project's address and key, and the origins (`https://host:port`) that payment pages may have."""
        self._url = project_url
        self._origins = frozenset(payment_origins)
        self._session = _Session()
        # Environment variables must not reroute our requests or replace the certificates that we trust.
        self._session.trust_env = False
        self._session.headers.update({"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"})
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _CuttableAdapter(pool_maxsize=16))

    def create_invoice(
        self, *, amount: Decimal, header: str, description: str, success_url: str, cancel_url: str
    ) -> Invoice:
        """Create an invoice (protocol: Create an invoice).

        Args:
            amount: in the currency of the project, with its exact decimals.
            header: title of the payment page.
            description: a line below it.
            success_url: where the customer's browser goes after paying.
            cancel_url: where it goes after cancelling.

        Raises:
            AmwalError: one of the family above, at the latest after `DEADLINE` seconds. (On top comes what the system's
                resolver takes to find the gateway's addresses, and `CONNECT_TIMEOUT` for each that is dead.)
        """
        reply = self.put_invoice(
            amount=amount, header=header, description=description, success_url=success_url, cancel_url=cancel_url
        )
        return parse_invoice(reply, self._origins)

    def put_invoice(
        self, *, amount: Decimal, header: str, description: str, success_url: str, cancel_url: str
    ) -> bytes:
        """Like `create_invoice`, but give back the reply's body as it came: unread, and with the secret in it.

        A try whose outcome is unknown is simply repeated: an invoice that never reached us was never shown to anyone,
        so nobody can pay it.
        """
        texts = {"header": header, "description": description, "successUrl": success_url, "cancelUrl": cancel_url}
        # Written as an exact JSON number. A float would turn 0.1 + 0.2 into 0.30000000000000004.
        body = f'{{"amount": {amount:f}, {json.dumps(texts)[1:]}'.encode()
        until = time.monotonic() + DEADLINE
        for attempt in range(RETRIES + 1):
            try:
                return self._try_once(body, until)
            except Unavailable as error:
                pause = max(error.retry_after, random.uniform(0.1, 0.3) * 2**attempt)  # noqa: S311  (jitter)
                if attempt == RETRIES or time.monotonic() + pause >= until - 0.5:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _try_once(self, body: bytes, until: float) -> bytes:
        left = until - time.monotonic()
        with _Cutter(left) as cutter:
            try:
                with self._session.put(
                    self._url, data=body, timeout=(min(CONNECT_TIMEOUT, left), left), allow_redirects=False, stream=True
                ) as response:
                    _check_status(response)
                    content = _read_capped(response)
            except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
                raise BadReply(f"no safe connection to the gateway ({type(error).__name__})") from error
            except requests.exceptions.ContentDecodingError as error:
                raise BadReply("the reply's compression is broken") from error
            except (requests.RequestException, OSError, ValueError) as error:
                cause = "took too long" if cutter.has_cut else type(error).__name__
                raise Unavailable(f"no answer from the gateway ({cause})") from error
        if cutter.has_cut:  # cut in the headers, a reply looks complete and empty
            raise Unavailable("no answer from the gateway (took too long)")
        return content


class _Session(requests.Session):
    """A session that follows no redirect, and reads none: `allow_redirects=False` alone still reads its whole body."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Cutter:
    """Cuts the connection that this thread is using when time is up.

    A read timeout only limits the wait for the next byte: a gateway that drips one byte a second would hold a thread
    for days, so a timer shuts the socket down, whatever it is reading.
    """

    current = threading.local()

    def __init__(self, seconds: float) -> None:
        self.has_cut = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(max(seconds, 0.0), self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "_Cutter":
        _Cutter.current.cutter = self
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        _Cutter.current.cutter = None

    @classmethod
    def watch(cls, connection: HTTPConnection) -> None:
        """Remember the socket that carries this thread's request.

        The socket itself: where a reply ends with the connection, http.client takes it from there with the headers.
        """
        cutter = getattr(cls.current, "cutter", None)
        if cutter is not None:
            cutter._socket = connection.sock
            if cutter.has_cut:  # time was up before there was anything to cut
                cutter._cut()

    def _cut(self) -> None:
        self.has_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # closed already
                # The plain socket's own shutdown: that of a TLS socket would disturb the thread that is reading.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _CuttableHTTP(HTTPConnection):
    def getresponse(self) -> Any:
        _Cutter.watch(self)
        return super().getresponse()


class _CuttableHTTPS(HTTPSConnection):
    def getresponse(self) -> Any:
        _Cutter.watch(self)
        return super().getresponse()


class _CuttableAdapter(HTTPAdapter):
    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _CuttableHTTPS if pool.scheme == "https" else _CuttableHTTP
        return pool


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status in (401, 403):
        raise KeyRejected(f"the gateway does not accept the API key (HTTP {status})")
    if status == 429 or status >= 500:
        wait = response.headers.get("Retry-After", "")
        raise Unavailable(
            f"the gateway is not ready (HTTP {status})", float(wait) if re.fullmatch(r"\d{1,6}", wait) else 0.0
        )
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


# --- Reading the gateway's reply -------------------------------------------------------------------------------------


def parse_invoice(content: bytes, payment_origins: Collection[str]) -> Invoice:
    """Check a reply field by field (protocol: Create an invoice).

    Args:
        content: the reply's body.
        payment_origins: origins (`https://host:port`) that the payment page may have.

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
    if secret.lower() in unquote(url).lower():  # looked at first: what is said about a wrong address names its host
        raise BadReply("`url` contains the secret, so its reader could confirm the payment")
    check_payment_url(url, payment_origins)
    return Invoice(id=invoice_id, url=url, secret=secret, qr=read_qr(data.get("QR")))


def _reply_text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    limit = 2000 if name == "url" else 200
    if not isinstance(value, str) or len(value) > limit or not re.fullmatch(r"[!-~]+", value):
        raise BadReply(f"`{name}` is missing or no plain text")
    return value


def check_payment_url(url: str, payment_origins: Collection[str]) -> None:
    """Let only a web address through that lies on one of the given origins.

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
    """The PNG in a `data:` URI or in bare base64 (both forms are published); None for anything else."""
    if not isinstance(value, str) or len(value) > QR_LIMIT * 4 // 3 + 64:
        return None
    try:
        picture = base64.b64decode(value.removeprefix("data:image/png;base64,"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return picture if len(picture) <= QR_LIMIT and is_png(picture) else None


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


# --- Reading a callback ----------------------------------------------------------------------------------------------


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
    """An id as plain text. Numbers become text; what is no id at all becomes '': with the right secret the money is
    real, so an odd id must not turn it away."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    plain = "".join(c for c in str(value) if unicodedata.category(c)[0] in "LNPS")
    return plain if len(plain) <= 200 else ""


def _read_json(content: bytes, error: type[BadReply] | type[BadCallback]) -> Any:
    """JSON without its traps: NaN, duplicate keys, nesting bombs, lone surrogates.

    Numbers with a fraction become Decimals, which only matters in that they are never rounded.
    """

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
    except (ValueError, RecursionError):  # UnicodeError and JSONDecodeError are ValueErrors
        raise error("no clean JSON") from None
    return value
