"""One purchase over HTTP: shop, worker and sandbox gateway run as `make demo` starts them."""

import time
from collections.abc import Callable
from pathlib import Path

import requests

from tests.children import Start, free_port, start_demo
from tests.conftest import fill, filled_form, settings_for
from tests.pages import Page, heading


def eventually(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    for _ in range(300):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within 30 seconds")


def test_a_purchase(start: Start, tmp_path: Path) -> None:
    _, shop, gateway = start_demo(start, tmp_path / "demo", free_port())
    fill(settings_for(tmp_path / "demo", gateway))  # the tests' products beside those of the sample shop
    sara = requests.Session()

    # Sara puts two cups into her basket, and checks out as a guest.
    sara.post(f"{shop}/basket/items", {"product": "stoneware-cup", "quantity": "2"})
    form = sara.get(f"{shop}/checkout").text
    page = sara.post(f"{shop}/checkout", filled_form(form))

    # Her order is stored, its stock reserved, and its invoice fetched: the page shows where to pay.
    order = page.url
    assert heading(page.text) == "Pay $25.00"
    [pay_here] = {link["href"] for link in Page(page.text).all("a") if "/en/invoice/" in link.get("href", "")}

    # Coming back by the gateway's success address proves nothing.
    sara.get(f"{order}?returned=success")
    assert sara.get(f"{order}/status").json()["state"] == "awaiting_payment"

    # She pays on the gateway's page. Its callback, and nothing else, marks the order paid.
    requests.post(f"{pay_here}/payment", timeout=10)
    eventually(lambda: sara.get(f"{order}/status").json()["state"] == "paid")

    # The worker sends her receipt.
    mails = tmp_path / "demo" / "mail"
    eventually(lambda: len(list(mails.glob("mail-receipt-*.eml"))) == 1)

    # The gateway sends the same callback again. It is answered 200, and nothing happens a second time.
    again = {"case": "duplicate", "invoice": pay_here.rpartition("/")[2]}
    sent = requests.post(f"{gateway}/trouble", json=again, timeout=30).json()["sent"]
    assert {one["answer"] for one in sent} == {"200"}
    time.sleep(3)  # the worker looks every second
    assert sara.get(f"{order}/receipt").status_code == 200
    assert len(list(mails.glob("mail-receipt-*.eml"))) == 1
