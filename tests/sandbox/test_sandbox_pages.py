"""The customer's payment page."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from sandbox.delivery import DeliveryWorker
from sandbox.pages import SLOW_SECONDS
from sandbox.store import Store

MakeInvoice = Callable[..., dict[str, Any]]
POSTS = ["payment", "cancellation", "slow-payment", "second-payment"]


@pytest.mark.parametrize(("lang", "direction", "word"), [("en", "ltr", ">Pay <bdi"), ("ar", "rtl", ">دفع <bdi")])
def test_the_page_shows_what_to_pay_in_both_languages(
    client: FlaskClient, invoice: MakeInvoice, lang: str, direction: str, word: str
) -> None:
    page = client.get(f"/{lang}/invoice/{invoice(description='Two cups')['invoiceId']}")
    assert page.status_code == 200
    assert f'<html lang="{lang}" dir="{direction}">' in page.text
    for part in (word, "47.25", "Order A-1042", "Two cups", "data:image/png;base64,"):
        assert part in page.text


def test_paying_marks_the_invoice_paid_and_leads_back_to_the_shop(
    client: FlaskClient, store: Store, invoice: MakeInvoice
) -> None:
    shop = "https://shop.example/orders/1?returned=success&a=1"
    path = f"/en/invoice/{invoice(successUrl=shop)['invoiceId']}"
    reply = client.post(f"{path}/payment")
    assert (reply.status_code, reply.location) == (303, f"{path}/paid")
    page = client.get(reply.location).text
    assert '<meta http-equiv="refresh" content="2;url=https://shop.example/orders/1?returned=success&amp;a=1">' in page
    assert 'href="https://shop.example/orders/1?returned=success&amp;a=1"' in page
    paid = store.invoice(path.rsplit("/", 1)[-1])
    assert paid
    assert paid.paid_at


def test_a_paid_invoice_shows_as_paid_without_redirect(client: FlaskClient, invoice: MakeInvoice) -> None:
    path = f"/en/invoice/{invoice(successUrl='https://shop.example/')['invoiceId']}"
    client.post(f"{path}/payment")
    page = client.get(path).text
    assert "<h1>Paid</h1>" in page
    assert "http-equiv" not in page
    assert f'action="{path}/payment"' not in page


def test_without_success_url_the_browser_stays(client: FlaskClient, invoice: MakeInvoice) -> None:
    page = client.post(f"/ar/invoice/{invoice()['invoiceId']}/payment", follow_redirects=True).text
    assert "تم الدفع" in page
    assert "http-equiv" not in page


def test_paying_twice_counts_once(client: FlaskClient, store: Store, invoice: MakeInvoice) -> None:
    invoice_id = invoice()["invoiceId"]
    for _ in range(2):
        page = client.post(f"/en/invoice/{invoice_id}/payment", follow_redirects=True)
        assert "<h1>Paid</h1>" in page.text
    assert len(store.deliveries_of([invoice_id])) == 1


def test_paying_from_many_tabs_at_once_counts_once(store: Store, invoice: MakeInvoice) -> None:
    invoice_id = invoice()["invoiceId"]
    with ThreadPoolExecutor(16) as pool:
        counted = list(pool.map(store.pay, [invoice_id] * 64))
    assert counted.count(True) == 1
    assert len(store.deliveries_of([invoice_id])) == 1


def test_cancelling_leads_back_and_keeps_the_invoice_payable(
    client: FlaskClient, store: Store, invoice: MakeInvoice
) -> None:
    invoice_id = invoice(cancelUrl="https://shop.example/basket")["invoiceId"]
    reply = client.post(f"/en/invoice/{invoice_id}/cancellation")
    assert (reply.status_code, reply.location) == (303, f"/en/invoice/{invoice_id}/cancelled")
    assert "2;url=https://shop.example/basket" in client.get(reply.location).text
    assert "<form" in client.get(f"/en/invoice/{invoice_id}").text
    assert store.pay(invoice_id)


def test_paying_slowly_leads_back_at_once_and_sends_the_callback_when_confirmed(
    *,
    client: FlaskClient,
    store: Store,
    invoice: MakeInvoice,
    shop: Any,
    worker: DeliveryWorker,
    eventually: Callable[..., None],
) -> None:
    path = f"/en/invoice/{invoice(successUrl='https://shop.example/orders/1')['invoiceId']}"
    told = invoice()["invoiceId"]
    worker.start()
    reply = client.post(f"{path}/slow-payment")
    store.pay(told)
    eventually(lambda: shop.heard)
    page = client.get(reply.location).text
    assert "<h1>Confirming your payment</h1>" in page
    assert "2;url=https://shop.example/orders/1" in page
    assert [body["invoiceId"] for body in shop.heard] == [told]
    store.move_clock(SLOW_SECONDS)
    eventually(lambda: len(shop.heard) == 2)
    invoice_id = path.rsplit("/", 1)[-1]
    assert shop.heard[1]["invoiceId"] == invoice_id
    paid, [delivery] = store.invoice(invoice_id), store.deliveries_of([invoice_id])
    eventually(lambda: store.attempts_of([delivery.id]))  # stored just after the shop received it
    assert paid
    assert paid.paid_at
    assert store.attempts_of([delivery.id])[0].started_at >= paid.paid_at
    assert "<h1>Paid</h1>" in client.get(path).text


@pytest.mark.parametrize(("lang", "words"), [("en", "Confirming your payment"), ("ar", "جارٍ تأكيد الدفع")])
def test_an_unconfirmed_payment_says_so_and_offers_no_second_payment(
    client: FlaskClient, store: Store, invoice: MakeInvoice, lang: str, words: str
) -> None:
    path = f"/{lang}/invoice/{invoice()['invoiceId']}"
    client.post(f"{path}/slow-payment")
    page = client.get(path).text
    assert f"<h1>{words}</h1>" in page
    assert "<form" not in page
    for what in POSTS:
        assert client.post(f"{path}/{what}").status_code == 303
    assert len(store.deliveries_of([path.rsplit("/", 1)[-1]])) == 1


def test_paying_a_paid_invoice_slowly_changes_nothing(client: FlaskClient, store: Store, invoice: MakeInvoice) -> None:
    path = f"/en/invoice/{invoice()['invoiceId']}"
    client.post(f"{path}/payment")
    page = client.post(f"{path}/slow-payment", follow_redirects=True).text
    assert "<h1>Paid</h1>" in page
    assert len(store.deliveries_of([path.rsplit("/", 1)[-1]])) == 1


def test_paying_again_is_a_second_session_with_its_own_callback(
    client: FlaskClient, store: Store, invoice: MakeInvoice
) -> None:
    data = invoice()
    path = f"/en/invoice/{data['invoiceId']}"
    client.post(f"{path}/payment")
    assert f'action="{path}/second-payment"' in client.get(path).text
    reply = client.post(f"{path}/second-payment")
    assert (reply.status_code, reply.location) == (303, f"{path}/paid")
    first, second = store.deliveries_of([data["invoiceId"]])
    assert (first.trouble, second.trouble) == ("", "second-session")
    bodies = [json.loads(delivery.body) for delivery in (first, second)]
    assert bodies[0].pop("paymentSessionId") != bodies[1].pop("paymentSessionId")
    assert bodies[0] == bodies[1] == {"invoiceId": data["invoiceId"], "secret": data["secret"]}


def test_only_a_paid_invoice_with_callbacks_on_can_be_paid_again(
    client: FlaskClient, store: Store, invoice: MakeInvoice
) -> None:
    unpaid, untold = invoice()["invoiceId"], invoice()["invoiceId"]
    client.post(f"/en/invoice/{unpaid}/second-payment")
    for settings in ({"callbacks_on": False}, {"callbacks_on": True, "callback_url": ""}):
        store.keep_settings(**settings)
        client.post(f"/en/invoice/{untold}/payment")
        assert "second-payment" not in client.get(f"/en/invoice/{untold}").text
        client.post(f"/en/invoice/{untold}/second-payment")
    assert store.deliveries_of([unpaid, untold]) == []


def test_opening_the_addresses_after_payment_changes_nothing(
    client: FlaskClient, store: Store, invoice: MakeInvoice
) -> None:
    path = f"/en/invoice/{invoice()['invoiceId']}"
    assert client.get(f"{path}/paid").location == path
    assert store.deliveries_of([path.rsplit("/", 1)[-1]]) == []
    client.post(f"{path}/payment")
    assert client.get(f"{path}/cancelled").location == path


@pytest.mark.parametrize("what", POSTS)
def test_get_changes_nothing(client: FlaskClient, invoice: MakeInvoice, what: str) -> None:
    path = f"/en/invoice/{invoice()['invoiceId']}"
    assert client.get(f"{path}/{what}").status_code == 405
    assert client.post(path).status_code == 405
    assert "<form" in client.get(path).text


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://localhost:81"]
)
@pytest.mark.parametrize("what", POSTS)
def test_a_form_of_another_site_is_refused(
    client: FlaskClient, store: Store, invoice: MakeInvoice, what: str, origin: str
) -> None:
    invoice_id = invoice()["invoiceId"]
    reply = client.post(f"/en/invoice/{invoice_id}/{what}", headers={"Origin": origin})
    assert reply.status_code == 403
    assert "another site" in reply.text
    assert store.deliveries_of([invoice_id]) == []


@pytest.mark.parametrize("origin", ["http://localhost", "http://192.168.7.7:8001"])
def test_a_form_of_our_own_page_is_accepted(client: FlaskClient, invoice: MakeInvoice, origin: str) -> None:
    path = f"/en/invoice/{invoice()['invoiceId']}/payment"
    assert client.post(path, headers={"Origin": origin}).status_code == 303


@pytest.mark.parametrize(
    "path", ["/en/invoice/" + "0" * 24, "/ar/invoice/x", "/en/invoice/" + "0" * 24 + "/paid", "/x"]
)
def test_an_unknown_address_is_a_404_page(client: FlaskClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 404
    assert ("الصفحة غير موجودة" if path.startswith("/ar/") else "Page not found") in page.text
    assert 'class="ribbon"' in page.text


def test_another_machine_may_pay(client: FlaskClient, invoice: MakeInvoice) -> None:
    phone = {"environ_base": {"REMOTE_ADDR": "192.168.7.20"}, "base_url": "http://192.168.7.7:8001"}
    path = f"/en/invoice/{invoice()['invoiceId']}"
    assert client.get(path, **phone).status_code == 200
    assert client.post(f"{path}/payment", **phone).status_code == 303
    assert client.get("/static/base.css", **phone).status_code == 200
    assert client.get("/healthz", **phone).text == "sandbox ok"


def test_hostile_text_is_escaped(client: FlaskClient, invoice: MakeInvoice) -> None:
    hostile = "\"><script>alert(1)</script>'{{ 7 * 7 }}"
    url = 'https://shop.example/?"><script>alert(2)</script>'
    path = f"/en/invoice/{invoice(header=hostile, description=hostile, successUrl=url, cancelUrl=url)['invoiceId']}"
    pages = [client.get(path), client.post(f"{path}/cancellation", follow_redirects=True)]
    pages += [client.post(f"{path}/payment", follow_redirects=True), client.get("/")]
    for page in pages:
        assert "<script" not in page.text
        assert "&lt;script&gt;alert(1)" in page.text


def test_every_answer_has_the_security_headers(client: FlaskClient, invoice: MakeInvoice) -> None:
    path = f"/en/invoice/{invoice()['invoiceId']}"
    for answer in (client.get(path), client.get("/"), client.get("/x"), client.get("/static/base.css")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "Set-Cookie" not in answer.headers
        assert " style=" not in answer.text


def test_an_unexpected_error_shows_no_internals(client: FlaskClient, store: Store, put: Callable[..., Any]) -> None:
    client.application.config["PROPAGATE_EXCEPTIONS"] = False
    store.close()
    page = client.get("/en/invoice/" + "0" * 24)
    assert page.status_code == 500
    assert "Nothing was charged" in page.text
    for inside in ("Traceback", "sqlite", "closed"):
        assert inside not in page.text
