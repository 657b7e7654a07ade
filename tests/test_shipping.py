"""Handing over: sent by a carrier or collected at the shop, with an e-mail at each step."""

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from models import Delivery, Order, OrderEvent, OutboxMessage
from shop import outbox, privacy, shipping, worker
from shop.db import db, write
from shop.ops import audit
from shop.refusals import Refusal
from shop.states import COLLECTION, SHIPMENT, DeliveryState, EventKind, OrderState, OutboxKind
from tests.conftest import CONTACT, CheckingClient, OrderFactory, rows
from tests.pages import heading
from tests.test_dashboard import press, told
from tests.test_worker import mails

LINK = "https://dhl.example/track?id=77"


def paid(order: OrderFactory, *, collected: bool = False, **contact: str) -> Order:
    """An order that was paid, to be sent unless it is collected."""
    made = order.awaiting("stoneware-cup", 1, **contact)
    with write() as session:
        session.execute(update(Order).filter_by(id=made.id).values(is_collected=collected))
    order.pay(made)
    return order.again(made)


def step(desk: CheckingClient, order: Order, to: str, **fields: str) -> Any:
    """Press a button of the order's page."""
    page = f"/dashboard/orders/{order.number}"
    return press(desk, f"{page}/delivery", page, to=to, **fields)


def shown(client: CheckingClient, order: Order) -> str:
    """What the customer sees."""
    return client.get(f"{order.path}?key={order.key}", follow_redirects=True).text


def test_an_order_is_sent_and_delivered_and_the_customer_follows_it(
    desk: CheckingClient, order: OrderFactory, tmp_path: Path
) -> None:
    made = paid(order)
    assert heading(shown(desk, made)) == "Paid. Thank you"
    assert step(desk, made, "shipped", carrier="DHL", tracking=LINK).status_code == 303
    sent = order.again(made).delivery
    assert (sent.state, sent.carrier, sent.tracking) == (DeliveryState.SHIPPED, "DHL", LINK)
    assert sent.shipped_at
    page = shown(desk, made)
    assert heading(page) == "Your order is on its way"
    assert f'<a href="{LINK}" rel="noreferrer">Track your parcel</a>' in page
    assert LINK not in desk.application.test_client().get(made.path, base_url="http://127.0.0.1:9").text
    assert step(desk, made, "delivered").status_code == 303
    assert order.again(made).delivery.delivered_at
    assert heading(shown(desk, made)) == "Your order has arrived"
    assert "/delivery" not in desk.get(f"/dashboard/orders/{made.number}").text, "nothing is left to do"
    worker.tick()
    names = [f"mail-delivery-{made.id}-{state}.eml" for state in ("shipped", "delivered")]
    bodies = [mails(tmp_path)[name].get_content() for name in names]
    assert f"Sent with DHL.\nTrack your parcel here:\n{LINK}\n" in bodies[0]
    assert all(f"http://127.0.0.1:9/orders/{made.token}?key={made.key}" in body for body in bodies)
    subjects = [mails(tmp_path)[name]["Subject"] for name in names]
    where = f"Your order {made.number} at Qahwa & Co."
    assert subjects == [f"{where} is on its way", f"{where} has arrived"]
    acts = told(order.again(made))
    assert ("Omar", "Delivery: On its way", "") in acts
    assert ("Omar", "Delivery: Delivered", "") in acts
    assert audit.violations() == []


def test_an_order_is_collected(desk: CheckingClient, order: OrderFactory, tmp_path: Path) -> None:
    made = paid(order, collected=True)
    assert step(desk, made, "shipped").status_code == 400, "it isn't one of its steps"
    assert step(desk, made, "ready").status_code == 303
    assert heading(shown(desk, made)) == "Your order is ready to collect"
    assert step(desk, made, "collected").status_code == 303
    assert heading(shown(desk, made)) == "You've collected your order"
    worker.tick()
    assert f"mail-delivery-{made.id}-ready.eml" in mails(tmp_path)
    assert f"mail-delivery-{made.id}-collected.eml" in mails(tmp_path)
    assert privacy.is_over(order.again(made))


@pytest.mark.parametrize("collected", [False, True])
def test_nothing_goes_back_and_nothing_is_done_twice(
    app: Flask, order: OrderFactory, staff: int, collected: bool
) -> None:
    made = paid(order, collected=collected)
    steps = COLLECTION if collected else SHIPMENT
    others = [state for state in DeliveryState if state not in steps]
    shipping.advance(made.id, steps[2], staff)  # a step may be left out
    for to in (*steps, *others):
        with pytest.raises(Refusal, match="done already"):
            shipping.advance(made.id, to, staff)
    assert order.again(made).delivery.state is steps[2]
    assert len(rows(OrderEvent, kind=EventKind.DELIVERY_CHANGED)) == 1
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_DELIVERY)) == 1


def test_what_is_not_paid_is_not_handed_over(app: Flask, order: OrderFactory, staff: int) -> None:
    for made in (order.placed(), order.awaiting(), order.expired()):
        with pytest.raises(Refusal):
            shipping.advance(made.id, DeliveryState.SHIPPED, staff)


@pytest.mark.parametrize(
    "link",
    ["http://dhl.example/", "javascript:alert(1)", "https://", "https://dhl", "dhl.example", "https://a b.example"],
)
def test_a_tracking_link_is_https(desk: CheckingClient, order: OrderFactory, link: str) -> None:
    made = paid(order)
    refused = step(desk, made, "shipped", carrier="DHL", tracking=link)
    assert refused.status_code == 422
    assert "Enter an address that begins with https://." in refused.text
    assert 'value="DHL"' in refused.text, "what was typed is kept"
    assert order.again(made).delivery.state is DeliveryState.PREPARING


def test_several_orders_go_on_at_once(desk: CheckingClient, order: OrderFactory) -> None:
    sent, collected, unpaid = paid(order), paid(order, collected=True), order.awaiting()
    page = "/dashboard/orders?stage=to-hand-over"
    assert desk.get(page).text.count('name="order"') == 2
    data = {"order": [sent.number, collected.number, unpaid.number, "A-9999", "x"], "stage": "to-hand-over"}
    done = desk.post("/dashboard/orders/next-step", data=data | {"csrf_token": desk.csrf_token(page)})
    assert "2 orders went on." in desk.follow(done).text
    states = [one.state for one in rows(Delivery)]
    assert states == [DeliveryState.SHIPPED, DeliveryState.READY]
    assert order.again(unpaid).state is OrderState.AWAITING_PAYMENT


def test_packing_slips_show_what_goes_where(desk: CheckingClient, order: OrderFactory) -> None:
    sent, collected = paid(order, note="Ring twice."), paid(order, collected=True, name="Ali")
    page = desk.get(f"/dashboard/orders/slips?order={sent.number}&order={collected.number}&order=A-9999").text
    for text in ("12 Olive Street", "Ring twice.", "<strong>1 ×</strong> <bdi>Stoneware Cup</bdi>", "Ali"):
        assert text in page
    assert page.count('class="panel slip"') == 2
    assert "$" not in page, "a parcel's slip names no prices"
    assert "Choose orders in the list first." in desk.get("/dashboard/orders/slips").text


def test_whoever_asks_to_be_forgotten_leaves_no_trace_in_these_mails(
    app: Flask, order: OrderFactory, staff: int
) -> None:
    made = paid(order)
    shipping.advance(made.id, DeliveryState.DELIVERED, staff)
    with write() as session:
        session.execute(update(OutboxMessage).values(error="no mailbox sara@example.com", done_at=None))
    privacy.forget("sara@example.com")
    keys = outbox.mail_keys(made.id)
    assert {one.error for one in rows(OutboxMessage) if one.key in keys} == {""}
    worker.tick()
    assert all(one.done_at for one in rows(OutboxMessage) if one.key in keys)


# --- Collected: no address is asked ----------------------------------------------------------------------------------


def test_whoever_collects_gives_no_address(client: CheckingClient) -> None:
    client.fill_basket()
    nothing = dict.fromkeys(("address", "city", "region", "postcode", "country"), "")
    placed = client.post("/checkout", data=client.checkout_form(delivery="pickup", **nothing))
    assert placed.status_code == 303, placed.text
    [order] = rows(Order)
    assert (order.is_collected, order.address, order.country) == (True, "", "")
    page = client.follow(placed).text
    assert "Delivery address" not in page
    assert "Ready to collect" in page, "the last step"


def test_an_address_that_was_typed_all_the_same_is_not_kept(client: CheckingClient) -> None:
    client.fill_basket()
    client.post("/checkout", data=client.checkout_form(delivery="pickup"))
    [order] = rows(Order)
    assert [getattr(order, name) for name in ("address", "city", "country")] == ["", "", ""]
    assert order.name == CONTACT["name"]


def test_what_is_typed_stays_while_the_method_may_still_change(client: CheckingClient) -> None:
    client.fill_basket()
    refused = client.post("/checkout", data=client.checkout_form(delivery="pickup", email="nobody"))
    assert refused.status_code == 422
    assert 'value="12 Olive Street"' in refused.text
    missing = client.post("/checkout", data=client.checkout_form(address="", country=""))
    assert missing.status_code == 422
    assert "Enter your address." in missing.text
    assert "Choose a country." in missing.text
    unknown = client.post("/checkout", data=client.checkout_form(country="XX"))
    assert unknown.status_code == 422
    assert db.session.query(Order).count() == 0
