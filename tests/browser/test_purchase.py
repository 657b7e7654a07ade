"""One whole purchase in a real Chromium, with and without JavaScript: basket, checkout, QR, payment, *Paid*."""

import email
import email.policy
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Demo, Visitor, scan

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_a_purchase(visit: Callable[..., Visitor], demo: Demo, tmp_path: Path, javascript: bool) -> None:
    visitor = visit(java_script_enabled=javascript)
    page = visitor.page
    order_page = visitor.checkout(demo)
    assert page.locator("h1").inner_text() == "Pay $23.00"

    # The QR, as a phone's camera sees it, leads to where the link leads: the invoice's page.
    payment_page = page.locator('a[href*="/en/invoice/"]').first.get_attribute("href")
    assert payment_page
    assert payment_page.startswith(f"{demo.sandbox}/en/invoice/")
    assert scan(page, tmp_path / "order.png") == payment_page
    token = order_page.rsplit("/", 1)[1]
    [(stored,)] = demo.query("SELECT url FROM invoice JOIN orders ON orders.id = order_id WHERE token = ?", token)
    assert stored == payment_page

    # Coming back by the success address before paying proves nothing.
    early = visit(java_script_enabled=javascript).page
    early.goto(f"{order_page}?returned=success")
    assert early.locator("h1").inner_text() == "Waiting for confirmation"
    assert demo.query("SELECT state FROM orders WHERE token = ?", token) == [("awaiting_payment",)]

    # Pay on the gateway's page, which sends the browser back.
    page.locator('a[href*="/en/invoice/"]').first.click()
    page.wait_for_url("**/en/invoice/*")
    page.get_by_role("button", name=re.compile("^Pay")).click()
    page.wait_for_url(re.compile(r"/orders/"))
    for _ in range(20):  # with JavaScript the page turns by itself; without, a person presses the refresh link
        if page.locator("h1").inner_text() == "Paid. Thank you":
            break
        if not javascript:
            page.goto(order_page)
        page.wait_for_timeout(300)
    assert page.locator("h1").inner_text() == "Paid. Thank you"

    [(order_id, state)] = demo.query("SELECT id, state FROM orders WHERE token = ?", token)
    assert state == "paid"
    assert demo.query("SELECT state FROM delivery WHERE order_id = ?", order_id) == [("preparing",)]
    assert demo.query("SELECT outcome FROM callback_attempt WHERE order_id = ?", order_id) == [("accepted",)]
    receipt = email.message_from_bytes(
        demo.wait_for_mail(f"mail-receipt-{order_id}.eml").read_bytes(), policy=email.policy.default
    )
    assert receipt["To"] == "sara@example.com"
    assert "$23.00" in receipt.get_body().get_content()


def test_an_order_page_left_open_turns_to_paid_by_itself(visit: Callable[..., Visitor], demo: Demo) -> None:
    visitor = visit()
    visitor.checkout(demo, "guji-sunrise")
    phone = visit().page
    phone.goto(str(visitor.page.locator('a[href*="/en/invoice/"]').first.get_attribute("href")))
    visit().page.goto(f"{visitor.page.url}?returned=success")
    visitor.page.get_by_role("heading", name="Waiting for confirmation").wait_for(timeout=15_000)
    phone.get_by_role("button", name=re.compile("^Pay")).click()
    visitor.page.get_by_role("heading", name="Paid. Thank you").wait_for(timeout=15_000)
