"""`flask doctor --record FILE`: the shape of the gateway's reply to the test invoice, without its values.

Such a file lets docs/protocol.md say of a fact that it was *seen*. It can be shown to anybody: types, lengths and
patterns stand in it, the numbers of `err` and `status`, and the gateway's origin as the settings have it.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import click
import requests

import amwal
from models import now
from shop.ops import backup
from shop.ops.probe import Case, Finding

ERROR_LIMIT = 16 * 1024  # bytes of a refusal
NAMES = {"data", "err", "message", "error", "invoiceId", "url", "QR", "secret", "status"}
"""Fields whose names are kept. Any other name could be a value."""
FIELDS = 50
DEPTH = 8
PATTERNS = {
    "UUID": r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}",
    "{} digits": r"[0-9]+",
    "{} hex digits": r"[0-9a-f]+",
}
MEDIA_TYPE = re.compile(r"(?i)(application/json|text/(html|plain)|image/(png|svg\+xml|jpeg))(; ?charset=utf-8)?")


class _CouldBeWritten(Exception):
    pass


def _refuse_bad_file(_context: click.Context, _option: click.Parameter, file: Path | None) -> Path | None:
    """Refuse a file that can't be written now, rather than after the invoice was created."""
    if file is not None:
        try:
            with suppress(_CouldBeWritten), backup.new_file(file):
                raise _CouldBeWritten  # leaves no file behind
        except OSError as error:
            raise click.BadParameter(f"{file}: {error.strerror}.") from None
    return file


option = click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=_refuse_bad_file,
    help="Write what the reply to the test invoice looks like into a new file: HTTP status, content type, and types, "
    "lengths and patterns of its fields. No key, secret, id or path.",
)


@dataclass
class Heard:
    """The last response to a request for an invoice. Status 0: there was none. Body None: it was not read."""

    status: int = 0
    content_type: str = ""
    body: bytes | None = None


@contextmanager
def listening(client: amwal.Client) -> Iterator[Heard]:
    """Note what a client hears. Of a refusal, which the client doesn't read, this reads the beginning."""
    heard = Heard()

    def note(response: requests.Response, *_: Any, **__: Any) -> None:
        heard.status, heard.content_type = response.status_code, response.headers.get("Content-Type", "")
        heard.body = _beginning(response) if response.status_code >= 400 else None

    client.session.hooks["response"].append(note)
    try:
        yield heard
    finally:
        client.session.hooks["response"].remove(note)


def _beginning(response: requests.Response) -> bytes | None:
    if "," in response.headers.get("Content-Encoding", ""):  # a bomb: see amwal.py
        return None
    body = b""
    with suppress(requests.RequestException, OSError, ValueError):
        for chunk in response.iter_content(ERROR_LIMIT):
            body += chunk
            if len(body) >= ERROR_LIMIT:
                break
    return body


def write(case: Case, heard: Heard) -> Iterator[Finding]:
    """Write the shape of what was heard into the case's file, if it names one."""
    if case.record is None:
        return
    if not heard.status:
        yield Finding("skip", f"{case.record} was not written: there was no reply")
        return
    gateway = "sandbox" if case.is_sandbox else urljoin(case.settings.amwal_project_url, "/")
    record = {"gateway": gateway, "date": f"{now():%Y-%m-%d}", "status": heard.status} | shape(case, heard)
    try:
        with backup.new_file(case.record) as part:
            part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        yield Finding("FAIL", f"{case.record} can't be written ({error.strerror})", "name another file")
    else:
        text = f"what the reply looks like is in {case.record}: read it, and send it to the project (docs/protocol.md)"
        yield Finding("ok", text)


def shape(case: Case, heard: Heard) -> dict[str, Any]:
    """Return content type and body of a reply without its values, to be written as JSON."""
    body = heard.body
    try:
        found = _shape(case, json.loads(body)) if body else "nothing" if body is not None else "not read"
    except (ValueError, RecursionError):
        is_html = re.match(rb"(?i)\s*<(?:!doctype html|html)", body or b"")
        found = f"{'HTML' if is_html else 'no JSON'}, {len(body or b'')} bytes"
    return {"content-type": _media_type(heard.content_type), "body": found}


def _media_type(text: str) -> str:
    return text if MEDIA_TYPE.fullmatch(text) else "another" if text else "none"


def _shape(case: Case, value: Any, name: str = "", depth: int = 0) -> Any:
    found: Any = "…"
    match value:
        case dict() if depth < DEPTH:
            found = {
                key if key in NAMES else f"field {number}": _shape(case, one, key, depth + 1)
                for number, (key, one) in enumerate([*value.items()][:FIELDS], 1)
            }
        case list() if depth < DEPTH:
            found = [f"list of {len(value)}", *(_shape(case, one, "", depth + 1) for one in value[:1])]
        case str():
            found = _shape_of_text(case, value)
        case bool() | None:
            found = json.dumps(value)
        case int() if name in ("err", "status") and abs(value) < 1000:
            found = f"number {value}"
        case int():
            found = f"whole number of {len(str(abs(value)))} digits"
        case float():
            found = "number with a fraction"
    return found


def _shape_of_text(case: Case, text: str) -> str:
    size = len(text)
    for what, pattern in PATTERNS.items():
        if re.fullmatch(pattern, text):
            return what.format(size)
    if picture := amwal.read_qr(text):
        form = "data URI of PNG" if text.startswith("data:") else "base64 of PNG, without a prefix"
        return f"{form}, {len(picture)} bytes"
    if text.startswith("data:"):
        return f"data URI, {_media_type(re.split('[;,]', text[5:])[0])}, {size} characters"
    if re.match("https?://", text):
        origins = tuple(f"{one}/" for one in case.settings.amwal_payment_origins)
        where = "an origin of AMWAL_PAYMENT_ORIGINS" if text.startswith(origins) else "another origin"
        return f"web address at {where}, {size} characters"
    return f"text of {size} characters" + ("" if re.fullmatch("[ -~]*", text) else ", not all printable ASCII")
