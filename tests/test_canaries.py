"""Row 53: the secrets are nowhere but where they belong. Each is a canary here, and looked for everywhere."""

import base64
import io
import json
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

import amwal
from models import GatewayCall, Order, OutboxMessage, digest
from shop import baskets, payments, privacy, staff, worker
from shop.db import Base, db
from shop.gateway import Gateway
from shop.ops import logs
from shop.states import OrderState, OutboxKind
from tests import test_worker
from tests.conftest import API_KEY, CheckingClient, OrderFactory, rows
from tests.test_worker import let_time_pass

certificate = test_worker.certificate

SETTINGS = {
    "SECRET_KEY": "canary-of-the-secret-key-" * 2,
    "SECRET_KEY_FALLBACKS": "canary-of-a-former-key-" * 2,
}
MAIL_PASSWORD = "canary/of@the mail password"
OTHERS = ("mail.", "asyncio", "sandbox", "concurrent")  # loggers of the programs that the shop is tested with


class Watched(CheckingClient):
    """A browser that keeps all that it is sent, but for its own cookie."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[str] = []
        self.cookies: set[str] = set()

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        response = super().open(*args, **kwargs)
        for name, value in response.headers:
            if name == "Set-Cookie":
                self.cookies.add(value.partition("=")[2].partition(";")[0])
            else:
                self.seen.append(f"{name}: {value}")
        self.seen.append(response.get_data().decode("latin-1"))
        return response


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that the shop and its libraries log, at their most talkative."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.OneLine())
    handler.addFilter(lambda record: not record.name.startswith(OTHERS))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def mail_server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A mail server that takes no login, and repeats what it was told. Gives its port."""

    def refuse(_server: Any, _session: Any, _envelope: Any, _mechanism: str, login: Any) -> AuthResult:
        said = f"535 5.7.8 {login.login.decode()} and {login.password.decode()} are not right"
        return AuthResult(success=False, handled=False, message=said)

    tls, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=certificate)
    tls.load_cert_chain(certificate)
    monkeypatch.setattr("shop.mail.ssl.create_default_context", lambda: trusting)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    server = Controller(
        test_worker.Mailbox(),
        hostname="127.0.0.1",
        port=port,
        authenticator=refuse,
        tls_context=tls,
        auth_required=True,
    )
    server.start()
    yield port
    server.stop()


@pytest.fixture
def app(log: io.StringIO, new_app: Callable[..., Flask], mail_server: int) -> Iterator[Flask]:
    """A shop whose every secret is a canary. Its database engines are made while the log is at its most talkative."""
    mail_url = f"smtp://shop:{quote(MAIL_PASSWORD, safe='')}@127.0.0.1:{mail_server}"
    app = new_app(**SETTINGS, MAIL_URL=mail_url)
    app.test_client_class = Watched
    with app.app_context():
        yield app


def database() -> str:
    """Every value of every table."""
    with db.engine.connect() as connection:
        return repr([connection.execute(select(table)).all() for table in Base.metadata.sorted_tables])


def found(canary: str, where: dict[str, str]) -> list[str]:
    """The places that a canary is in, as it is or in one of the shapes that it travels in."""
    encoded = base64.b64encode(canary.encode()).decode()
    shapes = {canary, quote(canary), quote(canary, safe=""), encoded.rstrip("="), json.dumps(canary)[1:-1], canary[:20]}
    return [name for name, text in where.items() if any(shape in text for shape in shapes)]


def test_row_53_the_secrets_are_nowhere(
    app: Flask, log: io.StringIO, order: OrderFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    browser = app.test_client()
    assert isinstance(browser, Watched)
    secrets = {"gateway 1": _pay_in_every_way(browser, order, monkeypatch)}
    with monkeypatch.context() as odd:
        secrets["gateway 2"] = _hear_odd_replies(browser, order, odd)
    _fail_in_other_ways(browser, order, monkeypatch)
    secrets |= _visit_the_dashboard(browser)
    order.awaiting()
    with monkeypatch.context() as better:  # mails that can be read, instead of a server that refuses them
        settings = replace(app.extensions["settings"], mail_url=str(tmp_path / "mail"))
        better.setitem(app.extensions, "settings", settings)
        let_time_pass()
        worker.tick()
    secrets |= {name: value[:40] for name, value in SETTINGS.items()}
    secrets |= {"AMWAL_API_KEY": API_KEY, "mail password": MAIL_PASSWORD, "wrong key": "canary-of-a-wrong-key"}
    secrets |= {f"cookie {number}": cookie for number, cookie in enumerate(browser.cookies)}
    where = {"log": log.getvalue(), "browser": "\n".join(browser.seen), "database": database()}
    where["files"] = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode("latin-1")
    for command in ("doctor", "audit"):
        where[command] = app.test_cli_runner().invoke(args=[command]).output
    mails = test_worker.mails(tmp_path)
    assert {name[:8] for name in mails} == {"mail-dig", "mail-pay", "mail-pai", "mail-rec", "mail-new"}
    where |= {name: mail.as_string() + mail.get_content() for name, mail in mails.items()}

    assert {name: found(secret, where) for name, secret in secrets.items() if found(secret, where)} == {}
    # The search would find them: what may be there is found, and every place was filled.
    [of_gateway] = {digest(secret) for name, secret in secrets.items() if name == "gateway 1"}
    assert "database" in found(of_gateway, where)
    assert len(browser.cookies) >= 4
    links = re.findall(r"/dashboard/new-password/(\S+)", "".join(mail.get_content() for mail in mails.values()))
    assert {name for link in links for name in found(link, where)} == {"files", *(n for n in mails if "new" in n)}
    for name, text in {"log": "SMTPAuthenticationError", "doctor": "login is refused", "browser": "<h1"}.items():
        assert text in where[name], name


def _pay_in_every_way(browser: Watched, order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pay an order, with everything that is odd about its callback. Gives the gateway's secret."""
    browser.fill_basket()
    page = browser.post("/checkout", data=browser.checkout_form()).headers["Location"]
    [placed] = rows(Order)
    good = order.callback(placed)
    secret: str = good["secret"]
    for path in (page, f"{page}?key={placed.key}", f"{page}/status", f"{page}/qr.png", "/basket", "/nothing"):
        browser.get(path)
    browser.get(page, headers={"Host": "evil.example"})
    whole = json.dumps(good)
    odd = [whole[:-1], f"secret={secret}", f'{{"secret": "{secret}", "secret": "{secret}"}}', f'["{secret}"]']
    odd += [json.dumps({"nested": good}), json.dumps(good | {"invoiceId": "another"}), whole + " " * 9000]
    odd += [f"{{'secret': '{secret}'}}", json.dumps({"Secret": secret}), whole.replace('"', ""), secret.upper()]
    for body in odd:
        assert browser.post("/amwal/callback", data=body).status_code >= 400
    with monkeypatch.context() as broken:  # in the midst of it, with the secret at hand
        broken.setattr(payments, "apply_payment", None)
        assert browser.post("/amwal/callback", data=whole).status_code == 500
    for _ in range(2):
        assert browser.post("/amwal/callback", data=whole).status_code == 200
    assert order.again(placed).state is OrderState.PAID
    browser.get(page)
    browser.get(f"{page}/receipt")
    return secret


def _visit_the_dashboard(browser: Watched) -> dict[str, str]:
    """Sign in, mistyping first, and see everything that staff see. Gives the passwords."""
    app, sign_in = browser.application, "/dashboard/sign-in"
    secrets = {"password": "canary of a password", "mistyped password": "canary that was mistyped"}
    staff.add("maha@example.com", "Maha", secrets["password"])
    for password in (secrets["mistyped password"], secrets["password"]):
        form = {"email": "maha@example.com", "password": password, "csrf_token": browser.csrf_token(sign_in)}
        browser.post(sign_in, data=form)
    numbers = {"number": "A-1001", "token": "x", "staff_id": "2", "attempt_id": "1"}
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/dashboard/") and "GET" in (rule.methods or ()):
            browser.get(re.sub(r"<(?:[^:>]*:)?(\w+)>", lambda name: numbers[name[1]], rule.rule))
    address = {"email": "maha@example.com", "csrf_token": browser.csrf_token("/dashboard/forgotten")}
    assert browser.post("/dashboard/forgotten", data=address).status_code == 303
    assert browser.get("/dashboard/orders").status_code == 200
    return secrets


def _hear_odd_replies(browser: Watched, order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Get replies of the gateway that put the secret where it could be seen. Gives it."""
    secret = "0927f7cc-98a7-4b67-a8b5-254fe46227dd"
    data = {"invoiceId": "65448ddef4924a5dd1b241a9", "url": "http://127.0.0.1:8001/en", "secret": secret, "QR": ""}
    urls = (f"https://{secret}.example/", f"http://127.0.0.1:8001/en?{secret}", f"javascript:'{secret}'")
    replies: list[Any] = [{"err": 0, "data": data | {"url": url}} for url in urls]
    replies += [{"err": 5, "data": data}, {"err": 0, "data": data | {"url": None}}, f"<html>{secret}</html>", data]
    for reply in replies:
        content = json.dumps(reply).encode()
        monkeypatch.setattr(amwal.Client, "put_invoice", lambda *_, content=content, **__: content)
        failed = order.awaiting()
        assert failed.state is OrderState.PLACED
        browser.get(f"/orders/{failed.token}?key={failed.key}")
    return secret


def _fail_in_other_ways(browser: Watched, order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rejected key, a gateway that is gone, a mistake of ours, a mail server that refuses, a customer who goes."""
    app = browser.application
    pages = {"http://127.0.0.1:8001"}
    for client in (
        amwal.Client(order.gateway.project_url, "canary-of-a-wrong-key", pages),
        amwal.Client("http://127.0.0.1:9/projects/none", API_KEY, pages),
    ):
        with monkeypatch.context() as broken:
            broken.setitem(app.extensions, "amwal", Gateway(client))
            order.awaiting()
    assert [call.outcome for call in rows(GatewayCall)][-2:] == ["KeyRejected", "Unavailable"]
    with monkeypatch.context() as broken:
        broken.setattr(baskets, "find", None)
        assert browser.get("/basket").status_code == 500
    for _ in range(worker.ALERT_AFTER):
        worker.tick()
        let_time_pass()
    [receipt] = rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT)
    assert "repeats a secret" in receipt.error
    privacy.forget("sara@example.com")


def test_row_53_the_databases_password_is_nowhere_when_it_cannot_be_reached(
    log: io.StringIO, new_app: Callable[..., Flask]
) -> None:
    password = "canary-of-the-database"
    app = new_app(DATABASE_URL=f"postgresql://shop:{password}@127.0.0.1:9/shop")
    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    app.test_client_class = Watched
    browser = app.test_client()
    assert isinstance(browser, Watched)
    with app.app_context():
        assert browser.get("/").status_code == 503
        assert browser.get("/readyz").status_code == 503
        assert browser.post("/amwal/callback", data=json.dumps({"secret": "s"})).status_code == 503
        runner = app.test_cli_runner()
        commands = {name: runner.invoke(args=[name]).output for name in ("doctor", "audit")}
    assert "database unavailable" in log.getvalue()
    assert found(password, {"log": log.getvalue(), "browser": "\n".join(browser.seen), **commands}) == []
