"""Shared by all pages: store, access checks, security headers and error pages."""

import ipaddress
from typing import cast
from urllib.parse import urlsplit

from flask import Flask, Response, abort, current_app, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from sandbox.store import Store
from sandbox.texts import TEXTS

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class HexConverter(BaseConverter):
    """Path segment of 24 hex digits, like the ids in the documentation's examples."""

    regex = "[0-9a-f]{24}"


def store_of(app: Flask) -> Store:
    """Return the store of `app`."""
    return cast(Store, app.extensions["sandbox"])


def store() -> Store:
    """Return the current application's store."""
    return store_of(current_app)


def healthz() -> ResponseReturnValue:
    """Report that the process is up and a sandbox."""
    return "sandbox ok", {"Content-Type": "text/plain"}


def refuse_other_machines() -> None:
    """Abort with 403 unless the request comes from this machine.

    Other devices only need the payment pages. The Host must be local, too, against DNS rebinding: another site could
    resolve its own name to 127.0.0.1 and read the account through a browser on this machine. Requests through a tunnel
    come from this machine as well, but have a forwarding header, or a name as Host.
    """
    through_tunnel = "X-Forwarded-For" in request.headers or "Forwarded" in request.headers
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        host = ""
    if through_tunnel or not (_is_here(request.remote_addr or "") and _is_here(host)):
        abort(403, TEXTS["en"]["other_machine"])


def _is_here(host: str) -> bool:
    """Return whether `host` is loopback or the public URL's IP address (not name)."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or str(address) == urlsplit(current_app.config["PUBLIC_URL"]).hostname


def is_from_own_page() -> bool:
    """Return whether a form was sent from one of our pages, according to Origin.

    Anyone with an invoice's address may pay it, so there is no session for a CSRF token. But another site must not send
    the form through the customer's browser, which would name that site in Origin. Clients without Origin aren't
    browsers.
    """
    origin = request.headers.get("Origin")
    public = urlsplit(current_app.config["PUBLIC_URL"])
    return origin in {None, request.host_url.rstrip("/"), f"{public.scheme}://{public.netloc}"}


def add_headers(response: Response) -> Response:
    """Add security headers: only our own styles and images, no caching of pages."""
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response


def explain(error: HTTPException) -> ResponseReturnValue:
    """Answer an HTTP error: JSON for the API and for programs, otherwise a page.

    The real gateway's errors are only documented as an `err` other than 0. Here `err` is the HTTP status, and `message`
    explains the error to the developer.
    """
    code = error.code or 500
    if request.path.startswith("/projects/") or (request.path == "/trouble" and not request.form):
        response = make_response(jsonify(data=None, err=code, message=error.description), code)
    else:
        lang = request.path[1:3] if request.path[1:3] in TEXTS and request.path[3:4] == "/" else "en"
        texts = TEXTS[lang]
        title = texts.get(f"title_{code}", texts["title_error"])
        # Only these have messages written for visitors; those of the framework are for developers.
        words = error.description if code in {403, 409, 422} else texts.get(f"text_{code}", texts["text_error"])
        response = make_response(render_template("error.html", lang=lang, t=texts, title=title, words=words), code)
    for name, value in error.get_headers():
        if name in {"Allow", "WWW-Authenticate"}:
            response.headers[name] = value
    return response
