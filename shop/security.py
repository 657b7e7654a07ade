"""Guards of every request: host check, origin check of the two shared forms, security headers."""

import logging
import re
import time
from typing import IO
from urllib.parse import quote, unquote, urlsplit

from flask import Flask, Request, Response, abort, current_app, redirect, request
from flask.typing import ResponseReturnValue
from sqlalchemy import make_url
from werkzeug.exceptions import BadRequest
from werkzeug.middleware.proxy_fix import ProxyFix

from shop.config import LOOPBACK, Settings, settings

log = logging.getLogger(__name__)

ANY_HOST = frozenset({"/healthz", "/readyz", "/statusz"})
"""Probes come by IP address. Their answers contain nothing that a wrong Host could poison."""

CALLBACK = "/amwal/callback"
"""The callback's path. Only its view reads the body, whatever the Content-Type."""

NOT_SHOWN = "(not shown: it repeats a secret)"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # data: for the QR, which is inline
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, Chromium sends `Origin: null` and the origin check would refuse our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def init_security(app: Flask) -> None:
    """Register the guards."""
    proxies = settings.trusted_proxies
    if proxies:  # forwarded headers count only behind a known proxy; X-Forwarded-Host never: clients can send it
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=0)  # type: ignore[method-assign]
    app.before_request(check_host)
    app.before_request(check_body)
    app.before_request(refuse_many_fields)
    app.before_request(refuse_nul)
    app.after_request(add_headers)


def check_host() -> ResponseReturnValue | None:
    """Answer only to our own host, so that a poisoned Host header reaches no link and no cache.

    The demo has one address, which phones can reach too. GET requests to loopback are redirected there, or the two
    addresses would have different cookies. Callbacks are never redirected.
    """
    if not request.query_string.isascii():  # no browser sends one, and decoding it would fail
        return Response("This address cannot be read.\n", 400, content_type="text/plain; charset=utf-8")
    host = request.host.lower()
    if settings.public_url.startswith("https:"):
        host = host.removesuffix(":443")  # some clients add it
    if request.path in ANY_HOST or host == public_host():
        return None
    if not settings.demo or not re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", request.host):
        _log_refused(host)
        # Plain text: the links of an error page need a valid host.
        return Response("This shop does not answer under that name.\n", 400, content_type="text/plain; charset=utf-8")
    if request.method in ("GET", "HEAD"):
        query = f"?{request.query_string.decode('ascii', 'ignore')}" if request.query_string else ""
        return redirect(f"{settings.public_url}{quote(request.path)}{query}", 307)
    return None


def _log_refused(host: str) -> None:
    """Log a wrong Host, at most one a minute: a proxy that changes it refuses everybody, and anybody can send one."""
    last = current_app.extensions.get("refused_host_logged")
    if last is None or time.monotonic() > last + 60:
        current_app.extensions["refused_host_logged"] = time.monotonic()
        told = "a request for the host %r was refused: PUBLIC_URL has %r. A proxy must pass the Host header unchanged"
        log.warning(told, host[:200], public_host())


class Body:
    """A request's body, to be read once. What the server can't read is a 400.

    waitress has read all of it before; gunicorn reads on demand, and raises errors of its own for malformed chunks.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, up to `size`. Raises BadRequest."""
        try:
            return self._stream.read(size)
        except Exception as error:
            raise BadRequest from error


def check_body() -> None:
    """Let a body that can't be read be the sender's fault."""
    request.environ["wsgi.input"] = Body(request.environ["wsgi.input"])


def refuse_many_fields() -> None:
    """Refuse forms with more fields than Flask's MAX_FORM_PARTS, which itself only counts those of multipart forms."""
    limit = current_app.config["MAX_FORM_PARTS"]
    if request.path.rstrip("/") != CALLBACK and sum(map(len, request.form.listvalues())) > limit:
        abort(413)


def refuse_nul() -> None:
    """Refuse NUL characters in addresses and forms: PostgreSQL can't store them, and nobody types them."""
    given = [request.path, *request.args.values()]
    if request.path.rstrip("/") != CALLBACK:
        given += request.form.values()
    if any("\0" in value for value in given):
        abort(400)


def public_host() -> str:
    """Return host and port of `PUBLIC_URL`, as in a Host header."""
    return urlsplit(str(settings.public_url)).netloc


def is_own_machine(address: str | None) -> bool:
    """Whether an address is this machine's own: loopback, or the one that `PUBLIC_URL` names."""
    return address in LOOPBACK or address == urlsplit(settings.public_url).hostname


def is_same_origin(incoming: Request) -> bool:
    """Whether a form was sent from our own pages. For the forms on shared, cached pages, which carry no token.

    Browsers send `Origin` with every POST; without it, `Sec-Fetch-Site` decides. A client that sends neither is no
    browser that another site could trick. `Origin: null` comes from our own pages, too, if a proxy adds the referrer
    policy no-referrer to them.
    """
    sent, site = incoming.headers.get("Origin"), incoming.headers.get("Sec-Fetch-Site")
    if sent is None:
        return site in (None, "same-origin", "none")
    return sent == settings.public_url or (sent == "null" and site == "same-origin")


def own_path(target: str) -> str:
    """Return a path of this shop to redirect to; `/` for anything that could lead elsewhere."""
    return target if re.fullmatch(r"/(?!/)[^\\]*", target) and target.isprintable() else "/"


def headers() -> dict[str, str]:
    """Return the security headers of every response."""
    is_https = settings.public_url.startswith("https://")
    return HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if is_https else {})


def add_headers(response: Response) -> Response:
    """Add the security headers to a response."""
    for name, value in headers().items():
        response.headers.setdefault(name, value)
    return response


def repeats_a_secret(settings: Settings, text: str, *more: str) -> bool:
    """Whether somebody else's text contains a secret of the settings, one of `more`, or the beginning of one."""
    passwords = make_url(settings.database_url).password, urlsplit(settings.mail_url).password
    keys = settings.amwal_api_key, settings.secret_key, *settings.secret_key_fallbacks
    known = {form for secret in (*passwords, *keys, *more) if secret for form in (secret, unquote(secret))}
    return any(secret[:8] in text for secret in known)  # the text may be cut in the middle of a secret


def redact(body: bytes) -> str:
    """Cut a callback's body for the inbox, without UUIDs (the gateway's secrets are UUIDs) and values of `secret`."""
    text = body[:4000].decode("utf-8", "replace").replace("\x00", "")  # UTF-16 reads as text then, and is redacted
    text = re.sub(r"\\u00([46][0-9a-fA-F]|[57][0-9aA])", lambda escaped: chr(int(escaped[1], 16)), text)  # letters
    text = re.sub(r"""(?i)(secret["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|'[^']*'?|[^,}\]&]*)""", r'\1"…"', text)
    text = re.sub(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}", "…", text)
    return text[:500]
