"""The gateway's web application. Start here."""

from pathlib import Path

from flask import Flask
from jinja2 import StrictUndefined
from werkzeug.exceptions import HTTPException

from sandbox import account, api, pages, web
from sandbox.delivery import Sending
from sandbox.store import Store
from sandbox.trouble import views as trouble
from sandbox.web import store_of

__all__ = ["create_app", "store_of"]

# The real gateway's limit is not documented; an invoice needs a few hundred bytes.
LARGEST_BODY = 64 * 1024


def create_app(  # noqa: PLR0913  (settings, all by name)
    *,
    database: str | Path,
    callback_url: str | None = None,
    api_key: str | None = None,
    public_url: str = "http://127.0.0.1:8001",
    speed: float = 1.0,
    mails: str | Path | None = None,
    ca: Path | None = None,
) -> Flask:
    """Return the gateway as a WSGI application. A `DeliveryWorker` sends callbacks.

    Args:
        database: the SQLite file, created if missing.
        callback_url: the shop's address for callbacks, "" for none; None keeps the stored one.
        api_key: the key that the shop sends; None keeps the stored one.
        public_url: the start of payment links.
        speed: divides the time between callback attempts.
        mails: the folder for failure e-mails; None for none.
        ca: the certificates that a shop on https may have (PEM); None for the usual ones.

    Raises:
        sqlite3.Error, OSError: if the file can't be used.
    """
    app = Flask(__name__)
    app.config.update(PUBLIC_URL=public_url.rstrip("/"), MAX_CONTENT_LENGTH=LARGEST_BODY)
    app.config["SENDING"] = Sending(speed, Path(mails) if mails else None, ca)
    app.jinja_env.undefined = StrictUndefined
    app.url_map.converters["hex"] = web.HexConverter
    app.extensions["sandbox"] = Store(database, callback_url=callback_url, api_key=api_key)

    app.register_blueprint(api.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(account.blueprint)
    app.register_blueprint(trouble.blueprint)
    app.add_url_rule("/healthz", "healthz", web.healthz)

    app.register_error_handler(HTTPException, web.explain)
    app.after_request(web.add_headers)
    return app
