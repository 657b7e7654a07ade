"""The merchant's account."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from sandbox.delivery import DeliveryWorker
from sandbox.records import NewInvoice
from sandbox.store import Store

MakeInvoice = Callable[..., dict[str, Any]]


def test_it_shows_what_the_shops_settings_need(client: FlaskClient, store: Store, shop: Any) -> None:
    page = client.get("/").text
    for part in (f"http://localhost/projects/{store.project().id}", "test-key", shop.callback_url):
        assert part in page


def test_it_shows_invoices_newest_first(client: FlaskClient, store: Store) -> None:
    for number in range(52):
        store.add_invoice(NewInvoice(amount=Decimal(5), header=f"Order {number:02}"))
    page = client.get("/").text
    assert page.index("Order 51") < page.index("Order 02")
    assert "Order 01" not in page
    assert "Order 01" in client.get("/?before=3").text


@pytest.mark.parametrize("before", ["-1", "x", "", "99999999999999999999999"])
def test_an_odd_page_is_no_error(client: FlaskClient, before: str) -> None:
    assert client.get(f"/?before={before}").status_code == 200


def test_it_shows_each_attempt_with_its_answer(
    client: FlaskClient, invoice: MakeInvoice, shop: Any, worker: DeliveryWorker, eventually: Callable[..., None]
) -> None:
    shop.answers = [503, 200]
    shop.reply = b"<b>the shop's answer</b>"
    data = invoice()
    assert "New" in client.get("/").text
    client.post(f"/en/invoice/{data['invoiceId']}/payment")
    assert "Callback waiting" in client.get("/").text
    worker.start()
    eventually(lambda: "Callback delivered" in client.get("/").text)
    page = client.get("/").text
    for part in ("PAID", "503", "200", "2 of 30 attempts", "&lt;b&gt;the shop", data["secret"]):
        assert part in page


@pytest.mark.parametrize(
    "options",
    [
        {"environ_base": {"REMOTE_ADDR": "192.168.7.20"}},
        {"environ_base": {"REMOTE_ADDR": "192.168.7.20"}, "base_url": "http://192.168.7.7:8001"},
        {"base_url": "http://rebound.example:8001"},
        {"headers": {"X-Forwarded-For": "203.0.113.9"}},
        {"headers": {"Forwarded": "for=203.0.113.9"}},
        {"headers": {"Host": ""}},
        {"headers": {"Host": "["}},
        {"headers": {"Host": "[::1"}},
        {"headers": {"Host": "localhost.evil.example"}},
    ],
)
def test_another_machine_is_refused_in_plain_words(client: FlaskClient, options: dict[str, Any]) -> None:
    page = client.get("/", **options)
    assert page.status_code == 403
    assert "only on the machine that the sandbox runs on" in page.text
    assert "test-key" not in page.text


@pytest.mark.parametrize(
    "options",
    [
        {"environ_base": {"REMOTE_ADDR": "::1"}, "base_url": "http://[::1]:8001"},
        {"environ_base": {"REMOTE_ADDR": "::ffff:127.0.0.1"}, "base_url": "http://127.0.0.1:8001"},
        {"environ_base": {"REMOTE_ADDR": "192.168.7.7"}, "base_url": "http://192.168.7.7:8001"},
    ],
)
def test_this_machine_is_let_in(client: FlaskClient, options: dict[str, Any]) -> None:
    assert client.get("/", **options).status_code == 200
