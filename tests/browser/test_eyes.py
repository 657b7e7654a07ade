"""What people see and hear: long words, typed directions, announcements, forced colours, print, fonts."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page

from models import Category, Product
from shop.db import write
from tests.browser.conftest import Demo, Visitor, ask_for_invoice
from tests.conftest import OrderFactory, set_stock

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
LANGUAGES = ["en-GB", "ar-JO"]
NARROW = {"width": 320, "height": 720}


@pytest.fixture(scope="module")
def long_words(shop: Flask) -> str:
    """A product whose every word is too long for a phone. Its slug."""
    with write() as session:
        names = {"en": LONG, "ar": LONG}
        shelf = Category(slug="long", name=names, position=99)
        session.add(shelf)
        session.flush()
        texts = dict.fromkeys(("name", "subtitle", "description", "label"), names)
        price = 1_000_000_000_00
        session.add(
            Product(
                slug="long", category_id=shelf.id, price=price, stock=0, image="img/favicon.svg", active=True, **texts
            )
        )
    set_stock("long", 60)
    return "long"


OUTSIDE = """[...document.querySelectorAll("body *")].filter(it => {
    const box = it.getBoundingClientRect();
    return box.right > innerWidth + 1 || box.left < -1;
}).map(it => it.outerHTML.slice(0, 120))"""
"""What stands outside of the window."""


def too_wide(page: Page) -> int:
    """By how many pixels a page scrolls sideways."""
    width = int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
    if width > 0:
        print(page.evaluate(OUTSIDE))
    return width


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.usefixtures("long_words")
def test_row_73_no_word_widens_a_page(
    visit: Callable[..., Visitor],
    demo: Demo,
    shop: Flask,
    views: dict[str, str],
    language: str,
) -> None:
    visitor = visit(locale=language, viewport=NARROW)
    page = visitor.page
    order = OrderFactory(shop.extensions["store"])
    contact: dict[str, Any] = dict.fromkeys(("name", "address", "city", "region", "note"), LONG) | {
        "email": f"{LONG[:60]}@example.com"
    }
    made = [order.awaiting("long", **contact), order.expired("long"), order.awaiting("long", **contact)]
    order.pay(made[-1])
    own = [f"/orders/{one.token}?key={one.key}" for one in made]
    addresses = ["/?category=long", "/", "/products/long", f"/?q={LONG}", *own, own[-1].replace("?", "/receipt?")]
    for path in (*addresses, *views.values(), "/basket", "/nothing", "/pages/contact", "/pages/terms"):
        page.goto(demo.shop + path)
        assert too_wide(page) <= 0, path
    visitor.fill_basket(demo, "long")
    assert too_wide(page) <= 0
    page.goto(f"{demo.shop}/checkout")
    assert too_wide(page) <= 0
    page.locator('main form[action="/checkout"] button').last.click()
    page.locator('[role="alert"]').wait_for()
    assert too_wide(page) <= 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_row_73_what_people_type_has_its_own_direction(
    visit: Callable[..., Visitor],
    demo: Demo,
    shop: Flask,
    language: str,
) -> None:
    visitor = visit(locale=language)
    page = visitor.page
    visitor.fill_basket(demo)
    page.goto(f"{demo.shop}/checkout")
    own = "rtl" if language == "ar-JO" else "ltr"
    for name in ("name", "address", "city", "region", "note"):
        field = page.locator(f'[name="{name}"]')
        found = []
        for text in ("", "12 Olive Street", "شارع الزيتون 12"):
            field.fill(text)
            found.append(field.evaluate("field => getComputedStyle(field).direction"))
        assert found == [own, "ltr", "rtl"], name
    placed = OrderFactory(shop.extensions["store"]).placed(address="شارع الزيتون (12)", note="Ring twice (2).")
    page.goto(f"{demo.shop}/orders/{placed.token}?key={placed.key}")
    isolated = page.locator("address bdi").all_inner_texts()
    assert "شارع الزيتون (12)" in isolated
    assert page.get_by_text("Ring twice (2).").evaluate("note => getComputedStyle(note).direction") == "ltr"


def test_the_order_number_is_seen_on_a_phone(
    visit: Callable[..., Visitor],
    demo: Demo,
    views: dict[str, str],
) -> None:
    page = visit(viewport=NARROW).page
    for name in ("waiting", "preparing", "unreachable", "confirming", "paid"):
        if name == "preparing":
            ask_for_invoice(views[name])
        page.goto(demo.shop + views[name])
        number = page.get_by_text(re.compile(r"^A-\d+$")).first
        assert number.is_visible(), name


def test_the_turn_to_paid_is_heard(visit: Callable[..., Visitor], demo: Demo, shop: Flask) -> None:
    """The new page begins at its heading, and the check is drawn once."""
    order = OrderFactory(shop.extensions["store"])
    waiting = order.awaiting()
    page = visit(viewport={"width": 390, "height": 500}).page
    page.goto(f"{demo.shop}/orders/{waiting.token}?key={waiting.key}")
    page.mouse.wheel(0, 2000)
    order.pay(waiting)
    page.get_by_role("heading", name="Paid. Thank you").wait_for(timeout=15_000)
    page.locator("#heading:focus").wait_for()
    assert 0 <= page.locator("#heading").bounding_box()["y"] < 500  # type: ignore[index]
    assert page.locator(".paid.is-new").count() == 1
    page.reload()
    assert page.locator(".paid").count() == 1
    assert page.locator(".paid.is-new").count() == 0


def test_a_change_of_the_total_is_heard(visit: Callable[..., Visitor], demo: Demo) -> None:
    visitor = visit()
    page = visitor.page
    visitor.fill_basket(demo)
    page.goto(f"{demo.shop}/checkout")
    said = page.locator('[role="status"]', has=page.locator(".delivery-sum"))
    before = said.inner_text()
    options = page.locator('[name="delivery"]')
    options.nth(1 if options.first.is_checked() else 0).check(force=True)
    assert said.inner_text() != before


def test_what_is_current_is_seen_in_forced_colours(
    visit: Callable[..., Visitor],
    demo: Demo,
    views: dict[str, str],
) -> None:
    page = visit(forced_colors="active").page
    for path in ("/?category=gear", views["waiting"], views["paid"]):
        page.goto(demo.shop + path)
        current = page.locator("main [aria-current]").first
        assert current.evaluate("it => getComputedStyle(it).outlineStyle") == "solid", path


@pytest.mark.parametrize("view", ["paid", "confirming", "waiting", "receipt"])
def test_a_printed_order_is_one_sheet_with_the_shops_name(
    visit: Callable[..., Visitor],
    demo: Demo,
    views: dict[str, str],
    tmp_path: Path,
    view: str,
) -> None:
    page = visit().page
    page.goto(demo.shop + (views["paid"].replace("?", "/receipt?") if view == "receipt" else views[view]))
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) == 1
    page.emulate_media(media="print")
    assert page.locator(".brand").is_visible()
    assert page.locator(".step-mark .icon").first.is_visible() or view == "receipt"


def test_a_page_loads_one_stylesheet_and_no_font_for_one_word(visit: Callable[..., Visitor], demo: Demo) -> None:
    asked: list[Any] = []
    page = visit(locale="en-GB").page
    page.on("request", lambda request: asked.append(request))  # noqa: PLW0108  (no built-in function is taken)
    page.goto(demo.shop, wait_until="networkidle")
    assert [one.resource_type for one in asked].count("stylesheet") == 1
    assert page.locator(".language-switch button").inner_text() == "العربية"
    assert not [one.url for one in asked if "readex" in one.url]
