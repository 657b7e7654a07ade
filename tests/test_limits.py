"""The limits: guessed secrets (row 21), a rejected API key (row 24), goods, orders and e-mails for who doesn't pay."""

import email
import email.policy
import json
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import event, insert, update
from sqlalchemy.exc import OperationalError

import amwal
from models import Attention, Basket, CallbackAttempt, GatewayCall, Heartbeat, Order, OutboxMessage, now
from shop import limits, orders, payments, privacy, worker
from shop.db import db, write
from shop.gateway import Gateway, reopen_checkout
from shop.states import CUSTOMER, AttentionKind, CallbackOutcome, OrderState, OutboxKind
from tests.conftest import CheckingClient, OrderFactory, attention, rows, set_stock, stock_of
from tests.pages import Page, heading

URL = "/amwal/callback"


# --- Row 21: guessing of secrets -------------------------------------------------------------------------------------


def guess(client: Any) -> int:
    """Try a secret."""
    body = json.dumps({"invoiceId": "65448ddef4924a5dd1b241a9", "paymentSessionId": "1", "secret": str(uuid4())})
    status: int = client.post(URL, data=body).status_code
    return status


HALF = int(os.environ.get("GUESSES", "2000")) // 2


def test_row_21_of_thousands_of_guesses_60_are_recorded_and_a_good_callback_in_the_middle_is_taken(
    app: Flask, client: CheckingClient, order: OrderFactory
) -> None:
    """`GUESSES=10000` makes the long run."""
    waiting = order.awaiting()
    message = json.dumps(order.callback(waiting))
    app.extensions["miss_limiter"].seconds = 3600  # however slow this machine is
    written: list[str] = []
    event.listen(db.engines["write"], "begin", lambda _: written.append("begin"))
    statuses = [guess(client) for _ in range(HALF)]
    assert statuses == [404] * 60 + [429] * (HALF - 60)
    assert len(written) == 60
    assert client.post(URL, data=message).status_code == 200
    assert order.again(waiting).state is OrderState.PAID
    assert [guess(client) for _ in range(HALF)] == [429] * HALF
    assert client.post(URL, data=message).status_code == 200
    assert len(written) == 62
    assert len(rows(CallbackAttempt, outcome=CallbackOutcome.UNKNOWN_SECRET)) == 60
    told = attention(AttentionKind.UNKNOWN_SECRET)
    assert told is not None
    assert told.count == 60
    app.extensions["miss_limiter"].seconds = 0  # a minute later
    assert guess(client) == 404
    told = attention(AttentionKind.UNKNOWN_SECRET)
    assert told is not None
    assert told.count == 2 * HALF + 1
    assert len(rows(Attention)) == 1


def test_row_21_unreadable_bodies_share_the_limit(app: Flask, client: CheckingClient, order: OrderFactory) -> None:
    app.extensions["miss_limiter"] = limits.MissLimiter(limit=3)
    waiting = order.awaiting()
    crossed = order.callback(waiting) | {"invoiceId": "65448ddef4924a5dd1b241a9"}
    bodies = [b"nonsense", b"x" * 9000, b'{"secret": "s"}', b"nonsense", b"x" * 9000, b'{"secret": "s"}']
    assert [client.post(URL, data=body).status_code for body in bodies] == [400, 413, 404, 429, 429, 429]
    assert client.post(URL, data=json.dumps(crossed)).status_code == 409, "the secret is right: this is no guess"
    app.extensions["miss_limiter"].seconds = 0
    assert client.post(URL, data=b"nonsense").status_code == 400
    told = attention(AttentionKind.UNKNOWN_SECRET)
    assert told is not None
    assert told.count == 4, "one that was recorded, and three that were only counted"


def test_row_21_what_was_recorded_a_minute_ago_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("shop.limits.time.monotonic", lambda: clock[0])
    misses = limits.MissLimiter(limit=2)
    misses.record()
    clock[0] += 59
    assert not misses.is_full()
    misses.record()
    assert misses.is_full()
    clock[0] += 2
    assert not misses.is_full(), "the first is older than a minute"
    misses.record()
    assert misses.is_full()


def test_row_21_a_database_that_fails_while_the_limit_is_used_up_is_a_503(
    app: Flask, client: CheckingClient, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.extensions["miss_limiter"] = limits.MissLimiter(limit=1)
    waiting = order.awaiting()
    message = json.dumps(order.callback(waiting))
    assert guess(client) == 404

    def gone(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("gone"))

    with monkeypatch.context() as broken:
        broken.setattr(payments, "_has_secret_of_ours", gone)
        assert client.post(URL, data=message).status_code == 503
    assert client.post(URL, data=message).status_code == 200


def test_row_21_the_worker_forgets_old_misses_and_those_beyond_the_newest_and_nothing_else(
    app: Flask, client: CheckingClient, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MISSES_KEPT", 3)
    waiting = order.awaiting()
    for _ in range(2):
        order.pay(waiting)
    order.pay(waiting, invoiceId="another")
    kept = [attempt.id for attempt in rows(CallbackAttempt)]
    columns = {"sender": "127.0.0.1", "status": 404, "reason": "", "gateway_id": "", "session_id": "", "body": ""}
    with write() as session:
        unread = CallbackOutcome.MALFORMED
        misses = [
            (8, CallbackOutcome.UNKNOWN_SECRET),
            (6, unread),
            (5, CallbackOutcome.TOO_LARGE),
            (1, unread),
            (0, unread),
        ]
        for days, outcome in misses:
            values = {"outcome": outcome, "received_at": now() - timedelta(days=days)}
            session.execute(insert(CallbackAttempt).values(**columns, **values))
        session.execute(
            update(CallbackAttempt).where(CallbackAttempt.id.in_(kept)).values(received_at=now() - timedelta(days=400))
        )
    newest = [attempt.id for attempt in rows(CallbackAttempt)][-3:]
    worker.tick()
    assert [attempt.id for attempt in rows(CallbackAttempt)] == [*kept, *newest]
    monkeypatch.setattr(worker, "MISSES_KEPT", 0)
    worker.tick()
    assert len(rows(CallbackAttempt)) == 6, "once an hour is enough"
    with write() as session:
        session.get_one(Heartbeat, "hourly").at = now() - timedelta(minutes=61)
    worker.tick()
    assert [attempt.id for attempt in rows(CallbackAttempt)] == kept


def test_row_21_the_outcome_that_is_never_stored_could_not_be(app: Flask) -> None:
    attempt = CallbackAttempt(sender="", outcome=CallbackOutcome.TOO_MANY, status=429)
    with pytest.raises(Exception, match="limited_attempts_are_not_stored"), write() as session:
        session.add(attempt)


# --- Row 24: the API key is rejected ---------------------------------------------------------------------------------


class Keyholder:
    """A gateway that rejects the key, or does what else it is told."""

    def __init__(self, error: amwal.AmwalError | None = None) -> None:
        self.error = error

    def create_invoice(self, **_: Any) -> amwal.Invoice:
        if self.error:
            raise self.error
        number = uuid4().hex
        return amwal.Invoice(number, f"http://127.0.0.1:8001/en/invoice/{number}", f"secret-{number}", None)


@pytest.fixture
def keyholder(app: Flask) -> Keyholder:
    """The gateway, rejecting the key."""
    stub = Keyholder(amwal.KeyRejected("the gateway does not accept the API key (HTTP 401)"))
    app.extensions["amwal"] = Gateway(stub)  # type: ignore[arg-type]
    return stub


def is_closed(client: CheckingClient) -> bool:
    """Whether the checkout takes no orders, on both of its ways; the basket must still be there."""
    stranger = client.application.test_client()
    assert isinstance(stranger, CheckingClient)
    stranger.fill_basket()
    token = stranger.csrf_token("/basket")
    orders_before = len(rows(Order))
    shown, sent = stranger.get("/checkout"), stranger.post("/checkout", data={"csrf_token": token})
    assert (shown.status_code, sent.status_code) in ((200, 422), (503, 503))
    assert len(rows(Order)) == orders_before
    assert "Stoneware Cup" in stranger.get("/basket").text
    if shown.status_code == 503:
        assert heading(shown.text) == heading(sent.text) == "We can't take orders right now"
        assert "401" not in shown.text
    return shown.status_code == 503


def test_row_24_three_rejections_in_a_row_close_the_checkout(
    client: CheckingClient, order: OrderFactory, keyholder: Keyholder
) -> None:
    for _ in range(3):
        assert not is_closed(client)
        order.awaiting()
    assert is_closed(client)
    told = attention(AttentionKind.GATEWAY_REFUSED)
    assert told is not None
    assert (told.subject, told.count) == ("KeyRejected", 3)
    assert told.detail.endswith("the API key (HTTP 401); three in a row close the checkout")
    assert client.get("/").status_code == 200
    arabic = client.get("/checkout?lang=ar")
    assert arabic.status_code == 503
    assert heading(arabic.text) == "لا يمكننا استقبال الطلبات الآن"


def test_row_24_a_call_that_passes_in_between_counts_anew_and_no_answer_counts_not(
    client: CheckingClient, order: OrderFactory, keyholder: Keyholder
) -> None:
    rejected, gone = keyholder.error, amwal.Unavailable("no answer")
    for error in (rejected, rejected, None, rejected, gone, rejected, gone):
        keyholder.error = error
        order.awaiting()
        assert not is_closed(client)
    keyholder.error = rejected
    order.awaiting()
    assert is_closed(client)
    keyholder.error = gone
    order.awaiting()
    assert is_closed(client), "no answer says nothing about the key"


def test_row_24_try_again_on_an_order_opens_it(
    client: CheckingClient, order: OrderFactory, keyholder: Keyholder
) -> None:
    placed, _, _ = (order.awaiting() for _ in range(3))
    assert is_closed(client)
    page = f"/orders/{placed.token}"
    retry = {"data": {"csrf_token": client.csrf_token(f"{page}?key={placed.key}")}}
    assert client.post(f"{page}/invoice?key={placed.key}", **retry).status_code == 303
    assert is_closed(client)
    keyholder.error = None
    assert client.post(f"{page}/invoice?key={placed.key}", **retry).status_code == 303
    assert order.again(placed).state is OrderState.AWAITING_PAYMENT
    assert not is_closed(client)


def test_row_24_a_person_opens_it_until_three_more_are_rejected(
    client: CheckingClient, order: OrderFactory, keyholder: Keyholder
) -> None:
    for _ in range(3):
        order.awaiting()
    reopen_checkout("staff:1")
    assert rows(GatewayCall)[-1].detail == "by staff:1"
    for _ in range(3):
        assert not is_closed(client)
        order.awaiting()
    assert is_closed(client)


def test_row_24_the_doctors_invoice_opens_it(
    app: Flask, client: CheckingClient, order: OrderFactory, keyholder: Keyholder, gateway: Any
) -> None:
    for _ in range(3):
        order.awaiting()
    assert is_closed(client)
    app.extensions["amwal"] = Gateway(amwal.Client(gateway.project_url, "wrong", {"http://127.0.0.1:8001"}))
    app.test_cli_runner().invoke(args=["doctor"])
    assert is_closed(client)
    key = app.extensions["settings"].amwal_api_key
    app.extensions["amwal"] = Gateway(amwal.Client(gateway.project_url, key, {"http://127.0.0.1:8001"}))
    said = app.test_cli_runner().invoke(args=["doctor", "--create-test-invoice"]).output
    assert "API key     accepted" in said
    assert not is_closed(client)
    assert rows(GatewayCall)[-1].order_id is None


# --- Row 43: goods held by who doesn't pay ---------------------------------------------------------------------------


def buy(client: CheckingClient, address: str = "192.0.2.1") -> Any:
    """Put something in the basket, unless something is, and check out from a network address."""
    if client.get("/checkout").status_code == 303:
        client.fill_basket()
    return client.post("/checkout", data=client.checkout_form(), environ_overrides={"REMOTE_ADDR": address})


def browsers(app: Flask, count: int) -> list[CheckingClient]:
    """Browsers with cookies of their own."""
    made = [app.test_client() for _ in range(count)]
    assert all(isinstance(one, CheckingClient) for one in made)
    return made  # type: ignore[return-value]


def press(client: CheckingClient, order: Order, what: str, address: str = "192.0.2.1") -> str:
    """Press a button on the order's page; the page that it leads to."""
    token = client.csrf_token(f"/orders/{order.token}")
    sent = client.post(
        f"/orders/{order.token}/{what}", data={"csrf_token": token}, environ_overrides={"REMOTE_ADDR": address}
    )
    return client.follow(sent).text


def test_row_43_a_browser_holds_three_and_is_led_to_them(client: CheckingClient, order: OrderFactory) -> None:
    before = stock_of("stoneware-cup")
    for number in range(3):
        assert buy(client, f"192.0.2.{number}").status_code == 303
    refused = buy(client, "192.0.2.9")
    assert refused.status_code == 422
    assert "You already have 3 unpaid orders" in refused.text
    placed = rows(Order)
    assert len(placed) == 3
    links = [link["href"] for link in Page(refused.text).all("a") if link["href"].startswith("/orders/")]
    assert links == [f"/orders/{one.token}" for one in placed]
    assert "Sara Haddad" in refused.text, "what was typed is kept"
    assert "Stoneware Cup" in client.get("/basket").text
    assert stock_of("stoneware-cup") == before - 3
    order.pay(placed[0])
    assert buy(client).status_code == 303, "one is paid"
    assert buy(client).status_code == 422
    press(client, placed[1], "cancellation")
    assert buy(client).status_code == 303, "one is cancelled"
    assert buy(client).status_code == 422
    order.run_out(placed[2])
    assert orders.expire(placed[2].id)
    assert buy(client).status_code == 303, "one has run out"


def test_row_43_an_address_with_fresh_cookies_holds_ten(app: Flask) -> None:
    for browser in browsers(app, 10):
        assert buy(browser).status_code == 303
    eleventh, elsewhere = browsers(app, 2)
    refused = buy(eleventh)
    assert refused.status_code == 422
    assert "There are already 10 unpaid orders from your internet connection" in refused.text
    assert not [link for link in Page(refused.text).all("a") if link["href"].startswith("/orders/")], "they are others'"
    assert "Stoneware Cup" in eleventh.get("/basket").text
    assert buy(elsewhere, "192.0.2.2").status_code == 303
    assert len(rows(Order)) == 11
    orders.cancel(rows(Order)[0].id, CUSTOMER)
    assert buy(eleventh).status_code == 303


def test_row_43_the_refusal_is_in_arabic_too(app: Flask, client: CheckingClient) -> None:
    for number in range(3):
        buy(client, f"192.0.2.{number}")
    client.post("/language", data={"language": "ar", "next": "/"})
    assert "لديكم 3 طلبات غير مدفوعة" in buy(client).text


def test_row_43_held_again_counts_as_held(app: Flask, client: CheckingClient, order: OrderFactory) -> None:
    """Otherwise one could let orders run out, place others, and hold the first ones again: more each half hour."""
    buy(client, "192.0.2.1")
    [first] = rows(Order)
    order.run_out(first)
    orders.expire(first.id)
    for _ in range(3):
        assert buy(client, "192.0.2.2").status_code == 303
    assert "You already have 3 unpaid orders" in press(client, first, "reservation")
    assert order.again(first).state is OrderState.EXPIRED
    press(client, rows(Order)[1], "cancellation")
    press(client, first, "reservation", "192.0.2.2")
    again = order.again(first)
    assert again.state is OrderState.AWAITING_PAYMENT
    assert again.network == rows(Order)[-1].network, "it counts for the address that holds it now"


def test_row_43_the_same_form_sent_again_is_still_the_same_order(client: CheckingClient) -> None:
    for _ in range(2):
        buy(client)
    client.fill_basket()
    form = client.checkout_form()
    answers = [client.post("/checkout", data=form) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].headers["Location"] == answers[1].headers["Location"]


def all_at_once(app: Flask) -> list[int]:
    """What sixteen browsers at one address are answered that check out at the same moment."""
    crowd = browsers(app, 16)
    forms = []
    for browser in crowd:
        browser.fill_basket()
        forms.append(browser.checkout_form())

    def submit(number: int) -> int:
        place = {"REMOTE_ADDR": "192.0.2.1"}
        return crowd[number].post("/checkout", data=forms[number], environ_overrides=place).status_code

    with ThreadPoolExecutor(16) as threads:
        return sorted(threads.map(submit, range(16)))


def test_row_43_of_many_at_once_ten_get_through(app: Flask) -> None:
    assert all_at_once(app) == [303] * 10 + [422] * 6


@pytest.mark.postgres
def test_row_43_without_taking_turns_more_than_ten_would(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(16)
    monkeypatch.setattr(limits, "_serialize_network", lambda *_: together.wait(10))
    assert all_at_once(app).count(303) > 10


NETWORKS = [
    ("192.0.2.1", "192.0.2.1", True),
    ("192.0.2.1", "192.0.2.2", False),
    ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
    ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
    ("::ffff:192.0.2.1", "192.0.2.1", True),
    ("fe80::1%eth0", "fe80::1", True),
]


@pytest.mark.parametrize(("one", "other", "same"), NETWORKS)
def test_row_43_of_ipv6_the_first_64_bits_count(app: Flask, one: str, other: str, same: bool) -> None:
    assert (limits.network_digest(one) == limits.network_digest(other)) is same


@pytest.mark.parametrize("address", ["", None, "unknown", "/run/shop.sock", "::ffff:300.1.1.1", "fe80::1::2"])
def test_row_84_those_whose_address_cannot_be_read_share_the_limit_of_one(app: Flask, address: str | None) -> None:
    assert limits.network_digest(address) == limits.network_digest(None) != limits.network_digest("192.0.2.1")
    assert [buy(browser, address or "").status_code for browser in browsers(app, 11)] == [303] * 10 + [422]


READABLE = [
    ("203.0.113.6:50001", "203.0.113.6"),
    (" 203.0.113.6 ", "203.0.113.6"),
    ("[2001:db8::6]:50001", "2001:db8::6"),
    ("[2001:db8::6]", "2001:db8::6"),
    ("2001:db8::6", "2001:db8::6"),
    ("[fe80::1%eth0]:80", "fe80::1"),
    ("[::ffff:203.0.113.6]:80", "203.0.113.6"),
]


@pytest.mark.parametrize(("sent", "address"), READABLE)
def test_row_84_an_address_with_a_port_or_brackets_is_read(app: Flask, sent: str, address: str) -> None:
    assert limits.network_digest(sent) == limits.network_digest(address) != limits.network_digest(None)


@pytest.mark.parametrize("sent", ["unknown", "_hidden", "203.0.113.6.7", "2001:db8:::1", "a, b", ""])
def test_row_84_where_the_proxys_header_cannot_be_read_its_own_address_counts(
    new_app: Callable[..., Flask], sent: str
) -> None:
    app = new_app(TRUSTED_PROXIES="1")
    with app.app_context():
        [browser] = browsers(app, 1)
        browser.fill_basket()
        browser.post("/checkout", data=browser.checkout_form(), headers={"X-Forwarded-For": sent})
        assert rows(Order)[0].network == limits.network_digest("127.0.0.1")


def test_row_43_the_address_itself_is_kept_nowhere(
    new_app: Callable[..., Flask], app: Flask, client: CheckingClient, tmp_path: Path
) -> None:
    buy(client, "198.51.100.77")
    [placed] = rows(Order)
    assert len(placed.network) == 64
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("shop.db*"))
    assert b"198.51.100.77" not in stored
    other = new_app(SECRET_KEY="another-key-" * 4)
    with other.app_context():
        assert limits.network_digest("198.51.100.77") != placed.network, "the digest is keyed"
    orders.cancel(placed.id, CUSTOMER)
    privacy.forget(placed.email)
    assert rows(Order)[0].network == ""


def test_row_43_behind_a_proxy_the_customers_address_counts(new_app: Callable[..., Flask]) -> None:
    app = new_app(TRUSTED_PROXIES="1")
    with app.app_context():
        for number, browser in enumerate(browsers(app, 11)):
            browser.fill_basket()
            headers = {"X-Forwarded-For": f"203.0.113.9, 192.0.2.{number}"}  # what the client itself sent comes first
            assert browser.post("/checkout", data=browser.checkout_form(), headers=headers).status_code == 303
        assert len({placed.network for placed in rows(Order)}) == 11


# --- Row 98: goods reserved in vain ----------------------------------------------------------------------------------


def take(app: Flask, units: int, address: str = "192.0.2.1") -> Any:
    """Check out so many cups in a fresh browser."""
    [browser] = browsers(app, 1)
    browser.fill_basket(quantity=units)
    return buy(browser, address)


def let_run_out(order: OrderFactory, which: Order) -> None:
    """Let an order's reservation of half an hour run out."""
    with write() as session:
        stored = orders.lock(session, which.id)
        stored.held_since, stored.reserved_until = now() - timedelta(minutes=31), now() - timedelta(minutes=1)
    assert orders.expire(which.id)


def test_row_98_nobody_empties_the_shop_twice_for_nothing(app: Flask, order: OrderFactory) -> None:
    set_stock("stoneware-cup", 20)
    assert take(app, 20).status_code == 303, "whoever comes first may take all there is"
    let_run_out(order, rows(Order)[0])
    refused = take(app, 11)
    assert refused.status_code == 422
    assert "You can order at most 10 of Stoneware Cup for now" in refused.text
    assert take(app, 6).status_code == 303
    assert "You can order at most 4 of Stoneware Cup" in take(app, 5).text, "what it holds already counts"
    assert take(app, 4).status_code == 303
    assert "You can order at most 0 of Stoneware Cup" in take(app, 1).text
    assert take(app, 10, "192.0.2.2").status_code == 303, "others may take all that is left"


def test_row_98_a_few_are_left_to_everybody(app: Flask, order: OrderFactory) -> None:
    set_stock("stoneware-cup", 4)
    take(app, 4)
    let_run_out(order, rows(Order)[0])
    assert "You can order at most 3 of Stoneware Cup" in take(app, 4).text
    assert take(app, 3).status_code == 303


@pytest.mark.parametrize(("minutes", "status"), [(31, 422), (5, 303)])
def test_row_98_cancelling_just_before_the_end_helps_nobody(
    app: Flask, order: OrderFactory, minutes: int, status: int
) -> None:
    """One who changed their mind after five minutes may order all the same."""
    set_stock("stoneware-cup", 20)
    take(app, 20)
    [held] = rows(Order)
    with write() as session:
        orders.lock(session, held.id).held_since = now() - timedelta(minutes=minutes)
    assert orders.cancel(held.id, CUSTOMER)
    assert take(app, 20).status_code == status


def test_row_98_what_a_network_paid_for_is_not_in_vain_and_a_day_later_all_is_forgotten(
    app: Flask, order: OrderFactory
) -> None:
    set_stock("stoneware-cup", 40)
    take(app, 20)
    [held] = rows(Order)
    with write() as session:
        orders.lock(session, held.id).held_since = now() - timedelta(minutes=60)
    order.pay(held)
    assert take(app, 20).status_code == 303
    let_run_out(order, rows(Order)[1])
    assert take(app, 20).status_code == 422
    with write() as session:
        stored = orders.lock(session, rows(Order)[1].id)
        stored.held_since, stored.reserved_until = now() - timedelta(hours=26), now() - timedelta(hours=25)
    assert take(app, 20).status_code == 303


def test_row_98_reserving_again_asks_for_units_too(app: Flask, client: CheckingClient, order: OrderFactory) -> None:
    set_stock("stoneware-cup", 20)
    client.fill_basket(quantity=20)
    buy(client)
    [held] = rows(Order)
    let_run_out(order, held)
    assert "You can order at most 10 of Stoneware Cup" in press(client, held, "reservation")
    assert order.again(held).state is OrderState.EXPIRED
    assert stock_of("stoneware-cup") == 20


def test_row_98_an_order_is_reserved_again_twice_and_then_ordered_again(
    app: Flask, client: CheckingClient, order: OrderFactory
) -> None:
    buy(client)
    [held] = rows(Order)
    for _ in range(2):
        let_run_out(order, held)
        assert "Pay $" in heading(press(client, held, "reservation"))
    token = client.csrf_token(f"/orders/{held.token}")
    let_run_out(order, held)
    page = client.get(f"/orders/{held.token}").text
    assert "Already paid? You don't need to do anything." in page
    assert "Reserve them again" not in page
    assert client.post(f"/orders/{held.token}/reservation", data={"csrf_token": token}).status_code == 303
    assert order.again(held).state is OrderState.EXPIRED
    assert heading(press(client, held, "basket")) == "Your basket"
    assert "Stoneware Cup" in client.get("/basket").text


def test_row_98_a_return_without_a_cookie_still_extends_the_reservation_once(app: Flask, order: OrderFactory) -> None:
    """The phone that scanned the code and paid has none."""
    waiting = order.awaiting()
    before = waiting.reserved_until
    [phone] = browsers(app, 1)
    for _ in range(3):
        phone.get(f"/orders/{waiting.token}?returned=success")
    assert order.again(waiting).reserved_until - before == timedelta(minutes=120)


# --- Row 99: orders and e-mails for nothing --------------------------------------------------------------------------


def test_row_99_a_network_places_thirty_orders_an_hour_that_it_does_not_pay(app: Flask, order: OrderFactory) -> None:
    def place_and_cancel() -> int:
        answer = take(app, 1)
        if answer.status_code == 303:
            orders.cancel(rows(Order)[-1].id, CUSTOMER)
        return int(answer.status_code)

    assert [place_and_cancel() for _ in range(31)] == [303] * 30 + [422]
    refused = take(app, 1)
    assert "There were too many unpaid orders from your internet connection." in refused.text
    assert take(app, 1, "192.0.2.2").status_code == 303, "others aren't concerned"
    order.pay(rows(Order)[0])
    assert place_and_cancel() == 303, "one that is paid, even late, gives its place back"
    assert place_and_cancel() == 422
    with write() as session:
        session.get_one(Order, rows(Order)[5].id).placed_at = now() - timedelta(minutes=61)
    assert place_and_cancel() == 303


@pytest.mark.slow
def test_row_99_many_customers_behind_one_address_who_pay_are_not_limited(app: Flask, order: OrderFactory) -> None:
    set_stock("stoneware-cup", 60)
    for _ in range(40):
        assert take(app, 1).status_code == 303
        order.pay(rows(Order)[-1])


@pytest.mark.slow
def test_row_99_the_demos_own_machine_is_not_limited(new_app: Callable[..., Flask]) -> None:
    app = new_app(DEMO="on", PUBLIC_URL="http://192.0.2.7:8000")
    with app.app_context():
        set_stock("stoneware-cup", 60)
        assert {take(app, 1, "192.0.2.7").status_code for _ in range(12)} == {303}
        assert {take(app, 1, "127.0.0.1").status_code for _ in range(12)} == {303}
        assert [take(app, 1, "192.0.2.8").status_code for _ in range(11)] == [303] * 10 + [422], "phones are"


MAILBOX = ["sara@example.com", "Sara@Example.com", "sara+1@example.com", "sara+x+y@example.com"]


def test_row_99_a_mailbox_gets_three_links_to_pay_a_day(
    app: Flask, client: CheckingClient, order: OrderFactory
) -> None:
    """Anybody can type anybody's address."""
    addresses = [*MAILBOX, "sara@example.org", "sara.h@example.com", "xsara+1@example.com", "sara+@example.com.au"]
    for address in addresses:
        payments.request_invoice(order.placed(email=address).id)
    queued = {message.payload["order_id"] for message in rows(OutboxMessage, kind=OutboxKind.MAIL_PAY_HERE)}
    placed = rows(Order)
    assert [one.email for one in placed if one.id not in queued] == [MAILBOX[3]]
    said = "We haven't e-mailed you this link"
    third, fourth = (client.get(f"/orders/{one.token}").text for one in placed[2:4])
    assert (said in third, said in fourth) == (False, True)
    for one, hint in ((placed[2], "open the link in our e-mail"), (placed[3], "use the browser you ordered with")):
        order.run_out(one)
        orders.expire(one.id)
        assert f"To manage this order, {hint}" in client.get(f"/orders/{one.token}").text
    order.pay(placed[3])
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT)) == 1, "receipts are never limited"
    with write() as session:
        session.get_one(Order, placed[0].id).placed_at = now() - timedelta(hours=25)
    payments.request_invoice(order.placed(email="sara+z@example.com").id)
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_PAY_HERE)) == len(addresses)


def test_row_99_orders_said_to_be_paid_hide_no_payment_that_arrived_twice(
    app: Flask, order: OrderFactory, tmp_path: Path
) -> None:
    twice = order.awaiting()
    order.pay(twice)
    set_stock("stoneware-cup", 60)
    for _ in range(60):
        placed = order.placed()
        with write() as session:
            stored = orders.lock(session, placed.id)
            stored.state, stored.returned_at = OrderState.AWAITING_PAYMENT, now() - timedelta(hours=1)
    worker._beat()
    worker._notice_possibly_paid()
    order.pay(twice, paymentSessionId="another")
    worker.tick()
    [digest] = (tmp_path / "mail").glob("mail-digest*")
    mail = email.message_from_bytes(digest.read_bytes(), policy=email.policy.default)
    text = mail.get_content()
    assert text.index("1. Paid twice") < text.index(twice.number) < text.index("2. Possibly paid")
    assert "(60)" in text
    assert len(re.findall(r"^ +A-\d+", text, re.MULTILINE)) == 1 + worker.DIGEST_PER_KIND
    assert "61 things need your attention" in str(mail["Subject"])


# --- Row 108: baskets for nothing ------------------------------------------------------------------------------------


def test_row_108_a_program_without_cookies_begins_three_hundred_baskets_an_hour(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BASKETS_PER_HOUR", 5)
    app.extensions["basket_limiter"] = limits.RateLimiter(limits.MAX_BASKETS_PER_HOUR, 3600)
    bot, person = app.test_client(use_cookies=False), app.test_client()

    def add(client: Any, address: str = "192.0.2.1") -> Any:
        data = {"product": "stoneware-cup", "quantity": "1"}
        return client.post("/basket/items", data=data, environ_overrides={"REMOTE_ADDR": address})

    assert add(person).status_code == 303
    assert [add(bot).status_code for _ in range(6)] == [303] * 4 + [429] * 2
    refused = add(bot)
    assert "There were too many new baskets from your internet connection." in refused.text
    assert len(rows(Basket)) == 5
    assert add(person).status_code == 303, "a basket that is there already goes on"
    assert add(bot, "192.0.2.2").status_code == 303
    clock = time.monotonic() + 3601
    monkeypatch.setattr("shop.limits.time.monotonic", lambda: clock)
    assert add(bot).status_code == 303


def test_row_108_a_cookie_sent_again_and_again_begins_no_more(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its basket belongs to an order, so each request would begin another."""
    monkeypatch.setattr(limits, "MAX_BASKETS_PER_HOUR", 5)
    app.extensions["basket_limiter"] = limits.RateLimiter(limits.MAX_BASKETS_PER_HOUR, 3600)
    [browser] = browsers(app, 1)
    buy(browser, "192.0.2.1")
    name = app.config["SESSION_COOKIE_NAME"]
    cookie = browser.get_cookie(name, "127.0.0.1")
    assert cookie is not None
    statuses = []
    for _ in range(8):
        browser.set_cookie(name, cookie.value, domain="127.0.0.1")
        data = {"product": "stoneware-cup", "quantity": "1"}
        answer = browser.post("/basket/items", data=data, environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
        statuses.append(answer.status_code)
    assert statuses == [303] * 5 + [429] * 3


def test_row_108_the_limiter_forgets_networks_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("shop.limits.time.monotonic", lambda: clock[0])
    limiter = limits.RateLimiter(2, 3600)
    for number in range(3 * limiter.KEYS):
        assert limiter.allows(str(number))
    assert len(limiter._times) == limiter.KEYS
    last = str(3 * limiter.KEYS - 1)
    assert [limiter.allows(last) for _ in range(2)] == [True, False]
    clock[0] = 3601.0
    assert limiter.allows(last)


def test_row_21_misses_are_kept_for_a_week(app: Flask) -> None:
    columns = {"sender": "", "status": 404, "reason": "", "gateway_id": "", "session_id": "", "body": ""}
    with write() as session:
        for days in (9, 7.1, 6.9, 1):
            values = {"outcome": CallbackOutcome.UNKNOWN_SECRET, "received_at": now() - timedelta(days=days)}
            session.execute(insert(CallbackAttempt).values(**columns, **values))
    worker.forget_misses()
    assert [(now() - attempt.received_at).days for attempt in rows(CallbackAttempt)] == [6, 1]
