"""The log: one line per event, with the time in UTC and the id of its request."""

import logging
import re
import secrets
import time
from copy import copy
from typing import Any

from flask import Flask, Response, has_request_context, request

from shop.config import settings

HEADER = "X-Request-ID"
_KEPT = "dukkan.request_id"


def init_logs(app: Flask) -> None:
    """Write the log to stderr, and add the request's id to every response."""
    to_stderr()
    app.after_request(add_request_id)


def add_request_id(response: Response) -> Response:
    """Add the request's id, so that a fault report can name it."""
    response.headers[HEADER] = request_id()
    return response


def request_id() -> str:
    """Return the id of the current request; `-` outside of one."""
    if not has_request_context():
        return "-"
    return str(request.environ.setdefault(_KEPT, secrets.token_hex(8)))


def sent_id() -> str:
    """Return the id that came with the request from a known proxy, or from its client: it may not be unique."""
    sent = request.headers.get(HEADER, "") if has_request_context() and settings.trusted_proxies else ""
    return sent if re.fullmatch(r"[\w.-]{8,64}", sent, re.ASCII) else ""


def to_stderr() -> None:
    """Write the log of this process to stderr, under any server, unless the root logger has a handler already."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)


class OneLine(logging.Formatter):
    """Lines that can't be forged: a message stays on one line, whatever it quotes; a traceback is indented."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(request_id)s] %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the request's id."""
        record = copy(record)
        record.request_id = " ".join(filter(None, (request_id(), sent_id())))
        record.exc_text = None  # another formatter may have set it
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Return the message on one line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's name)
        """Return the traceback, each line indented below the message."""
        return "\n".join(f"  | {printable(line)}" for line in super().formatException(ei).split("\n"))


def printable(text: str) -> str:
    """Escape every character that could break a line, hide in it or reverse it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
