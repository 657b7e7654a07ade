"""Fixtures: a shop on a database made by the real migrations, a client that checks every page, a real sandbox gateway
over HTTP, and orders in whatever state a test needs. Little else.

Every test that has a shop runs twice: on SQLite, and, marked `postgres`, on PostgreSQL.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from jinja2.bccache import Bucket, BytecodeCache
from sqlalchemy import Engine, event, inspect, select
from waitress.server import create_server
from werkzeug.test import TestResponse

import sandbox.app
from app import create_app
from models import Attention, Order, Product, Staff, StockMovement, now
from shop import baskets, catalogue, orders, payments
from shop import staff as accounts
from shop.db import db, write
from shop.limits import UNLIMITED
from shop.ops import sample
from shop.states import AttentionKind, CallbackOutcome, StockReason
from tests.children import Child, Start, children, forget_settings
from tests.pages import check_page, field, required_fields
from tests.postgres import Server, programs

forget_settings()

# A slow machine is no bug: how long an example takes says nothing here.
hypothesis.settings.register_profile("shop", deadline=None)
hypothesis.settings.load_profile("shop")

PUBLIC_URL = "http://127.0.0.1:9"  # nobody answers there: at 8000, a live shop of the fork might
API_KEY = "a-key-for-tests"
CONTACT = {
    "name": "Sara Haddad",
    "email": "sara@example.com",
    "phone": "",
    "address": "12 Olive Street",
    "city": "Amman",
    "region": "",
    "postcode": "",
    "country": "JO",
    "note": "",
}


def filled_form(page: str) -> dict[str, str]:
    """The checkout form of a page, filled; also what only a fork's form requires."""
    hidden = {name: field(page, name) for name in ("csrf_token", "checkout_key")}
    return required_fields(page) | CONTACT | {"delivery": "bicycle"} | hidden


class CheckingClient(FlaskClient):
    """A client that checks every page it gets, whatever its test is about."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        kwargs.setdefault("base_url", self.application.extensions["settings"].public_url)
        with self.application.app_context():  # as in production, nothing is shared between requests
            response = super().open(*args, **kwargs)
        if response.mimetype == "text/html" and not 300 <= response.status_code < 400 and response.data:
            check_page(response.text)
        return response

    def follow(self, response: TestResponse) -> TestResponse:
        """Go where a 303 leads."""
        assert response.status_code == 303, response.status
        return self.get(response.headers["Location"])

    def fill_basket(self, slug: str = "stoneware-cup", quantity: int = 1) -> None:
        """Put something into this browser's basket."""
        response = self.post("/basket/items", data={"product": slug, "quantity": str(quantity)})
        assert response.status_code == 303, response.text

    def checkout_form(self, **changes: str) -> dict[str, str]:
        """What a browser would send from the checkout page."""
        return filled_form(self.get("/checkout").text) | changes

    def csrf_token(self, path: str) -> str:
        """The token in a page's forms."""
        return field(self.get(path, follow_redirects=True).text, "csrf_token")


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The sandbox gateway, answering PUTs over HTTP. Its callbacks are off: tests send their own."""
    with sandbox_in(tmp_path_factory.mktemp("sandbox")) as store:
        yield store


@contextmanager
def sandbox_in(folder: Path) -> Iterator[Any]:
    """Such a gateway, with its database in a folder: its `Store`, with its `project_url`."""
    app = sandbox.app.create_app(
        database=folder / "sandbox.db",
        callback_url="",
        api_key=API_KEY,
        public_url="http://127.0.0.1:8001",
    )
    server = create_server(app, host="127.0.0.1", port=0, threads=8)
    threading.Thread(target=server.run, daemon=True).start()
    store: Any = sandbox.app.store_of(app)
    store.project_url = f"http://127.0.0.1:{server.effective_port}/projects/{store.project().id}"
    yield store
    server.close()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database built by the real migrations and filled with products, to be copied for each test."""
    folder = tmp_path_factory.mktemp("migrated")
    fill(settings_for(folder, "http://127.0.0.1:9/projects/none"))
    return folder / "shop.db"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A PostgreSQL server whose database `sample` is such a one, too."""
    folder = programs()
    if folder is None:
        missing("PostgreSQL server", "apt-get install postgresql, or your system's package of it")
    server = Server(folder)
    try:
        server.execute("CREATE DATABASE sample")
        settings = settings_for(tmp_path_factory.mktemp("postgres"), "http://127.0.0.1:9/projects/none")
        fill(settings | {"DATABASE_URL": server.url("sample")})
        yield server
    finally:
        server.remove()


def pytest_xdist_auto_num_workers() -> int:
    """Run three tests on two cores: many wait for a program to start, or for time to pass."""
    return max(2, (os.cpu_count() or 2) * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest tests begin first, each in another process: at the end, one would run alone on two cores.

    A test that takes half a minute says so: `@pytest.mark.slow(seconds=60)`. Each process begins with an equal part of
    the list, and takes from others' when it has done its own.
    """
    seconds = {item: mark.kwargs.get("seconds", 0) for item in items if (mark := item.get_closest_marker("slow"))}
    longest = sorted((item for item, takes in seconds.items() if takes), key=lambda item: -seconds[item])
    others = [item for item in items if item not in longest]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = len(others) // processes + 1
    items[:] = [
        item
        for number in range(processes)
        for item in longest[number::processes] + others[number * share : (number + 1) * share]
    ]


ALLOWED_SKIPS = ("a bug that ",)
"""Beginnings of the reasons for which CI may skip a test."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that CI skips for any other reason: nobody would notice that it isn't run there."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
            report.outcome, report.longrepr = "failed", f"CI may not skip this test: {reason}"
    return report


def missing(what: str, how: str) -> NoReturn:
    """Skip where a program is missing; fail where it must be there."""
    reason = f"no {what} here: {how}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def find_program(name: str, package: str = "") -> str:
    """Return the path of a program that a test runs."""
    return shutil.which(name) or missing(name, f"apt-get install {package or name}, or your system's package of it")


def decode(picture: Path) -> str:
    """Return what a phone's camera would read; "" if there is no QR code."""
    command = [find_program("zbarimg", "zbar-tools"), "--quiet", "--raw", str(picture)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()


PRODUCTS = Path(__file__).parent / "data" / "shop.json"
"""What the tests sell: a fork changes the sample shop's file, and not this one."""


def fill(settings: dict[str, str]) -> None:
    """Run the migrations, and add the tests' products."""
    app = create_app(settings)
    with app.app_context():
        upgrade()
        sample.fill(PRODUCTS)
        for one in db.engines.values():
            one.dispose()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what has a shop on both databases, unless its marker names one."""
    if "database_url" in metafunc.fixturenames:
        marks = {mark.name for mark in metafunc.definition.iter_markers()}
        kinds = [pytest.param("sqlite", id=pytest.HIDDEN_PARAM)] if "postgres" not in marks else []
        kinds += [pytest.param("postgresql", marks=pytest.mark.postgres)] if "sqlite" not in marks else []
        metafunc.parametrize("database_url", kinds, indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a fresh database with products."""
    if request.param == "postgresql":
        with request.getfixturevalue("postgres").database("sample") as url:
            yield url
    else:
        shutil.copy(request.getfixturevalue("migrated"), tmp_path / "shop.db")
        yield f"sqlite:///{tmp_path / 'shop.db'}"


def settings_for(folder: Path, project_url: str, **changes: str) -> dict[str, str]:
    """Settings of a shop that keeps everything in a folder."""
    return {
        "AMWAL_PROJECT_URL": project_url,
        "AMWAL_API_KEY": API_KEY,
        "AMWAL_PAYMENT_ORIGINS": "http://127.0.0.1:8001",
        "PUBLIC_URL": PUBLIC_URL,
        "SECRET_KEY": "only-for-tests-" * 4,
        "DATABASE_URL": f"sqlite:///{folder / 'shop.db'}",
        "MAIL_URL": str(folder / "mail"),
        "MERCHANT_EMAIL": "merchant@example.com",
    } | changes


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs that end with the test."""
    with children() as start:
        yield start


Serve = Callable[..., Child]


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Serve:
    """Start `flask serve` with its database in the test's folder."""

    def serve(port: int, *options: str, **changes: str) -> Child:
        settings = settings_for(tmp_path, "http://127.0.0.1:9/projects/none", **changes)
        return start("-m", "flask", "--app", "app", "serve", "--port", str(port), *options, env=settings)

    return serve


class Compiled(BytecodeCache):
    """Templates that one app has compiled, for the apps of all further tests: it takes longer than most of them."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give what was compiled from the same source."""
        if code := self.kept.get(bucket.key):
            bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what was compiled."""
        self.kept[bucket.key] = bucket.bytecode_to_string()


COMPILED = Compiled()


KEPT: dict[tuple[str, str], Engine] = {}


def share_compiled(app: Flask) -> None:
    """Let the databases of all tests share the SQL that SQLAlchemy has compiled: it takes a sixth of the tests' time.

    What is kept belongs to a dialect object, so they share that, too.
    """
    with app.app_context():
        for name, engine in db.engines.items():
            key = engine.dialect.name, str(name)
            if key in KEPT:
                engine.dialect, engine._compiled_cache = KEPT[key].dialect, KEPT[key]._compiled_cache
            else:  # from its first connection on, the dialect knows its server
                event.listen(engine, "connect", lambda *_, key=key, engine=engine: KEPT.setdefault(key, engine))


@pytest.fixture
def new_app(database_url: str, tmp_path: Path, gateway: Any) -> Iterator[Callable[..., Flask]]:
    """Make a shop with changed settings."""
    made: list[Flask] = []

    def make(**changes: str) -> Flask:
        app = create_app(settings_for(tmp_path, gateway.project_url, **{"DATABASE_URL": database_url} | changes))
        app.test_client_class = CheckingClient
        app.testing = True
        app.jinja_env.bytecode_cache = COMPILED
        share_compiled(app)
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            for one in db.engines.values():
                one.dispose()


@pytest.fixture
def app(new_app: Callable[..., Flask]) -> Iterator[Flask]:
    """The shop, with its context pushed for reading the database."""
    app = new_app()
    with app.app_context():
        yield app


@pytest.fixture
def client(app: Flask) -> CheckingClient:
    """A browser."""
    client = app.test_client()
    assert isinstance(client, CheckingClient)
    return client


@pytest.fixture
def staff(app: Flask) -> int:
    """The id of a member of staff."""
    with write() as session:
        person = Staff(email="omar@example.com", name="Omar", password_hash="-")
        session.add(person)
    return person.id


@pytest.fixture
def desk(app: Flask, client: CheckingClient, staff: int) -> CheckingClient:
    """A browser in which this member of staff is signed in."""
    sign_in(app, client, staff)
    return client


def sign_in(app: Flask, client: CheckingClient, staff_id: int) -> None:
    """Give a browser the cookie of a session, without a password."""
    token = accounts.begin(db.session.get_one(Staff, staff_id), "Firefox · Windows")
    client.set_cookie(app.config["STAFF_COOKIE"], token, domain="127.0.0.1")


class OrderFactory:
    """Places orders as a checkout does, and brings them where a test needs them."""

    def __init__(self, gateway: Any) -> None:
        self.gateway = gateway

    def placed(self, slug: str = "stoneware-cup", quantity: int = 1, **contact: str) -> Order:
        """An order before the gateway was asked."""
        product = catalogue.product(slug)
        assert product is not None
        token = baskets.add(None, product, quantity)
        basket = baskets.find(token)
        assert basket is not None
        quote = orders.Quote(token, basket.version, {"pickup": basket.goods})
        return orders.place(quote, CONTACT | contact, "pickup", "en", UNLIMITED)

    def awaiting(self, slug: str = "stoneware-cup", quantity: int = 1, **contact: str) -> Order:
        """An order with an invoice of the sandbox."""
        order = self.placed(slug, quantity, **contact)
        payments.request_invoice(order.id)
        return self.again(order)

    def expired(self, slug: str = "stoneware-cup", quantity: int = 1) -> Order:
        """An order whose reservation has run out."""
        order = self.awaiting(slug, quantity)
        self.run_out(order)
        assert orders.expire(order.id)
        return self.again(order)

    def run_out(self, order: Order) -> None:
        """Let an order's reservation be over."""
        with write() as session:
            session.get_one(Order, order.id).reserved_until = now() - timedelta(seconds=1)

    def again(self, order: Order) -> Order:
        """The order as it is in the database now."""
        db.session.expire_all()
        return db.session.get_one(Order, order.id)

    def callback(self, order: Order, session_id: str = "6545360496c8b48eeab3837e") -> dict[str, Any]:
        """What the gateway sends when the order's invoice was paid."""
        invoice = self.again(order).invoice
        assert invoice is not None
        known = self.gateway.invoice(invoice.gateway_id)
        return {"invoiceId": known.id, "paymentSessionId": session_id, "secret": known.secret}

    def pay(self, order: Order, **changes: Any) -> CallbackOutcome:
        """Let the good callback arrive."""
        return payments.accept_callback(json.dumps(self.callback(order) | changes).encode(), "127.0.0.1")


@pytest.fixture
def order(app: Flask, gateway: Any) -> OrderFactory:
    """Orders in the state that a test needs."""
    return OrderFactory(gateway)


def stock_of(slug: str) -> int:
    """What is left of a product."""
    db.session.expire_all()
    return db.session.scalars(select(Product.stock).filter_by(slug=slug)).one()


def set_stock(slug: str, units: int) -> None:
    """Leave so many of a product, by the ledger."""
    with write() as session:
        product = session.scalars(select(Product).filter_by(slug=slug)).one()
        if units != product.stock:
            reason = StockReason.INTAKE
            session.add(StockMovement(product_id=product.id, quantity=units - product.stock, reason=reason))
            product.stock = units


def attention(kind: AttentionKind) -> Attention | None:
    """The open item of a kind."""
    db.session.expire_all()
    return db.session.scalar(select(Attention).filter_by(kind=kind, closed_at=None))


def rows(model: type[Any], **values: Any) -> list[Any]:
    """All rows of a table with these values, in the order in which they came."""
    db.session.expire_all()
    return list(db.session.scalars(select(model).filter_by(**values).order_by(*inspect(model).primary_key)))
