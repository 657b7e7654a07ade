"""Baskets: what can be put in, changed and taken out, with whatever people type."""

from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import select

from models import Basket, BasketItem
from shop.baskets import WrongQuantity, parse_quantity
from shop.db import db
from tests.conftest import PUBLIC_URL, CheckingClient, OrderFactory, rows, set_stock
from tests.pages import Page


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), (" 12 ", 12), ("٣", 3), ("１２", 12), ("99", 99)])
def test_row_38_digits_of_any_script_are_digits(text: str, number: int) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", " ", "-1", "1.5", "1e9", "1_0", "+1", "100", "9" * 400, "½", "²", "0x1", "one"])
def test_what_is_no_whole_number_in_range_is_refused(text: str) -> None:
    with pytest.raises(WrongQuantity, match="Enter a number from 1 to 99\\."):
        parse_quantity(text)


def items(client: CheckingClient) -> list[BasketItem]:
    """All items in all baskets."""
    db.session.expire_all()
    return list(db.session.scalars(select(BasketItem)))


def test_adding_twice_adds_up(client: CheckingClient) -> None:
    client.fill_basket("stoneware-cup", 2)
    client.fill_basket("stoneware-cup", 3)
    [item] = items(client)
    assert item.quantity == 5
    page = client.get("/basket").text
    assert "5" in page
    assert "Added to your basket." in page


def test_a_basket_survives_a_restart(app: Flask, client: CheckingClient, new_app: Callable[..., Flask]) -> None:
    client.fill_basket()
    cookie = client.get_cookie(app.config["SESSION_COOKIE_NAME"], "127.0.0.1")
    assert cookie is not None
    restarted = new_app()  # another process on the same files
    browser = restarted.test_client()
    browser.set_cookie(cookie.key, cookie.value, domain="127.0.0.1")
    with restarted.app_context():
        assert "Stoneware Cup" in browser.get("/basket").text


@pytest.mark.parametrize("quantity", ["-1", "1.5", "1e9", "1_0", "", "0"])
def test_row_38_a_wrong_quantity_is_a_422_at_the_field_with_what_was_typed(
    client: CheckingClient, quantity: str
) -> None:
    response = client.post("/basket/items", data={"product": "stoneware-cup", "quantity": quantity})
    assert response.status_code == 422
    inputs = [one for one in Page(response.text).all("input") if one.get("name") == "quantity"]
    assert quantity in {one.get("value", "") for one in inputs}
    assert any(one.get("aria-invalid") == "true" for one in inputs)
    assert not items(client)


def test_no_more_than_there_is(client: CheckingClient) -> None:
    set_stock("brass-dallah", 2)
    response = client.post("/basket/items", data={"product": "brass-dallah", "quantity": "3"})
    assert response.status_code == 422
    assert "Only 2" in response.text
    set_stock("brass-dallah", 0)
    response = client.post("/basket/items", data={"product": "brass-dallah", "quantity": "1"})
    assert response.status_code == 422
    assert "sold out" in response.text


def change(client: CheckingClient, quantity: str) -> int:
    """Send the basket page's form."""
    [item] = items(client)
    data = {"quantity": quantity, "csrf_token": client.csrf_token("/basket")}
    return client.post(f"/basket/items/{item.id}", data=data).status_code


def test_changing_and_removing(client: CheckingClient) -> None:
    client.fill_basket()
    assert change(client, "٤") == 303
    assert items(client)[0].quantity == 4
    assert change(client, "1e9") == 422
    assert items(client)[0].quantity == 4
    assert change(client, "0") == 303
    assert not items(client)


def test_fewer_is_always_possible_even_where_fewer_are_left(client: CheckingClient) -> None:
    client.fill_basket("brass-dallah", 4)
    set_stock("brass-dallah", 1)
    assert client.get("/basket").status_code == 200
    assert change(client, "3") == 303
    assert change(client, "4") == 422


def test_row_45_a_change_without_token_is_refused_with_the_input_kept(client: CheckingClient) -> None:
    client.fill_basket()
    response = client.post(f"/basket/items/{items(client)[0].id}", data={"quantity": "7"})
    assert response.status_code == 400
    hidden = {one.get("name"): one.get("value") for one in Page(response.text).all("input")}
    assert hidden["quantity"] == "7"
    # The page lets the person go on: the same form, now with a token.
    again = client.post(f"/basket/items/{items(client)[0].id}", data=hidden)
    assert again.status_code == 303
    assert items(client)[0].quantity == 7


def test_nobody_changes_the_basket_of_another(app: Flask, client: CheckingClient) -> None:
    client.fill_basket()
    stranger = app.test_client()
    assert isinstance(stranger, CheckingClient)
    stranger.fill_basket("brass-dallah")
    data = {"quantity": "0", "csrf_token": stranger.csrf_token("/basket")}
    assert "This item is no longer in your basket." in stranger.follow(stranger.post("/basket/items/1", data=data)).text
    assert len(items(client)) == 2


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8001", PUBLIC_URL + ".evil"])
@pytest.mark.parametrize("path", ["/basket/items", "/language"])
def test_row_45_forms_on_shared_pages_are_refused_from_elsewhere(
    client: CheckingClient, path: str, origin: str
) -> None:
    data = {"product": "stoneware-cup", "language": "ar"}
    assert client.post(path, data=data, headers={"Origin": origin}).status_code == 400
    assert client.post(path, data=data, headers={"Origin": PUBLIC_URL}).status_code == 303
    assert client.post(path, data=data, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 400


def test_an_ordered_basket_cannot_be_changed_any_more(client: CheckingClient, order: OrderFactory) -> None:
    client.fill_basket()
    [item] = items(client)
    token = client.csrf_token("/basket")
    client.post("/checkout", data=client.checkout_form())
    client.post(f"/basket/items/{item.id}", data={"quantity": "9", "csrf_token": token})
    assert items(client)[0].quantity == 1
    client.fill_basket("brass-dallah")
    assert [basket.open for basket in rows(Basket)] == [False, True]
