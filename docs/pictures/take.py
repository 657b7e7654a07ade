"""Takes the README's pictures anew from a running demo: `python docs/pictures/take.py http://127.0.0.1:8000`."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
CONTACT = {"name": "Sara Haddad", "email": "sara@example.com", "address": "12 Olive Street", "city": "Amman"}


def take(shop: str) -> None:
    """Buy something and take a picture at each step."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        desk = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB").new_page()
        phone = browser.new_context(viewport={"width": 390, "height": 760}, locale="en-GB").new_page()

        desk.goto(shop)
        desk.screenshot(path=HERE / "catalogue.jpg", quality=80)
        for slug in ("brass-dallah", "haraz-single-origin", "finjan-set"):
            desk.goto(f"{shop}/products/{slug}")
            desk.locator("main form button").first.click()
            desk.wait_for_url("**/basket")
        desk.goto(f"{shop}/checkout")
        for name, value in CONTACT.items():
            desk.fill(f'[name="{name}"]', value)
        desk.select_option('[name="country"]', "JO")
        desk.screenshot(path=HERE / "checkout.jpg", quality=80)
        desk.locator('main form[action="/checkout"] button').last.click()
        desk.wait_for_url("**/orders/*")
        desk.wait_for_timeout(500)
        desk.screenshot(path=HERE / "waiting.jpg", quality=80)

        phone.goto(str(desk.locator('a[href*="/invoice/"]').first.get_attribute("href")))
        phone.screenshot(path=HERE / "payment.jpg", quality=80)
        phone.locator("main form button").first.click()
        desk.get_by_role("heading", name="Paid. Thank you").wait_for()
        desk.wait_for_timeout(2000)
        desk.screenshot(path=HERE / "paid.jpg", quality=80)
        browser.close()


if __name__ == "__main__":
    take(sys.argv[1])
