"""Every page and every view of the order page, in English and Arabic, light and dark, on a phone and on a desk."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from flask import Flask
from playwright.sync_api import Page, Route

from models import GatewayCall, Order, now
from shop import orders
from shop.db import write
from shop.gateway import reopen_checkout
from shop.states import CUSTOMER
from tests.browser.conftest import FACES, Demo, Visitor, ask_for_invoice, scan
from tests.conftest import OrderFactory, rows

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGES = {
    "catalogue": "/",
    "category": "/?category=gear&sort=-price",
    "search": "/?q=coffee+bean",
    "nothing found": "/?q=tractor",
    "product": "/products/brass-dallah",
    "sold out": "/products/sidr-honey",
    "empty basket": "/basket",
    "terms": "/pages/terms",
    "privacy": "/pages/privacy",
    "returns": "/pages/returns",
    "contact": "/pages/contact",
    "not found": "/nothing",
}
MODES = list(itertools.product(("en-GB", "ar-JO"), ("light", "dark"), (390, 1280)))
MODE_NAMES = [f"{language[:2]}-{width}-{scheme}" for language, scheme, width in MODES]


def check(visitor: Visitor, address: str, status: int = 200) -> None:
    """Open a page: the status, no sideways scrolling, nothing that axe finds."""
    response = visitor.page.goto(address)
    assert response is not None
    assert response.status == status
    scan_for_faults(visitor.page)


def scan_for_faults(page: Page) -> None:
    """No sideways scrolling, nothing that axe finds."""
    check_width(page)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def check_width(page: Page) -> None:
    """No sideways scrolling."""
    too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert too_wide <= 0, f"{too_wide} px too wide"


def window(visit: Callable[..., Visitor], mode: tuple[str, str, int]) -> Visitor:
    """A window in a mode."""
    language, scheme, width = mode
    return visit(
        locale=language, color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce"
    )


@pytest.mark.parametrize("mode", MODES, ids=MODE_NAMES)
def test_pages(visit: Callable[..., Visitor], demo: Demo, mode: tuple[str, str, int]) -> None:
    visitor = window(visit, mode)
    for name, path in PAGES.items():
        check(visitor, demo.shop + path, 404 if name == "not found" else 200)
    visitor.fill_basket(demo)
    check(visitor, f"{demo.shop}/basket")
    check(visitor, f"{demo.shop}/checkout")


@pytest.mark.parametrize("mode", MODES, ids=MODE_NAMES)
def test_faces_of_the_order_page(
    visit: Callable[..., Visitor], demo: Demo, views: dict[str, str], mode: tuple[str, str, int], tmp_path: Path
) -> None:
    visitor = window(visit, mode)
    headings = {}
    for name in FACES:
        if name == "preparing":
            ask_for_invoice(views[name])
        check(visitor, demo.shop + views[name])
        headings[name] = visitor.page.locator("h1").inner_text()
        if name in ("waiting", "plain token"):
            link = visitor.page.locator('a[href*="/invoice/"]').first.get_attribute("href")
            assert scan_whole(visitor, tmp_path) == link
    check(visitor, demo.shop + views["paid"].replace("?", "/receipt?"))
    same = {headings.pop("plain token"): headings["waiting"], headings.pop("paid late"): headings["paid"]}
    assert all(heading == other for heading, other in same.items())
    assert len(set(headings.values())) == len(FACES) - 2, headings


def scan_whole(visitor: Visitor, folder: Path) -> str:
    """Read the QR where it stands: on a phone below the fold."""
    visitor.page.locator('img[src^="data:image/png"]').scroll_into_view_if_needed()
    return scan(visitor.page, folder / "qr.png")


@pytest.fixture
def tidy(shop: Flask) -> Iterator[None]:
    """Afterwards no order of the web is unpaid, and the checkout is open: all windows here have one address."""
    yield
    for placed in rows(Order):
        if placed.network and placed.is_cancellable:
            orders.cancel(placed.id, CUSTOMER)
    reopen_checkout("a test")


@pytest.mark.parametrize("mode", MODES, ids=MODE_NAMES)
@pytest.mark.usefixtures("tidy")
def test_a_checkout_that_takes_no_order(visit: Callable[..., Visitor], demo: Demo, mode: tuple[str, str, int]) -> None:
    visitor = window(visit, mode)
    placed = [visitor.checkout(demo) for _ in range(3)]
    assert visitor.checkout(demo, refused=True) == f"{demo.shop}/checkout"
    notice = visitor.page.locator('[role="alert"]')
    links = [link.get_attribute("href") for link in notice.locator("a").all()]
    assert [f"{demo.shop}{link}" for link in links] == placed
    scan_for_faults(visitor.page)
    with write() as session:
        for _ in range(3):
            session.add(GatewayCall(started_at=now(), milliseconds=1, outcome="KeyRejected"))
    check(visitor, f"{demo.shop}/checkout", 503)
    visitor.page.locator("main a.button").click()
    visitor.page.wait_for_url("**/basket**")
    assert visitor.page.locator(".basket-line").count() == 1


def test_row_50_a_buyer_who_comes_back_from_another_site_still_has_the_basket(
    visit: Callable[..., Visitor], demo: Demo
) -> None:
    """And a form that the other site sends in the buyer's name finds no cookie, and changes nothing."""
    elsewhere = "http://payment.example/"
    form = f'<form method="post" action="{demo.shop}/basket/items"><input name="product" value="brass-dallah"><button>'
    visitor = visit(reduced_motion="reduce")  # a view transition that is cut short complains
    visitor.own = (*visitor.own, elsewhere)
    page = visitor.page
    there = f'<title>there</title><a href="{demo.shop}/basket">back to the shop</a>{form}'
    page.route(f"{elsewhere}**", lambda route: route.fulfill(body=there, content_type="text/html"))
    visitor.fill_basket(demo)
    page.goto(elsewhere)
    page.get_by_role("link", name="back to the shop").click()
    page.wait_for_url("**/basket**")
    assert page.locator(".basket-line").count() == 1
    page.goto(elsewhere)
    with page.expect_response("**/basket/items") as answer:
        page.locator("button").click()
    assert answer.value.status == 400
    assert "cookie" not in answer.value.request.all_headers()
    page.locator("h1").wait_for()
    page.goto(f"{demo.shop}/basket")
    assert page.locator(".basket-line").count() == 1


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_a_refused_checkout_leads_to_the_fields_by_keyboard(
    visit: Callable[..., Visitor], demo: Demo, javascript: bool
) -> None:
    visitor = visit(java_script_enabled=javascript)
    page = visitor.page
    visitor.fill_basket(demo)
    page.goto(f"{demo.shop}/checkout")
    if javascript:  # past the browser's own checks, to see the shop's
        page.locator("form[action='/checkout']").evaluate("form => form.noValidate = true")
    page.fill('[name="name"]', "Sara")
    page.fill('[name="email"]', "sara@example")
    for name in ("address", "city"):
        page.fill(f'[name="{name}"]', "x")
    page.select_option('[name="country"]', "JO")
    page.locator('main form[action="/checkout"] button').last.press("Enter")
    summary = page.locator('[role="alert"]')
    summary.wait_for()
    summary.locator("a").first.press("Enter")
    page.wait_for_url("**#email")  # the press comes back before the address has changed
    assert page.locator('[name="name"]').input_value() == "Sara"


def test_the_skip_link_is_the_first_stop(visit: Callable[..., Visitor], demo: Demo) -> None:
    page = visit().page
    page.goto(demo.shop)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main"
    page.keyboard.press("Enter")
    page.wait_for_url("**#main")  # the press comes back before the address has changed


def test_the_copy_button_works_without_the_clipboard_api(
    visit: Callable[..., Visitor], demo: Demo, views: dict[str, str]
) -> None:
    """Pages over plain http in a local network have no clipboard API."""
    visitor = visit()
    visitor.page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    visitor.page.add_init_script(
        """document.execCommand = what => {
            const marked = document.activeElement;
            window.copied = what + ":" + marked.value.slice(marked.selectionStart, marked.selectionEnd);
        }"""
    )
    visitor.page.goto(demo.shop + views["waiting"])
    visitor.page.locator("[data-copy]").click()
    link = visitor.page.locator('a[href*="/invoice/"]').first.get_attribute("href")
    assert visitor.page.evaluate("window.copied") == f"copy:{link}"


def test_row_47_a_script_in_names_and_notes_stays_text(visit: Callable[..., Visitor], demo: Demo, shop: Flask) -> None:
    order = OrderFactory(shop.extensions["store"])
    evil = '"><script>document.title="broken"</script><img src=x onerror=document.title="broken">'
    placed = order.placed(name=evil, note=evil, address=evil)
    visitor = visit()
    visitor.page.goto(f"{demo.shop}/orders/{placed.token}?key={placed.key}")
    assert "broken" not in visitor.page.title()
    assert evil in visitor.page.locator("main").inner_text()


def test_row_44_the_key_stays_where_the_browser_keeps_no_cookies(
    visit: Callable[..., Visitor], demo: Demo, shop: Flask
) -> None:
    placed = OrderFactory(shop.extensions["store"]).placed()
    page = visit().page
    asked = []

    def without_cookies(route: Route) -> None:
        method = route.request.method
        answer = requests.request(method, route.request.url, allow_redirects=False, timeout=10)
        asked.append(method)
        kind = answer.headers["Content-Type"]
        route.fulfill(status=answer.status_code, content_type=kind, body=answer.content)

    page.route(f"{demo.shop}/orders/**", without_cookies)
    page.goto(f"{demo.shop}/orders/{placed.token}?key={placed.key}")
    page.wait_for_timeout(500)
    assert "HEAD" in asked, "the script has looked whether the cookie is kept"
    page.reload()
    assert placed.key in page.url
    assert "12 Olive Street" in page.locator("main").inner_text()


def test_row_105_the_orders_key_leaves_the_address_bar_and_the_history(
    visit: Callable[..., Visitor], demo: Demo, shop: Flask
) -> None:
    placed = OrderFactory(shop.extensions["store"]).placed()
    page = visit().page
    page.goto(f"{demo.shop}/orders/{placed.token}?key={placed.key}")
    page.wait_for_url(f"{demo.shop}/orders/{placed.token}")
    page.reload()
    assert "12 Olive Street" in page.locator("main").inner_text()
    page.goto(demo.shop)
    page.go_back()
    assert placed.key not in page.url
    assert "12 Olive Street" in page.locator("main").inner_text()
