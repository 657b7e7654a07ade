"""What all pages share: the store, who may ask, security headers, and errors in words."""

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
    """Part of a path: 24 hex digits, as the documentation's example ids have."""

    regex = "[0-9a-f]{24}"


def store_of(app: Flask) -> Store:
    """Return the store that `app` works on."""
    return cast(Store, app.extensions["sandbox"])


def store() -> Store:
    """Return the store of the application that answers this request."""
    return store_of(current_app)


def healthz() -> ResponseReturnValue:
    """Answer that the process is up, and that it is no real gateway."""
    return "sandbox ok", {"Content-Type": "text/plain"}


def refuse_other_machines() -> None:
    """Before a request to account or API: abort with 403 unless it comes from this machine.

    Phones on the network need the payment pages and nothing else. The Host is checked too, as a page elsewhere could
    point a name of its own at 127.0.0.1 and so read the account through the browser that runs here. A tunnel connects
    from this machine as well, but says so in a header, and its Host is a name, which never counts as here.
    """
    through_tunnel = "X-Forwarded-For" in request.headers or "Forwarded" in request.headers
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        host = ""
    if through_tunnel or not (_is_here(request.remote_addr or "") and _is_here(host)):
        abort(403, TEXTS["en"]["other_machine"])


def _is_here(host: str) -> bool:
    """Return whether `host` is loopback or the IP address (not: name) in the public URL."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or str(address) == urlsplit(current_app.config["PUBLIC_URL"]).hostname


def is_from_own_page() -> bool:
    """Return whether a form was sent from one of our pages, as far as the browser says.

    Whoever has an invoice's address may pay it, so there is no session to protect by a token. But "paid" must mean that
    a person pressed the button here, and not that a page of another site sent the form behind their back: browsers
    name that site in Origin. A client that sends no Origin is no browser, and could as well send the right one.
    """
    origin = request.headers.get("Origin")
    public = urlsplit(current_app.config["PUBLIC_URL"])
    return origin in {None, request.host_url.rstrip("/"), f"{public.scheme}://{public.netloc}"}


def add_headers(response: Response) -> Response:
    """After each request: allow the browser our own styles and pictures, and nothing else."""
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response


def explain(error: HTTPException) -> ResponseReturnValue:
    """Answer an HTTP error: JSON under /projects/ and to programs, a page in the visitor's language elsewhere.

    What the real gateway sends with a refusal is not documented beyond `err` being other than 0. Here the HTTP status
    says it in the usual way, `err` repeats it, and `message` is for people.
    """
    code = error.code or 500
    if request.path.startswith("/projects/") or (request.path == "/trouble" and not request.form):
        response = make_response(jsonify(data=None, err=code, message=error.description), code)
    else:
        lang = request.path[1:3] if request.path[1:3] in TEXTS and request.path[3:4] == "/" else "en"
        texts = TEXTS[lang]
        title = texts.get(f"title_{code}", texts["title_error"])
        # Only our own refusals carry words made for the visitor; the framework's are for developers.
        words = error.description if code in {403, 409, 422} else texts.get(f"text_{code}", texts["text_error"])
        response = make_response(render_template("error.html", lang=lang, t=texts, title=title, words=words), code)
    for name, value in error.get_headers():
        if name in {"Allow", "WWW-Authenticate"}:
            response.headers[name] = value
    return response
