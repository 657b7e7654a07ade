"""The shop. `create_app()` reads like a contents page: start here, then follow the payment flow (README.md)."""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlsplit
from wsgiref.headers import Headers

from flask import Flask
from flask_migrate import Migrate
from jinja2 import StrictUndefined
from whitenoise import WhiteNoise

import amwal
from shop import config, limits, security, staff, views
from shop.config import settings
from shop.db import db, init_db
from shop.gateway import Gateway
from shop.ops import cli
from shop.ops.connections import BODY_LIMIT
from shop.ops.logs import init_logs
from shop.views.errors import init_errors
from shop.views.guards import init_csrf
from shop.views.i18n import init_i18n


def create_app(given: Mapping[str, str] | None = None) -> Flask:
    """Build the shop.

    Args:
        given: settings as text, for tests; if None, the environment and `.env`.

    Raises:
        shop.config.SettingError: naming the setting that is missing or wrong, and what to do.
    """
    app = Flask(__name__)
    Migrate(app, db, directory=str(config.ROOT / "migrations"))
    cli.register(app)
    try:
        config.init_config(app, given)
    except config.SettingError as error:
        if not cli.is_looking_for_commands():
            raise
        cli.refuse(app, error)  # `flask --help` lists the commands all the same
        return app
    with app.app_context():
        init_logs(app)
        init_cookies(app)
        init_db(app)
        init_gateway(app)
        security.init_security(app)
        limits.init_limits(app)
        staff.init_staff(app)
        init_csrf(app)
        init_templates(app)
        init_i18n(app)
        views.register(app)
        init_errors(app)
        init_static(app)
    return app


def init_cookies(app: Flask) -> None:
    """Name cookies by app and port: browsers share cookies between ports, and two shops on one host must not mix."""
    public = urlsplit(settings.public_url)
    secure = public.scheme == "https"
    # With __Host-, browsers accept the cookie from this host alone: a sibling subdomain can't set it.
    name = f"{'__Host-' if secure else ''}dukkan_{public.port or public.scheme}"
    app.session_interface.digest_method = hashlib.sha256  # type: ignore[attr-defined]  # Flask's own choice is SHA-1
    app.config.update(
        SESSION_COOKIE_NAME=name,
        SESSION_COOKIE_SECURE=secure,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",  # not Strict: a buyer who returns from the payment page still has the basket
        PERMANENT_SESSION_LIFETIME=timedelta(days=30),
        LANGUAGE_COOKIE=f"{name}_language",
        STAFF_COOKIE=f"{name}_staff",
        WTF_CSRF_SSL_STRICT=False,  # some browsers send no Referer; the token suffices
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session: a basket may wait for days
        MAX_CONTENT_LENGTH=BODY_LIMIT,
        MAX_FORM_MEMORY_SIZE=64 * 1024,  # bytes; the largest form has some 2 KB
        MAX_FORM_PARTS=100,  # the largest form has some 15 fields
    )


def init_gateway(app: Flask) -> None:
    """Create the one client of this process."""
    client = amwal.Client(settings.amwal_project_url, settings.amwal_api_key, settings.amwal_payment_origins)
    app.extensions["amwal"] = Gateway(client)


def init_templates(app: Flask) -> None:
    """Make an undefined variable an error, not an empty string."""
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True


def init_static(app: Flask) -> None:
    """Serve `static/` by WhiteNoise, in front of Flask, to be cached for a day: a changed file has another address."""
    security_headers = security.headers()

    def add_headers(headers: Headers, _path: str, _url: str) -> None:
        for name, value in security_headers.items():
            headers[name] = value

    app.wsgi_app = WhiteNoise(  # type: ignore[method-assign]
        app.wsgi_app,
        root=app.static_folder,
        prefix="static/",
        max_age=86_400,
        add_headers_function=add_headers,
        allow_all_origins=False,
    )
