"""The catalogue: what is found, in which order, page by page."""

import json
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import event, select

from models import Category, DeliveryMethod, Product
from shop import paging
from shop.catalogue import PAGE, Sort, products, searchable
from shop.db import db, write
from shop.ops import audit, sample
from shop.text import fold
from tests.conftest import CheckingClient, rows, set_stock
from tests.pages import Page, heading


def slugs(page: paging.Page[Product]) -> list[str]:
    """The products of a page."""
    return [product.slug for product in page.rows]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("أحمد", "احمد"),
        ("آسيا", "اسيا"),
        ("قَهْوَة", "قهوة"),
        ("قهوة", "قهوه"),
        ("على", "علي"),
        ("حـــراز", "حراز"),
        ("٢٥٠", "250"),
        ("Café", "cafe"),
        ("ＤＡＬＬＡＨ", "dallah"),
    ],
)
def test_search_takes_spellings_for_the_same_word(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("query", "slug"),
    [
        ("dallah", "brass-dallah"),
        ("دله", "brass-dallah"),
        ("هيل أخضر", "green-cardamom"),
        ("yemen 250", "haraz-single-origin"),
        ("HONEY sidr", "sidr-honey"),
    ],
)
def test_every_word_must_be_found_in_any_language(app: Flask, query: str, slug: str) -> None:
    assert slug in slugs(products(query))
    assert not slugs(products(f"{query} nonsense"))


@pytest.mark.parametrize("query", ["%", "_", "\\", "100%"])
def test_wildcards_are_letters(app: Flask, query: str) -> None:
    assert not slugs(products(query))


def test_sorting(app: Flask) -> None:
    prices = [product.price for product in products(sort=Sort.PRICE).rows]
    assert prices == sorted(prices)
    assert [product.price for product in products(sort=Sort.PRICE_DOWN).rows] == prices[::-1]
    newest = [product.id for product in products(sort=Sort.NEWEST).rows]
    assert newest == sorted(newest, reverse=True)


def add_products(count: int) -> None:
    """Add products of equal price and position, which keyset pages must still tell apart."""
    with write() as session:
        category = session.scalars(select(Category)).first()
        assert category is not None
        for number in range(count):
            name = {"en": f"Bulk {number}"}
            product = Product(slug=f"bulk-{number}", category_id=category.id, name=name, subtitle={}, description={})
            product.price, product.image, product.search = 999, "img/favicon.svg", searchable(name)
            session.add(product)


@pytest.mark.parametrize("sort", list(Sort))
def test_pages_show_every_product_once(app: Flask, sort: Sort) -> None:
    add_products(60)
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = products(sort=sort, after=after)
        assert len(page.rows) <= PAGE
        seen += slugs(page)
        after = page.next_after
    assert len(seen) == len(set(seen)) == 76


@pytest.mark.parametrize("after", ["nonsense", "1", "1.2.3", "-1.5", "٣.٤", "9" * 30, "1.2; DROP TABLE product"])
def test_a_broken_place_in_the_list_starts_at_the_beginning(client: CheckingClient, after: str) -> None:
    response = client.get("/", query_string={"after": after})
    assert response.status_code == 200


def test_the_list_takes_two_queries_however_long_it_is(app: Flask) -> None:
    add_products(60)
    statements: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    app.test_client().get("/", base_url="http://127.0.0.1:9")
    assert len(statements) == 2


def test_the_pages(client: CheckingClient) -> None:
    assert "Brass Dallah" in client.get("/").text
    assert "Brass Dallah" in client.get("/?category=gear").text
    assert "Brass Dallah" not in client.get("/?category=beans").text
    assert client.get("/?category=shoes").status_code == 404
    assert client.get("/?q=nothing+like+this").status_code == 200
    assert heading(client.get("/products/brass-dallah").text) == "Brass Dallah"
    assert client.get("/products/none").status_code == 404


def test_in_arabic_the_page_runs_from_right_to_left(client: CheckingClient) -> None:
    page = client.get("/products/brass-dallah?lang=ar").text
    [root] = Page(page).all("html")
    assert (root["lang"], root["dir"]) == ("ar", "rtl")
    assert heading(page) == "دلّة نحاسية"


def test_stock_is_told(client: CheckingClient) -> None:
    set_stock("stoneware-cup", 3)
    assert "3 left" in client.get("/products/stoneware-cup").text
    set_stock("stoneware-cup", 0)
    assert "Sold out" in client.get("/products/stoneware-cup").text


def test_a_withdrawn_product_is_not_shown(client: CheckingClient) -> None:
    with write() as session:
        session.scalars(select(Product).filter_by(slug="stoneware-cup")).one().active = False
    assert client.get("/products/stoneware-cup").status_code == 404
    assert "Stoneware Cup" not in client.get("/").text


def test_row_47_a_script_in_a_products_name_is_inert(client: CheckingClient) -> None:
    with write() as session:
        product = session.scalars(select(Product).filter_by(slug="stoneware-cup")).one()
        product.name = {"en": "<script>alert(1)</script>"}
        product.description = {"en": '"><img src=x onerror=alert(1)>'}
    for path in ("/", "/products/stoneware-cup"):
        page = client.get(path).text  # the client refuses pages with anything inline
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page


# --- The sample shop's file ------------------------------------------------------------------------------------------


def shop_file(tmp_path: Path, **changes: object) -> Path:
    """A file with one product, changed; `None` leaves a value out."""
    lamp = {"slug": "lamp", "category": "lamps", "price": 900, "stock": 3, "image": "img/favicon.svg"}
    lamp |= {name: {"en": "Lamp"} for name in ("name", "subtitle", "description")} | changes
    category = {"slug": "lamps", "name": {"en": "Lamps"}}
    data = {"categories": [category], "delivery": [], "products": [{k: v for k, v in lamp.items() if v is not None}]}
    file = tmp_path / "my_shop.json"
    file.write_text(json.dumps(data))
    return file


@pytest.fixture
def pictures(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures in the place of `static/`."""
    folder = tmp_path / "static"
    (folder / "photos").mkdir(parents=True)
    monkeypatch.setattr(app, "static_folder", str(folder))
    return folder


@pytest.mark.parametrize("kind", ["svg", "png", "jpg", "webp"])
def test_row_96_pictures_of_ones_own_work_and_running_it_again_updates(
    app: Flask, client: CheckingClient, pictures: Path, tmp_path: Path, kind: str
) -> None:
    (pictures / "photos" / f"lamp.{kind}").write_bytes(b"picture")
    assert sample.fill(shop_file(tmp_path, image=f"photos/lamp.{kind}")) == (1, 0)
    assert f"/static/photos/lamp.{kind}?v=" in client.get("/products/lamp").text
    client.fill_basket("lamp")
    again = shop_file(tmp_path, image=f"photos/lamp.{kind}", price=1100, name={"en": "Lantern"}, stock=50)
    assert sample.fill(again) == (0, 1)
    [lamp] = rows(Product, slug="lamp")
    assert (lamp.price, lamp.name, lamp.stock) == (1100, {"en": "Lantern"}, 3), "stock is what was sold from"
    assert "/products/lamp" in client.get("/?q=lantern").text
    assert not audit.violations()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "photos/none.png"}, "lamp: there is no file photos/none.png in static/"),
        ({"image": "../app.py"}, "lamp: there is no file ../app.py in static/"),
        ({"category": "lights"}, "lamp: there is no category lights"),
        ({"price": None}, "price"),
        ({"price": 0}, "price_positive"),
        ({"slug": None}, "an entry has no 'slug'"),
        ({"colour": "red"}, "lamp: a Product has no colour"),
        ({"price": "9.00"}, "lamp: name, price or stock can't be used"),
        ({"price": 2**31}, "lamp: name, price or stock can't be used"),
        ({"stock": -1}, "lamp: name, price or stock can't be used"),
        ({"stock": True}, "lamp: name, price or stock can't be used"),
        ({"name": "Lamp"}, "lamp: name, price or stock can't be used"),
        ({"subtitle": {"en": 5}}, "lamp: subtitle can't be used"),
        ({"active": "no"}, "lamp: active can't be used"),
    ],
)
def test_row_96_what_is_wrong_in_the_file_is_named_and_nothing_is_written(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], said: str
) -> None:
    monkeypatch.setattr(sample, "DATA", shop_file(tmp_path, **changes))
    before = len(rows(Product))
    result = app.test_cli_runner().invoke(args=["sample-shop"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: my_shop.json: ")
    assert said in result.output
    assert result.output.count("\n") == 1
    assert len(rows(Product)) == before


COURIER = {"slug": "courier", "name": {"en": "Courier"}, "description": {"en": "Soon"}, "price": 7, "free_from": None}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"hello", "Expecting value"),
        ("{}".encode("utf-16"), "can't decode"),
        (b"[1]", "it isn't written like"),
        (b'{"categories": 5, "products": [], "delivery": []}', "it isn't written like"),
        (b'{"delivery": []}', "an entry has no 'categories'"),
        ({"price": -1}, "courier: price can't be used"),
        ({"price": 4.5}, "courier: price can't be used"),
        ({"price": 10**30}, "courier: price can't be used"),
        ({"price": True}, "courier: price can't be used"),
        ({"name": "Courier"}, "courier: name can't be used"),
        ({"name": {}}, "courier: name can't be used"),
        ({"active": "no"}, "courier: active can't be used"),
        ({"free_from": "40"}, "courier: free_from can't be used"),
    ],
)
def test_a_file_of_ones_own_is_taken_whole_or_not_at_all(
    app: Flask, tmp_path: Path, wrong: bytes | dict[str, object], said: str
) -> None:
    file, before = tmp_path / "own.json", len(rows(DeliveryMethod))
    data = {"categories": [], "products": [], "delivery": [COURIER | wrong]} if isinstance(wrong, dict) else {}
    file.write_bytes(wrong if isinstance(wrong, bytes) else json.dumps(data).encode())
    result = app.test_cli_runner().invoke(args=["sample-shop", str(file)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: own.json: ")
    assert said in result.output
    assert result.output.count("\n") == 1
    assert len(rows(DeliveryMethod)) == before


def test_what_a_delivery_method_must_have(app: Flask, tmp_path: Path) -> None:
    for name in ("name", "price"):
        left = {key: value for key, value in COURIER.items() if key != name}
        file = tmp_path / "own.json"
        file.write_text(json.dumps({"categories": [], "products": [], "delivery": [left]}))
        result = app.test_cli_runner().invoke(args=["sample-shop", str(file)])
        assert (result.exit_code, f"courier: {name} can't be used" in result.output) == (1, True)


@pytest.mark.parametrize("query", ["?q=cup", "?category=coffee", "?after=1"])
def test_the_front_page_alone_greets(client: CheckingClient, query: str) -> None:
    assert 'class="hero"' in client.get("/").text
    assert 'class="hero"' not in client.get(f"/{query}").text


def test_an_unknown_address_says_what_may_be_wrong(client: CheckingClient) -> None:
    answer = client.get("/nothing/here")
    assert answer.status_code == 404
    assert "It may have moved, or the address may be wrong." in answer.text
