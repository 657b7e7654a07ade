"""The merchant's pages: every one in English and Arabic, light and dark, on phones and on a desk."""

import email
import email.policy
import itertools
import json
import re
from collections.abc import Callable

import pytest
from flask import Flask

from models import Order, OutboxMessage, Staff
from shop import orders, payments
from shop import staff as accounts
from shop.attention import flag
from shop.db import write
from shop.states import CUSTOMER, AttentionKind, OutboxKind
from tests.browser.conftest import Demo, Visitor
from tests.browser.test_pages import check_width, scan_for_faults
from tests.conftest import OrderFactory, rows

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PASSWORD = "four words are enough"
PAGES = (
    *("", "orders", "orders?q=sara&stage=unpaid&from=2020-01-01&to=2999-01-01", "orders?q=nobody", "orders/{paid}"),
    *("orders?stage=to-hand-over", "orders/slips?order={paid}", "orders/{review}", "attention"),
    *("attention?kind=possibly_paid", "attention?settled=1", "callbacks", "callbacks?outcome=accepted"),
    *("callbacks/1", "compare", "settings", "staff", "staff/{other}/disabled", "account"),
)
OPEN_SOME = "document.querySelectorAll('main details').forEach((one, n) => one.open = n < 3)"
SIGNED_OUT = ("sign-in", "forgotten", "new-password/{link}", "new-password/old")


@pytest.fixture(scope="module")
def addresses(shop: Flask, demo: Demo) -> dict[str, str]:
    """What stands for the names in the addresses, with something to see on each page."""
    order = OrderFactory(shop.extensions["store"])
    paid, review = order.awaiting(phone="+966 50 123 4567", note="Ring twice."), order.awaiting()
    order.pay(paid)
    order.pay(paid, paymentSessionId="65453604ffffffffeeab3837")
    orders.cancel(review.id, CUSTOMER)
    order.pay(review)
    for body in (b"nonsense", json.dumps({"secret": "nobody's", "invoiceId": "65448ddef4924a5dd1b241a9"}).encode()):
        payments.accept_callback(body, "203.0.113.7")
    with write() as session:
        for number in range(60):
            flag(session, AttentionKind.POSSIBLY_PAID, f"A-{number + 5000}", "a detail")
        for kind in AttentionKind:
            flag(session, kind, "somebody's very-long-subject-without-any-blank-in-it-at-all", "a detail")
    for name in ("maha", "omar"):
        accounts.add(f"{name}@example.com", name.title(), PASSWORD)
    other, maha = (accounts.find(f"{name}@example.com") for name in ("omar", "maha"))
    assert other is not None
    assert maha is not None
    accounts.mail_link(maha.email, "", "en")
    [message] = rows(OutboxMessage, kind=OutboxKind.MAIL_NEW_PASSWORD)
    mail = demo.wait_for_mail(f"{re.sub('[^a-z0-9]', '-', message.key)}.eml").read_bytes()
    text = email.message_from_bytes(mail, policy=email.policy.default).get_content()
    link = text.partition("/dashboard/new-password/")[2].split()[0]
    return {"paid": paid.number, "review": review.number, "other": str(other.id), "link": link}


def sign_in(visitor: Visitor, demo: Demo) -> None:
    """Sign in, as a person does."""
    visitor.page.goto(f"{demo.shop}/dashboard/sign-in")
    visitor.page.fill('[name="email"]', "maha@example.com")
    visitor.page.fill('[name="password"]', PASSWORD)
    visitor.page.locator("main form button").first.click()
    visitor.page.wait_for_url("**/dashboard/")


MODES = list(itertools.product(("en-GB", "ar-JO"), ("light", "dark")))


@pytest.mark.parametrize(("language", "scheme"), MODES, ids=[f"{one[:2]}-{two}" for one, two in MODES])
@pytest.mark.slow(seconds=25)
def test_every_page_of_the_dashboard(
    visit: Callable[..., Visitor], demo: Demo, addresses: dict[str, str], language: str, scheme: str
) -> None:
    visitor = visit(locale=language, color_scheme=scheme, reduced_motion="reduce")
    for signed_in, paths in ((False, SIGNED_OUT), (True, PAGES)):
        if signed_in:
            sign_in(visitor, demo)
        for path in paths:
            response = visitor.page.goto(f"{demo.shop}/dashboard/{path.format(**addresses)}")
            assert response is not None
            assert response.status == (404 if path.endswith("/old") else 200), path
            visitor.page.evaluate(OPEN_SOME)
            for width in (1280, 390):
                visitor.page.set_viewport_size({"width": width, "height": 844})
                scan_for_faults(visitor.page)
            visitor.page.set_viewport_size({"width": 320, "height": 844})
            check_width(visitor.page)
            visitor.page.set_viewport_size({"width": 1280, "height": 844})


@pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_an_order_is_collected_without_an_address(
    visit: Callable[..., Visitor], demo: Demo, shop: Flask, addresses: dict[str, str], scripts: bool
) -> None:
    visitor = visit(java_script_enabled=scripts, reduced_motion="reduce")
    visitor.fill_basket(demo)
    page = visitor.page
    page.goto(f"{demo.shop}/checkout")
    assert page.locator('[name="address"]').is_visible()
    page.check('[name="delivery"][value="pickup"]', force=True)
    assert not page.locator('[name="address"]').is_visible()
    page.fill('[name="name"]', "Sara Haddad")
    page.fill('[name="email"]', "sara@example.com")
    page.locator('main form[action="/checkout"] button').last.click()
    page.wait_for_url("**/orders/*")
    placed = rows(Order)[-1]
    OrderFactory(shop.extensions["store"]).pay(placed)
    sign_in(visitor, demo)
    page.goto(f"{demo.shop}/dashboard/orders?stage=to-hand-over&q={placed.number}")
    page.check(f'[name="order"][value="{placed.number}"]')
    page.get_by_role("button", name="Next step for the chosen orders").click()
    page.goto(f"{demo.shop}/dashboard/orders/{placed.number}")
    page.get_by_role("button", name="Mark as collected").click()
    page.goto(f"{demo.shop}/orders/{placed.token}")
    assert page.locator("h1").inner_text() == "You've collected your order"


@pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_a_missed_callback_is_found_and_confirmed_by_a_person(
    visit: Callable[..., Visitor], demo: Demo, shop: Flask, addresses: dict[str, str], scripts: bool
) -> None:
    missed = OrderFactory(shop.extensions["store"]).awaiting()
    visitor = visit(java_script_enabled=scripts, reduced_motion="reduce")
    sign_in(visitor, demo)
    page = visitor.page
    page.get_by_role("link", name="Compare with Amwal").first.click()
    page.fill('[name="ids"]', f"{missed.invoice.gateway_id}  12.50 USD  paid")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Confirm the payment").click()
    page.locator('[name="note"]').fill("seen in the account")
    page.locator('[name="password"]').fill(PASSWORD)
    page.get_by_role("button", name=f"I saw it: mark order {missed.number} paid").click()
    page.wait_for_url(f"**/dashboard/orders/{missed.number}")
    assert page.get_by_text("Payment confirmed by hand").is_visible()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/dashboard/sign-in")
    assert len(rows(Staff, name="Maha")) == 1
