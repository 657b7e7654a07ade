"""The lines of the log: one for each thing told, with the time in UTC and the request that it belongs to."""

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
    """Tell every answer's receiver under which id the log has it."""
    app.after_request(add_request_id)


def add_request_id(response: Response) -> Response:
    """Send the request's id along: whoever reports a fault can name it."""
    response.headers[HEADER] = request_id()
    return response


def request_id() -> str:
    """The id of the request that is being answered; `-` outside of one.

    An id that came with the request is taken over from a known proxy alone: others could make lines look alike.
    """
    if not has_request_context():
        return "-"
    if _KEPT not in request.environ:
        sent = request.headers.get(HEADER, "") if settings.trusted_proxies else ""
        request.environ[_KEPT] = sent if re.fullmatch(r"[\w.-]{8,64}", sent, re.ASCII) else secrets.token_hex(8)
    return str(request.environ[_KEPT])


def to_stderr() -> None:
    """Write the log of this process to its error output."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)


class OneLine(logging.Formatter):
    """Lines that nobody can forge: what is told stays on one line, whatever it quotes, and a traceback is indented."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        """Time, level, request, place, words."""
        super().__init__("%(asctime)s %(levelname)s [%(request_id)s] %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, with its request."""
        record = copy(record)
        record.request_id, record.exc_text = request_id(), None  # which another formatter may have left there
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """The words, on one line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's name)
        """The traceback, each of its lines under the line that it explains."""
        return "\n".join(f"  | {printable(line)}" for line in super().formatException(ei).split("\n"))


def printable(text: str) -> str:
    """A text in which everything is written out that could break a line, hide in it or turn it around."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
