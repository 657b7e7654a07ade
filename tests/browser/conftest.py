"""A real Chromium in front of the real demo: shop, worker and sandbox gateway as separate programs."""

import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from sqlalchemy import update

from app import create_app
from models import Order, Staff, now
from sandbox.store import Store
from shop import orders
from shop.db import db, write
from shop.states import CUSTOMER, Actor, By, OrderState
from tests.children import children, free_port, start_demo
from tests.conftest import CONTACT, OrderFactory, decode, fill, missing, settings_for
from tests.pages import required_fields

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Demo:
    """A running demonstration."""

    shop: str
    sandbox: str
    folder: Path

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the shop's database."""
        connection = sqlite3.connect(f"file:{self.folder / 'shop.db'}?mode=ro", uri=True)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def wait_for_mail(self, name: str) -> Path:
        """A mail that the worker lays down within some seconds."""
        file = self.folder / "mail" / name
        for _ in range(100):
            if file.exists():
                return file
            time.sleep(0.1)
        raise AssertionError(f"{name} was not sent")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """What `make demo` runs, in a folder of its own, for this machine alone; it must end cleanly, too."""
    folder = tmp_path_factory.mktemp("demo")
    with children() as start:
        stage, shop, sandbox = start_demo(start, folder, free_port())
        fill(settings_for(folder, "http://127.0.0.1:9/projects/none"))  # beside the products of the fork
        yield Demo(shop, sandbox, folder)
        stage.send_signal(signal.SIGTERM)
        assert stage.wait(30) == 0


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        missing("Chromium", "apt-get install chromium, or your system's package of it")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """A browser window that notes what no page of ours may do."""

    context: BrowserContext
    page: Page
    own: tuple[str, ...]
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> Page:
        """Note requests to other hosts, errors on the console and failed requests."""

        def request(sent: Any) -> None:
            if not sent.url.startswith((*self.own, "data:", "blob:")):
                self.complaints.append(f"asked {sent.url}")

        def response(answer: Any) -> None:
            if answer.status >= 400 and answer.request.resource_type != "document":
                self.complaints.append(f"{answer.status} for {answer.url}")

        page.on("request", request)
        page.on("response", response)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}"))
        return page

    def _console(self, said: Any) -> None:
        # Chromium reports a page with status 4xx, too, which some tests ask for; other files see `response` above.
        if said.type in ("error", "warning") and not said.text.startswith("Failed to load resource"):
            self.complaints.append(f"console: {said.text}")

    def fill_basket(self, demo: Demo, slug: str = "stoneware-cup") -> None:
        """Put something into the basket, which is shown then."""
        self.page.goto(f"{demo.shop}/products/{slug}")
        self.page.locator("main form button").first.click()
        self.page.wait_for_url("**/basket**")

    def checkout(self, demo: Demo, slug: str = "haraz-single-origin", *, refused: bool = False) -> str:
        """Buy something up to the order's page, as a person does; gives its address, or where a refusal is shown."""
        self.fill_basket(demo, slug)
        page = self.page
        page.locator('main a[href="/checkout"]').first.click()
        for name, value in (required_fields(page.content()) | CONTACT).items():
            if name == "country":
                page.select_option('[name="country"]', value)
            elif value:
                page.fill(f'[name="{name}"]', value)
        page.check('[name="delivery"][value="standard"]', force=True)
        page.locator('main form[action="/checkout"] button').last.click()
        page.wait_for_selector('[role="alert"]') if refused else page.wait_for_url("**/orders/*")
        return page.url


FACES = (
    *("waiting", "confirming", "preparing", "unreachable", "paid", "paid late", "expired", "needs_review"),
    *("cancelled", "refunded", "plain token"),
)
"""Views of the order page."""


@pytest.fixture(scope="module")
def shop(demo: Demo) -> Iterator[Flask]:
    """The demo's own rules and database, to bring orders into states that would take hours otherwise."""
    store = Store(demo.folder / "sandbox.db")
    project = store.project()
    app = create_app(
        settings_for(
            demo.folder,
            f"{demo.sandbox}/projects/{project.id}",
            AMWAL_API_KEY=project.api_key,
            AMWAL_PAYMENT_ORIGINS=demo.sandbox,
            PUBLIC_URL=demo.shop,
            DEMO="on",
        )
    )
    app.extensions["store"] = store
    with app.app_context():
        yield app
        for engine in db.engines.values():
            engine.dispose()
    store.close()


@pytest.fixture(scope="module")
def views(shop: Flask) -> dict[str, str]:
    """The address of an order for each view, below the shop's."""
    order = OrderFactory(shop.extensions["store"])
    made: dict[str, Order] = {name: order.awaiting() for name in ("waiting", "confirming", "plain token")}
    made["paid"], made["refunded"] = order.awaiting("brass-dallah"), order.awaiting()
    made["expired"], made["paid late"] = order.expired(), order.expired()
    made["cancelled"], made["needs_review"] = order.awaiting(), order.awaiting()
    made["unreachable"], made["preparing"] = order.placed(), order.placed()
    for name in ("cancelled", "needs_review"):
        orders.cancel(made[name].id, CUSTOMER)
    for name in ("paid", "paid late", "needs_review", "refunded"):
        order.pay(made[name])
    with write() as session:
        person = Staff(email=f"omar+{made['refunded'].id}@example.com", name="Omar", password_hash="-")
        session.add(person)
        session.flush()
        by = By(Actor.STAFF, person.id)
        orders.transition(session, orders.lock(session, made["refunded"].id), OrderState.REFUNDED, by)
    addresses = {name: f"/orders/{one.token}?key={one.key}" for name, one in made.items()}
    addresses["confirming"] += "&returned=success"
    addresses["plain token"] = addresses["plain token"].partition("?")[0]
    assert set(addresses) == set(FACES)
    return addresses


def ask_for_invoice(address: str) -> None:
    """Let an order's page show, for some seconds, that the gateway is being asked for its invoice."""
    token = address.partition("?")[0].rpartition("/")[2]
    with write() as session:
        until = now() + Order.INVOICE_LEASE
        session.execute(update(Order).filter_by(token=token).values(invoice_claimed_until=until))


@pytest.fixture
def visit(browser: Browser, demo: Demo) -> Iterator[Callable[..., Visitor]]:
    """Open a window. At the end, nothing that no page may do must have happened in any of them."""
    visitors: list[Visitor] = []

    def open_window(**options: Any) -> Visitor:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        options.setdefault("locale", "en-GB")
        context = browser.new_context(**options)
        context.set_default_timeout(10_000)
        visitor = Visitor(context, context.new_page(), (demo.shop, demo.sandbox))
        visitor.watch(visitor.page)
        visitors.append(visitor)
        return visitor

    yield open_window
    for visitor in visitors:
        visitor.context.close()
    assert not [complaint for visitor in visitors for complaint in visitor.complaints]


def scan(page: Page, picture: Path) -> str:
    """What a phone's camera would read from the screen.

    Without JavaScript a screenshot may still show the page before: Chromium holds it until the next one is painted.
    """
    for _ in range(10):
        page.screenshot(path=picture)
        if text := decode(picture):
            return text
        page.wait_for_timeout(300)
    raise AssertionError(f"no QR can be read in {picture}")
