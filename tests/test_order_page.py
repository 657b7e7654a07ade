"""The order's page: every state, who may see what, and that a browser's return proves nothing."""

import base64
import email
import email.policy
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, update

from models import Invoice, Order, OutboxMessage, Product, Shop, now
from shop import orders, payments, worker
from shop.db import db, write
from shop.money import exponent
from shop.states import COLLECTION, CUSTOMER, SHIPMENT, Actor, By, DeliveryState, OrderState
from shop.views import browser
from tests.conftest import PUBLIC_URL, CheckingClient, OrderFactory, decode, rows, set_stock
from tests.pages import Page, heading


@pytest.fixture
def buyer(client: CheckingClient) -> CheckingClient:
    """A browser that has just placed an order."""
    client.fill_basket("brass-dallah")
    client.post("/checkout", data=client.checkout_form())
    return client


@pytest.fixture
def placed(buyer: CheckingClient, order: OrderFactory) -> Any:
    """The buyer's order."""
    return rows(Order)[0]


def path(placed: Any, more: str = "") -> str:
    """The order's address."""
    return f"/orders/{placed.token}{more}"


def post(client: CheckingClient, placed: Any, what: str, query: str = "") -> str:
    """Press a button on the order's page and give the page it leads to."""
    token = client.csrf_token(path(placed, query))
    response = client.post(path(placed, f"/{what}{query}"), data={"csrf_token": token})
    return client.follow(response).text


def status(client: CheckingClient, placed: Any) -> dict[str, Any]:
    """What the page's script is told."""
    response = client.get(path(placed, "/status"))
    assert response.headers["Cache-Control"] == "no-store"
    told: dict[str, Any] = json.loads(response.data)
    return told


def test_waiting(buyer: CheckingClient, placed: Any) -> None:
    page = buyer.get(path(placed)).text
    assert heading(page) == "Pay $64.00"
    assert placed.number in page
    assert "Your items are reserved until" in page
    assert "data:image/png;base64," in page
    links = {one.get("href", ""): one for one in Page(page).all("a")}
    assert placed.invoice.url in links
    told = {"state": "awaiting_payment", "label": "Waiting for payment", "final": False, "view": "waiting"}
    assert status(buyer, placed) == told


def test_row_40_opening_the_success_url_pays_nothing(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    page = buyer.get(path(placed, "?returned=success")).text
    assert heading(page) == "Waiting for confirmation"
    assert "don't need to pay again" in page.replace("’", "'")
    assert order.again(placed).state is OrderState.AWAITING_PAYMENT
    assert not order.again(placed).payments
    assert not status(buyer, placed)["final"]


def test_after_the_return_no_device_asks_to_pay_again(
    buyer: CheckingClient, stranger: CheckingClient, placed: Any, order: OrderFactory
) -> None:
    stranger.get(path(placed, "?returned=success"))  # the phone that paid
    assert heading(buyer.get(path(placed)).text) == "Waiting for confirmation"
    assert heading(buyer.get(path(placed, "?returned=cancel")).text) == "Pay $64.00"
    order.run_out(placed)
    orders.expire(placed.id)
    assert heading(post(buyer, placed, "reservation")) == "Pay $64.00", "whoever holds it again wants to pay"
    stranger.get(path(placed, "?returned=success"))
    assert heading(buyer.get(path(placed)).text) == "Waiting for confirmation", "and has, once more"


def test_row_41_opening_the_cancel_url_cancels_nothing(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    page = buyer.get(path(placed, "?returned=cancel")).text
    assert heading(page) == "Pay $64.00"
    assert order.again(placed).state is OrderState.AWAITING_PAYMENT


def test_paid(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    order.pay(placed)
    page = buyer.get(path(placed)).text
    assert heading(page) == "Paid. Thank you"
    assert placed.number in page
    assert "$64.00" in page
    assert placed.invoice.url not in page
    assert status(buyer, placed) == {"state": "paid", "label": "Paid", "final": True, "view": "paid"}
    receipt = buyer.get(path(placed, "/receipt"))
    assert receipt.status_code == 200
    assert "12 Olive Street" in receipt.text


HEADINGS = {
    DeliveryState.PREPARING: "Paid. Thank you",
    DeliveryState.SHIPPED: "Your order is on its way",
    DeliveryState.DELIVERED: "Your order has arrived",
    DeliveryState.READY: "Your order is ready to collect",
    DeliveryState.COLLECTED: "You've collected your order",
}


def test_the_check_is_drawn_once_and_only_soon_after_the_payment(
    buyer: CheckingClient, stranger: CheckingClient, placed: Any, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    order.pay(placed)
    assert ["is-new" in buyer.get(path(placed)).text for _ in range(2)] == [True, False]
    monkeypatch.setattr(browser, "JUST_PAID", timedelta(0))
    assert "is-new" not in stranger.get(path(placed)).text


def test_the_buyer_sees_the_whole_address_and_others_a_masked_one_everywhere(
    buyer: CheckingClient, stranger: CheckingClient, placed: Any, order: OrderFactory
) -> None:
    def check() -> None:
        whole, masked = buyer.get(path(placed)).text, stranger.get(path(placed)).text
        assert placed.email in whole
        assert placed.masked_email not in whole
        assert placed.email not in masked

    check()
    buyer.get(path(placed, "?returned=success"))
    check()
    orders.cancel(placed.id, CUSTOMER)
    order.pay(placed)  # needs a review now
    check()


@pytest.mark.parametrize("collected", [True, False])
@pytest.mark.parametrize("state", DeliveryState)
def test_every_state_of_a_delivery_has_its_page(
    buyer: CheckingClient, placed: Any, order: OrderFactory, state: DeliveryState, collected: bool
) -> None:
    """The steps are those of its kind; a state of the other kind fails no page."""
    order.pay(placed)
    with write() as session:
        stored = orders.lock(session, placed.id)
        assert stored.delivery is not None
        stored.is_collected, stored.delivery.state = collected, state
    page = buyer.get(path(placed)).text
    assert heading(page) == HEADINGS[state]
    for step in DeliveryState:
        assert (f">{step.label}</li>" in page) == (step in (COLLECTION if collected else SHIPMENT))


def test_expired_and_held_again(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    order.run_out(placed)
    orders.expire(placed.id)
    page = buyer.get(path(placed)).text
    assert heading(page) == "Your items are no longer reserved"
    assert "Already paid?" in page
    assert placed.invoice.url not in page
    assert heading(post(buyer, placed, "reservation")) == "Pay $64.00"


def test_expired_and_sold_meanwhile(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    order.run_out(placed)
    orders.expire(placed.id)
    set_stock("brass-dallah", 0)
    page = post(buyer, placed, "reservation")
    assert heading(page) == "Your items are no longer reserved"
    assert "Not enough Brass Dallah left" in page
    assert "Reserve them again" not in page
    assert "Order again" in page


def test_the_status_says_when_the_page_would_look_different(
    buyer: CheckingClient, stranger: CheckingClient, placed: Any
) -> None:
    """Also where the order's state stays the same: the script shows the page anew."""
    stranger.get(path(placed, "?returned=success"))
    assert status(buyer, placed)["view"] == "confirming"
    told = buyer.get(path(placed, "/status?returned=cancel")).json
    assert told
    assert told["view"] == "waiting", "as on the page that this browser has open"
    script = Page(buyer.get(path(placed, "?returned=cancel")).text).all("div")
    assert [one["data-status-url"] for one in script if "data-view" in one] == [path(placed, "/status?returned=cancel")]
    with write() as session:
        session.execute(
            update(Order).values(state=OrderState.PLACED, invoice_claimed_until=now() + timedelta(seconds=9))
        )
    assert status(buyer, placed)["view"] == "preparing"
    with write() as session:
        session.execute(update(Order).values(invoice_claimed_until=None))
    assert status(buyer, placed)["view"] == "unreachable"


def test_a_mail_that_cannot_be_sent_is_not_promised(buyer: CheckingClient, placed: Any) -> None:
    assert "e-mailed you this link" not in buyer.get(path(placed)).text
    with write() as session:
        session.execute(update(OutboxMessage).values(attempts=1, error="ConnectionRefusedError"))
    assert "We haven't e-mailed you this link." in buyer.get(path(placed)).text
    page = buyer.get(path(placed, "?returned=success")).text
    assert "please keep this page open" in page
    assert "we'll e-mail you" not in page
    with write() as session:
        session.execute(update(OutboxMessage).values(attempts=2, error="", done_at=now()))
    assert "we'll e-mail you" in buyer.get(path(placed)).text


def test_needs_review(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    orders.cancel(placed.id, CUSTOMER)
    order.pay(placed)
    page = buyer.get(path(placed)).text
    assert heading(page) == "We've received your payment"
    assert "Our team needs to look at your order" in page
    assert status(buyer, placed)["final"]


def test_refunded(buyer: CheckingClient, placed: Any, order: OrderFactory, staff: int) -> None:
    order.pay(placed)
    with write() as session:
        orders.transition(session, orders.lock(session, placed.id), OrderState.REFUNDED, By(Actor.STAFF, staff))
    assert buyer.get(path(placed)).status_code == 200
    assert status(buyer, placed)["final"]


def test_row_41_cancelled_and_back_to_the_basket(buyer: CheckingClient, placed: Any) -> None:
    page = post(buyer, placed, "cancellation")
    assert heading(page) == "Order cancelled"
    assert "We haven't charged you" in page
    assert "Brass Dallah" in buyer.get("/basket").text


def test_whoever_cancels_too_late_is_told(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    order.pay(placed)
    page = post(buyer, placed, "cancellation")
    assert heading(page) == "Paid. Thank you"
    assert "This order can no longer be cancelled." in page


def test_cancelling_joins_the_basket_with_one_begun_meanwhile(buyer: CheckingClient, placed: Any) -> None:
    buyer.fill_basket("stoneware-cup")
    post(buyer, placed, "cancellation")
    page = buyer.get("/basket").text
    assert "Brass Dallah" in page
    assert "Stoneware Cup" in page


def test_the_receipt_comes_with_a_payment_that_is_settled(
    buyer: CheckingClient, placed: Any, order: OrderFactory
) -> None:
    assert buyer.get(path(placed, "/receipt")).status_code == 404
    orders.cancel(placed.id, CUSTOMER)
    order.pay(placed)
    assert buyer.get(path(placed, "/receipt")).status_code == 404


def test_order_again(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    order.pay(placed)
    assert "Brass Dallah" in post(buyer, placed, "basket")


# --- Who may see and do what -----------------------------------------------------------------------------------------


@pytest.fixture
def stranger(app: Flask) -> CheckingClient:
    """Another browser, which knows the plain token: the gateway does, too."""
    client = app.test_client()
    assert isinstance(client, CheckingClient)
    return client


def test_row_42_the_plain_token_shows_no_personal_data(
    stranger: CheckingClient, placed: Any, order: OrderFactory
) -> None:
    for _face in range(2):
        page = stranger.get(path(placed)).text
        for private in ("Sara", "Haddad", "Olive Street", "sara@example.com", "Amman", placed.key):
            assert private not in page
        assert "s•••@example.com" in page
        assert placed.number in page
        order.pay(placed)
    assert stranger.get(path(placed, "/receipt")).status_code == 403


@pytest.mark.parametrize("what", ["invoice", "cancellation", "reservation", "basket"])
def test_row_42_the_plain_token_changes_nothing(
    stranger: CheckingClient, placed: Any, order: OrderFactory, what: str
) -> None:
    token = stranger.csrf_token("/pages/contact") if "csrf_token" in stranger.get("/pages/contact").text else ""
    stranger.fill_basket()
    token = token or stranger.csrf_token("/basket")
    response = stranger.post(path(placed, f"/{what}"), data={"csrf_token": token})
    assert response.status_code == 403
    assert "link in our e-mail" in response.text
    assert order.again(placed).state is OrderState.AWAITING_PAYMENT


def test_row_105_the_e_mailed_key_opens_everything_and_leaves_the_address_at_once(
    stranger: CheckingClient, placed: Any
) -> None:
    stranger.fill_basket()  # from here on the browser sends a cookie
    answer = stranger.get(path(placed, f"?returned=cancel&key={placed.key}"))
    assert (answer.status_code, answer.headers["Location"]) == (303, path(placed, "?returned=cancel"))
    assert answer.headers["Cache-Control"] == "no-store"
    page = stranger.follow(answer).text
    assert "Olive Street" in page
    assert "sara@example.com" in page
    assert placed.key not in page
    assert heading(post(stranger, placed, "cancellation")) == "Order cancelled"


def test_row_105_a_browser_without_any_cookie_sees_the_page_first(stranger: CheckingClient, placed: Any) -> None:
    link = path(placed, f"?key={placed.key}")
    first = stranger.get(link)
    assert first.status_code == 200
    assert first.headers["Cache-Control"] == "no-store"
    assert "Olive Street" in first.text
    assert "js/clean-address.js" in first.text
    again = stranger.get(link)
    assert again.status_code == 303
    assert "Olive Street" in stranger.follow(again).text
    assert "clean-address" not in stranger.get(path(placed, "")).text


def test_row_105_where_cookies_are_off_the_key_goes_on_opening(app: Flask, placed: Any) -> None:
    browser = app.test_client(use_cookies=False)
    link = path(placed, f"?key={placed.key}")
    for _ in range(2):
        assert "Olive Street" in browser.get(link).text
    assert f"/cancellation?key={placed.key}" in browser.get(link).text


@pytest.mark.parametrize("what", ["cancellation", "basket"])
def test_row_44_where_cookies_are_off_the_key_works_the_buttons(
    app: Flask, placed: Any, order: OrderFactory, what: str
) -> None:
    browser = app.test_client(use_cookies=False)
    answer = browser.post(path(placed, f"/{what}?key={placed.key}"), headers={"Origin": PUBLIC_URL})
    assert answer.status_code == 303
    page = browser.get(answer.headers["Location"]).text
    if what == "basket":
        assert heading(page) == "Your browser keeps no cookies"
    else:
        assert order.again(placed).state is OrderState.CANCELLED
        assert heading(page) == "Order cancelled"


def test_row_45_only_a_browser_without_our_cookies_needs_no_token_beside_the_key(
    app: Flask, buyer: CheckingClient, placed: Any, order: OrderFactory
) -> None:
    button = path(placed, f"/cancellation?key={placed.key}")
    without = app.test_client(use_cookies=False)
    assert without.post(button, headers={"Origin": "https://evil.example"}).status_code == 400
    assert without.post(path(placed, "/cancellation"), headers={"Origin": PUBLIC_URL}).status_code == 400
    assert buyer.post(button, headers={"Origin": PUBLIC_URL}).status_code == 400
    assert without.post(f"{button}x", headers={"Origin": PUBLIC_URL}).status_code == 403
    assert order.again(placed).state is OrderState.AWAITING_PAYMENT


def test_row_105_a_language_alone_shows_that_cookies_are_kept(stranger: CheckingClient, placed: Any) -> None:
    stranger.post("/language", data={"language": "ar", "next": "/"})
    assert stranger.get(path(placed, f"?key={placed.key}")).status_code == 303


@pytest.mark.parametrize("method", ["get", "head"])
def test_row_105_a_mail_scanner_that_opens_the_link_changes_nothing(
    app: Flask, placed: Any, order: OrderFactory, method: str
) -> None:
    before = order.again(placed).events_count
    for _ in range(3):
        assert getattr(app.test_client(), method)(path(placed, f"?key={placed.key}")).status_code == 200
    after = order.again(placed)
    assert (after.state, after.events_count, after.returned_at) == (OrderState.AWAITING_PAYMENT, before, None)


def test_row_105_a_wrong_key_is_not_remembered(stranger: CheckingClient, placed: Any) -> None:
    stranger.fill_basket()
    assert stranger.get(path(placed, f"?key={placed.key}x")).status_code == 200
    assert "Olive Street" not in stranger.get(path(placed, "")).text


@pytest.mark.parametrize("key", ["", "wrong", "é", "x" * 5000])
def test_a_wrong_key_opens_nothing(stranger: CheckingClient, placed: Any, key: str) -> None:
    assert "Olive Street" not in stranger.get(path(placed, ""), query_string={"key": key}).text


@pytest.mark.parametrize("more", ["", "/status", "/qr.png", "/receipt"])
def test_row_42_a_guessed_token_finds_nothing(client: CheckingClient, more: str) -> None:
    assert client.get(f"/orders/AAAAAAAAAAAAAAAAAAAAAAAAAAA{more}").status_code == 404


def test_tokens_and_keys_hold_160_random_bits(order: OrderFactory) -> None:
    made = [order.placed() for _ in range(20)]
    words = [word for one in made for word in (one.token, one.key)]
    assert len(set(words)) == 40
    assert {len(base64.urlsafe_b64decode(f"{word}=")) for word in words} == {20}  # bytes
    assert all(len(set(letters)) > 10 for letters in list(zip(*words, strict=True))[:-1]), "a place that hardly varies"


@pytest.mark.parametrize("drawn", ["by the gateway", "by the shop"])
def test_the_qr_leads_to_the_payment_page_while_the_order_can_be_paid(
    buyer: CheckingClient, placed: Any, order: OrderFactory, tmp_path: Path, drawn: str
) -> None:
    if drawn == "by the shop":
        with write() as session:
            session.execute(update(Invoice).values(qr=payments.draw_qr(placed.invoice.url)))
    response = buyer.get(path(placed, "/qr.png"))
    assert (response.status_code, response.mimetype) == (200, "image/png")
    (tmp_path / "qr.png").write_bytes(response.data)
    assert decode(tmp_path / "qr.png") == placed.invoice.url
    [inline] = [one["src"] for one in Page(buyer.get(path(placed)).text).all("img") if "data:" in one.get("src", "")]
    assert base64.b64decode(inline.removeprefix("data:image/png;base64,")) == response.data
    order.pay(placed)
    assert buyer.get(path(placed, "/qr.png")).status_code == 404


def test_no_search_engine_lists_an_order(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    order.pay(placed)
    for page in (path(placed), path(placed, "/receipt")):
        assert '<meta name="robots" content="noindex">' in buyer.get(page).text


@pytest.mark.parametrize(
    ("currency", "rate", "price", "tax", "shown", "receipt"),
    [
        ("USD", "15", 11_500, 1500, {"en": "$15.00", "ar": "15.00 USD"}, "15%"),
        ("KWD", "7.5", 10_750, 750, {"en": "KWD 0.750", "ar": "0.750 KWD"}, "7.5%"),
        ("USD", "0", 11_500, 0, {}, ""),
    ],
)
@pytest.mark.parametrize("language", ["en", "ar"])
def test_the_tax_stands_wherever_the_total_does(  # noqa: PLR0917  (fixtures)
    new_app: Any,
    gateway: Any,
    tmp_path: Path,
    language: str,
    currency: str,
    rate: str,
    price: int,
    tax: int,
    shown: dict[str, str],
    receipt: str,
) -> None:
    """On the order's page, its receipt and its e-mail, in the shop's currency, with the number that it has by law."""
    app = new_app(SHOP_CURRENCY=currency, SHOP_TAX_RATE=rate, SHOP_TAX_NUMBER="JO-123456")
    with app.app_context():
        with db.engines["write"].begin() as session:  # `write` would refuse another currency
            session.execute(update(Shop).values(currency=currency, exponent=exponent(currency)))
            session.execute(update(Product).filter_by(slug="brass-dallah").values(price=price))
        order = OrderFactory(gateway)
        placed = order.awaiting("brass-dallah")
        with write() as session:
            orders.lock(session, placed.id).locale = language
        order.pay(placed)
        worker.tick()
        stored = order.again(placed)
        assert (stored.total, stored.tax, stored.tax_number) == (price, tax, "JO-123456")
        client = app.test_client()
        headers = {"Accept-Language": language}
        client.get(path(placed, f"?key={placed.key}"), headers=headers)
        pages = [client.get(path(placed, more), headers=headers).text for more in ("", "/receipt")]
        [file] = tmp_path.glob("mail/mail-receipt-*.eml")
        mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        texts = [*pages, mail.get_content()]
    for text in texts:
        said = text.replace("\xa0", " ").replace("&nbsp;", " ")
        if tax:
            assert shown[language] in said
        else:
            assert "Tax included" not in said
            assert "ضريبة" not in said
    assert all(receipt in page for page in pages)
    assert all("JO-123456" in text for text in texts[1:])


def test_order_pages_are_kept_in_no_cache(buyer: CheckingClient, placed: Any, order: OrderFactory) -> None:
    order.pay(placed)
    for more in ("", "/status", "/receipt"):
        assert buyer.get(path(placed, more)).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("what", ["invoice", "cancellation", "reservation", "basket"])
def test_changes_are_made_by_post_only(buyer: CheckingClient, placed: Any, what: str) -> None:
    assert buyer.get(path(placed, f"/{what}")).status_code == 405


def test_the_status_takes_one_query(app: Flask, buyer: CheckingClient, placed: Any) -> None:
    statements: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    buyer.get(path(placed, "/status"))
    assert len(statements) == 1


def test_a_gateway_host_is_named_to_people_who_never_heard_of_it(buyer: CheckingClient, placed: Any) -> None:
    assert "127.0.0.1:8001" in buyer.get(path(placed)).text


def test_an_order_resumed_without_an_invoice_gets_one(
    app: Flask, stranger: CheckingClient, order: OrderFactory
) -> None:
    unanswered = order.placed()
    order.run_out(unanswered)
    orders.expire(unanswered.id)
    assert order.again(unanswered).invoice is None
    post(stranger, unanswered, "reservation", f"?key={unanswered.key}")
    assert heading(stranger.get(path(unanswered)).text).startswith("Pay $")
    assert order.again(unanswered).invoice is not None


def test_who_came_by_the_link_of_a_mail_is_led_back_with_its_key(
    stranger: CheckingClient, placed: Any, order: OrderFactory
) -> None:
    query = f"?key={placed.key}"
    order.run_out(placed)
    orders.expire(placed.id)
    token = stranger.csrf_token(path(placed, query))
    answer = stranger.post(path(placed, f"/reservation{query}"), data={"csrf_token": token})
    assert answer.headers["Location"].endswith(path(placed, query))
