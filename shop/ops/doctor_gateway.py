"""The doctor's checks of the gateway, and of the shop as the gateway reaches it."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin
from uuid import uuid4

from flask import current_app
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

import amwal
from models import CallbackAttempt, now
from shop import gateway, security
from shop.db import db, sqlite_file
from shop.ops import doctor_record
from shop.ops.probe import Case, Finding, ask, is_local

CLOCK_TOLERANCE = 60  # seconds


def check_gateway(case: Case) -> Iterator[Finding]:
    """Whether its server responds, with whatever."""
    server = urljoin(case.settings.amwal_project_url, "/")
    if case.gateway.status:
        yield Finding("ok", f"{server} answers" + (" and is the sandbox" if case.is_sandbox else ""))
    else:
        fix = "check AMWAL_PROJECT_URL and this machine's network; the sandbox comes with make demo"
        yield Finding("FAIL", f"{server} gives no answer ({case.gateway.text})", fix)


def check_clock(case: Case) -> Iterator[Finding]:
    """Compare this machine's clock with the gateway's."""
    try:
        theirs = parsedate_to_datetime(case.gateway.headers.get("Date", "")).replace(tzinfo=UTC)  # HTTP times are GMT
    except ValueError:
        yield Finding("skip", "not checked: the gateway's answer carries no date")
        return
    ahead = round((now() - theirs).total_seconds())
    if abs(ahead) <= CLOCK_TOLERANCE:
        yield Finding("ok", f"at most {CLOCK_TOLERANCE} seconds from the gateway's")
    else:
        text = f"{abs(ahead)} seconds {'ahead of' if ahead > 0 else 'behind'} the gateway's"
        yield Finding("warn", text, "let the system set it, on Linux by timedatectl set-ntp true")


FIXES: dict[type[amwal.AmwalError], str] = {
    amwal.Unavailable: "try again later, and ask the gateway's support if it stays so",
    amwal.KeyRejected: "copy the API key from the project's settings page into AMWAL_API_KEY",
    amwal.Refused: "copy AMWAL_PROJECT_URL and AMWAL_API_KEY from the project's settings page once more",
    amwal.BadReply: "compare the reply with docs/protocol.md; AMWAL_PAYMENT_ORIGINS names where payment pages may be",
}


def check_api_key(case: Case) -> Iterator[Finding]:
    """Create an invoice: only that shows whether the key is accepted, and what a reply looks like."""
    if not case.is_sandbox and not case.create_test_invoice:
        nothing = f", and {case.record} was not written" if case.record else ""
        yield Finding("skip", f"not tried{nothing}: --create-test-invoice does, by creating a real invoice")
        return
    if not case.is_sandbox:
        text = f"creating a real invoice over 1 {case.settings.shop_currency}. Nobody needs to pay it, and no money "
        text += "moves unless somebody does. It stays listed in your account, as no call exists to cancel it"
        yield Finding("note", text)
    if case.record:
        yield Finding("note", f"what the reply looks like goes into {case.record}: no key, secret, id or path")
    client: amwal.Client = current_app.extensions["amwal"].client
    here, reply, started = case.settings.public_url, b"", now()
    words = {"header": "Test of the shop's settings", "description": "Nobody needs to pay this."}
    try:
        with doctor_record.listening(client) as heard:
            reply = heard.body = client.put_invoice(amount=Decimal(1), **words, success_url=here, cancel_url=here)
        invoice = amwal.parse_invoice(reply, case.settings.amwal_payment_origins)
    except amwal.AmwalError as error:
        yield Finding("FAIL", case.quote(error), FIXES[type(error)])
    else:
        log_success(started)
        yield Finding("ok", f"accepted: invoice {case.quote(invoice.id, invoice.secret)} was created")
    yield from compare(case, reply)
    yield from doctor_record.write(case, heard)


def log_success(started: datetime) -> None:
    """Log the call, which reopens a closed checkout. The database may be missing."""
    file, milliseconds = sqlite_file(), round((now() - started).total_seconds() * 1000)
    with suppress(SQLAlchemyError):
        if not file or file.exists():
            gateway.log_call(started, milliseconds, "ok", "a test by the doctor")


DOCUMENTED = {
    "err": ("0", r"0"),
    "data.invoiceId": ("24 hexadecimal digits", r'"[0-9a-f]{24}"'),
    "data.url": ("a web address", r'"https?://[!-~]+"'),
    "data.QR": ("a PNG picture in base64", r'"(data:image/png;base64,)?iVBORw0KGgo[A-Za-z0-9+/]+=*"'),
    "data.secret": ("a UUID, which is not shown", r'"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"'),
    "data.status": ("1", r"1"),
}
"""The fields of a reply (protocol: Create an invoice): in words, and as a pattern for their JSON."""


def compare(case: Case, reply: bytes) -> Iterator[Finding]:
    """Compare a reply with the protocol, field by field. Values aren't shown: one of them is the secret."""
    try:
        message = json.loads(reply)
        found = {name: value for name, value in message.items() if name != "data"}
        found |= {f"data.{name}": value for name, value in message["data"].items()}
    except (ValueError, RecursionError, AttributeError, KeyError):  # `amwal` has said so already
        return
    fix = "report it to the project, so that amwal.py and docs/protocol.md can follow"
    for name, (words, pattern) in DOCUMENTED.items():
        fits = name in found and re.fullmatch(pattern, json.dumps(found[name]))
        state = "as documented" if fits else "other than documented" if name in found else "missing"
        text = f"the reply's {name}: {state} ({words})"
        yield Finding("ok", text) if fits else Finding("warn", text, fix)
    for name in sorted(found.keys() - DOCUMENTED.keys()):
        shown = case.quote(name, str(found.get("data.secret")))
        yield Finding("note", f"the reply's {shown}: not documented")


# --- The shop as the gateway reaches it ------------------------------------------------------------------------------


def check_public_url(case: Case) -> Iterator[Finding]:
    """Whether a shop responds there without a redirect. Whether it is this one, the callback shows."""
    url = case.settings.public_url
    if is_local(url) and not is_local(case.settings.amwal_project_url):
        fix = "set it to a public address; while you try things out, a tunnel provides one"
        yield Finding("FAIL", f"the gateway cannot reach {url}, which is in this network alone", fix)
        return
    answer = ask("GET", f"{url}/healthz")
    if answer.status == 200 and answer.text.strip() == "ok":
        yield Finding("ok", f"a shop answers at {url}, as seen from this machine")
        yield from _compare_headers(url)
    elif not answer.status:
        fix = "start the shop, check that tunnel or reverse proxy lead to it, or correct PUBLIC_URL"
        yield Finding("FAIL", f"{url} gives no answer ({answer.text})", fix)
    elif 300 <= answer.status < 400:
        text = f"{url} redirects to {case.quote(answer.headers.get('Location', 'nowhere'))}"
        yield Finding("FAIL", text, "set PUBLIC_URL to the address that answers itself: with https or www, or without")
    else:
        fix = "check that name, port, tunnel and reverse proxy lead to the shop, or correct PUBLIC_URL"
        yield Finding("FAIL", f"something else answers at {url} (HTTP {answer.status})", fix)


def _compare_headers(url: str) -> Iterator[Finding]:
    """Whether proxies pass on the request's Host and the shop's headers. (`/healthz` answers to any Host.)"""
    answer = ask("GET", f"{url}/style.css")
    if answer.status == 400:
        fix = "let the proxy pass the Host header, in nginx by proxy_set_header Host $http_host, in Apache by "
        yield Finding("FAIL", f"a proxy at {url} changes the Host", f"{fix}ProxyPreserveHost On")
    changed = [name for name, value in security.headers().items() if answer.headers.get(name) != value]
    if answer.status == 200 and changed:
        yield Finding("warn", f"a proxy changes {', '.join(changed)}", "let it pass the shop's headers unchanged")


def check_callback(case: Case) -> Iterator[Finding]:
    """Whether a callback reaches this shop. One without a secret is refused and recorded, and flags nothing."""
    url, mark = f"{case.settings.public_url}{security.CALLBACK}", f"doctor-{uuid4().hex[:12]}"
    answer = ask("POST", url, {"doctor": mark})
    arrived = db.session.scalar(select(CallbackAttempt.id).where(CallbackAttempt.body.contains(mark))) is not None
    if answer.status == 400 and arrived:
        yield Finding("ok", f"{url} leads here; your project's settings at the gateway must name it")
    elif answer.status == 429 and "too_many" in answer.text:
        yield Finding("warn", f"{url} is flooded with invalid callbacks", "try again later; payments still get in")
    elif answer.status == 400 and "malformed" in answer.text:
        fix = "give the shop and this command the same PUBLIC_URL and DATABASE_URL"
        yield Finding("FAIL", f"{url} leads to another shop, or one with another database", fix)
    else:
        text = f"HTTP {answer.status}, without the shop's refusal" if answer.status else answer.text
        fix = f"let proxies pass POST {security.CALLBACK} unchanged, with its Host, and read the shop's log"
        yield Finding("FAIL", f"{url} does not lead to the shop's callback ({text})", fix)
