"""CSV out and in. Row 54 of docs/faults.md: no cell is a formula."""

import csv
import re
import stat
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, select, update

from models import Category, DeliveryMethod, Order, Product, Refund, Staff, StockMovement
from shop import catalogue, spreadsheets
from shop.db import db, write
from shop.money import to_minor
from shop.ops import audit
from shop.order_lists import OrderList
from shop.states import StockReason
from tests.children import ROOT
from tests.conftest import API_KEY, OrderFactory, rows, stock_of


def export(app: Flask, *args: str) -> list[dict[str, str]]:
    """What goes to stdout, as a program reads it."""
    result = app.test_cli_runner().invoke(args=["export-orders", *args])
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(StringIO(result.stdout_bytes.decode(), newline="")))


def set_order(order: Order, **values: Any) -> None:
    with write() as session:
        session.execute(update(Order).filter_by(id=order.id).values(**values))


# --- Orders out ------------------------------------------------------------------------------------------------------


def test_an_order_in_full(app: Flask, order: OrderFactory) -> None:
    paid = order.awaiting("brass-dallah", 2)
    order.pay(paid)
    with write() as session:
        staff = Staff(email="maha@example.com", name="Maha", password_hash="-")
        session.add(staff)
        session.flush()
        session.add(Refund(payment_id=order.again(paid).payments[0].id, amount=150, staff_id=staff.id))
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    set_order(paid, placed_at=at, paid_at=at, tax=1670, note="الطابق الثاني")
    [row] = export(app)
    assert row == {
        **{"order": paid.number, "state": "paid", "placed_at": "2026-01-02T03:04:05Z", "paid_late": "no"},
        **{"paid_at": "2026-01-02T03:04:05Z", "goods": "128.00", "delivery_charge": "0.00", "total": "128.00"},
        **{"tax": "16.70", "paid": "128.00", "refunded": "1.50", "currency": "USD", "items": "2 × Brass Dallah"},
        **{"delivery": "Pick up at the shop", "delivery_state": "preparing", "tracking": ""},
        **{"invoice_id": order.callback(paid)["invoiceId"], "name": "Sara Haddad", "email": "sara@example.com"},
        **{"phone": "", "address": "12 Olive Street", "city": "Amman", "region": "", "postcode": "", "country": "JO"},
        "note": "الطابق الثاني",
    }
    assert tuple(row) == spreadsheets.HEADINGS


def test_amounts_have_their_currencys_decimals(app: Flask, order: OrderFactory) -> None:
    dinars, yen = order.placed(), order.placed()
    set_order(dinars, currency="KWD", total=1500)
    set_order(yen, currency="JPY", total=1500)
    assert [(row["total"], row["currency"]) for row in export(app)] == [("1.500", "KWD"), ("1500", "JPY")]


def test_days_are_the_shops_own_and_both_ends_belong(new_app: Any, gateway: Any) -> None:
    app = new_app(SHOP_TIMEZONE="Asia/Riyadh")  # three hours ahead
    with app.app_context():
        factory = OrderFactory(gateway)
        times = ("01T20:59:59", "01T21:00:00", "03T20:59:59", "03T21:00:00")
        made = [factory.placed() for _ in times]
        for one, when in zip(made, times, strict=True):
            set_order(one, placed_at=datetime.fromisoformat(f"2026-05-{when}Z"))
        numbers = [one.number for one in made]
        assert [row["order"] for row in export(app, "--from", "2026-05-02", "--to", "2026-05-03")] == numbers[1:3]
        assert [row["order"] for row in export(app, "--from", "2026-05-04")] == numbers[3:]
        assert [row["order"] for row in export(app, "--to", "2026-05-01")] == numbers[:1]
        assert app.test_cli_runner().invoke(args=["export-orders", "--from", "yesterday"]).exit_code == 2


def test_a_file_is_made_for_spreadsheets_and_for_its_owner(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    set_order(order.placed(), name="سارة")
    file = tmp_path / "orders.csv"
    for exit_code in (0, 1):  # and is never overwritten
        result = app.test_cli_runner().invoke(args=["export-orders", "--output", str(file)])
        assert result.exit_code == exit_code
    assert "exists already" in result.output
    assert file.read_bytes().startswith(b"\xef\xbb\xbforder,state,")
    assert "سارة" in file.read_text(encoding="utf-8-sig")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".*"))


def test_without_orders_there_are_headings(app: Flask) -> None:
    assert "".join(spreadsheets.export_orders(OrderList().select())) == ",".join(spreadsheets.HEADINGS) + "\r\n"


def test_the_files_in_the_documents_are_taken_as_they_stand(app: Flask, tmp_path: Path) -> None:
    written = (ROOT / "docs" / "make-it-yours.md").read_text(encoding="utf-8")
    runner = app.test_cli_runner()
    for kind, command in (("json", "sample-shop"), ("csv", "import-products")):
        [content] = re.findall(rf"```{kind}\n(.*?)```", written, re.DOTALL)
        (tmp_path / f"shop.{kind}").write_text(content, encoding="utf-8")
        result = runner.invoke(args=[command, str(tmp_path / f"shop.{kind}")])
        assert result.exit_code == 0, result.output
    assert "courier" in [one.slug for one in rows(DeliveryMethod)]
    assert {"green-tea", "mint-tea"} <= {one.slug for one in rows(Product)}


def test_nothing_was_paid_or_refunded_for_an_unpaid_order(app: Flask, order: OrderFactory) -> None:
    order.placed()
    [row] = export(app)
    shown = [row[name] for name in ("paid", "refunded", "paid_at", "paid_late", "delivery_state", "tracking")]
    assert shown == ["0.00", "0.00", "", "no", "", ""]


def test_orders_come_in_chunks_without_a_gap(app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [order.placed().number for _ in range(7)]
    for size in (1, 3, 7, 8):
        monkeypatch.setattr(spreadsheets, "CHUNK", size)
        statements: list[str] = []
        listen = (db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))  # noqa: B023
        event.listen(*listen)
        assert [row["order"] for row in export(app)] == made
        event.remove(*listen)
        assert len(statements) <= 2 * (7 // size + 1)
        assert all("LIMIT" in one or "order_line" in one for one in statements)
    assert OrderList().count_all() == 7


FORMULAS = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "  \t-1", "\xa0=1", "\ufeff=1", "\u200f+1"),
    *("＝1", "＠x", "\tx", " \rx", "\x00=1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://evil.example")'),
]


@pytest.mark.parametrize("cell", FORMULAS)
def test_row_54_what_could_be_a_formula_is_text(cell: str) -> None:
    assert spreadsheets.harmless(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "Sara", "a=b", "12 Olive-Street", "سارة", " x", "1-2", "'=1", "47.20", "O'Neill"])
def test_row_54_anything_else_stays_as_it_is(cell: str) -> None:
    assert spreadsheets.harmless(cell) == cell


@given(st.text())
def test_row_54_no_text_begins_like_a_formula_or_is_lost(cell: str) -> None:
    safe = spreadsheets.harmless(cell)
    assert safe.removeprefix("'") == cell.removeprefix("'")
    assert not safe.strip().startswith(("=", "+", "-", "@"))


def test_row_54_whatever_a_customer_writes_is_harmless(app: Flask, order: OrderFactory) -> None:
    texts = {"name": "=1+1", "phone": "+962 7 1234", "address": " @x", "city": "-1", "note": 'a,"b"\r\n=1+1;=2'}
    made = order.placed("stoneware-cup", 1, **texts)
    set_order(made, email="=@example.com")
    with write() as session:
        for line in order.again(made).lines:
            session.merge(line).name = {"en": "=2+5"}
    [row] = export(app)
    assert row["note"] == texts["note"]
    assert [row[name] for name in ("name", "phone", "address", "city", "email", "delivery")] == [
        *("'=1+1", "'+962 7 1234", "' @x", "'-1", "'=@example.com", "'=2+5"),
    ]
    assert row["items"] == "1 × =2+5"


def test_row_53_no_secret_is_exported(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    secret = order.callback(waiting)["secret"]
    text = "".join(spreadsheets.export_orders(OrderList().select()))
    for canary in (secret, waiting.token, waiting.key, API_KEY, app.config["SECRET_KEY"]):
        assert canary not in text


# --- Products in -----------------------------------------------------------------------------------------------------

NEW = {
    **{"slug": "mint-tea", "category": "pantry", "price": "7.5", "stock": "12", "image": "img/favicon.svg"},
    **{"name_en": "Mint tea", "name_ar": "شاي بالنعناع", "subtitle_en": "50 g"},
}


def as_csv(*lines: dict[str, str], separator: str = ",") -> str:
    text = StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), delimiter=separator)
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def product(slug: str) -> Product:
    [found] = rows(Product, slug=slug)
    assert isinstance(found, Product)
    return found


def faults(text: str) -> str:
    """What an import says to a file; nothing may have changed."""

    def shop() -> list[Any]:
        return [(one.slug, one.price, one.stock, one.name, one.category_id) for one in rows(Product)]

    before = shop(), len(rows(StockMovement)), len(rows(Category))
    with pytest.raises(spreadsheets.BadRows) as caught:
        spreadsheets.import_products(text)
    assert (shop(), len(rows(StockMovement)), len(rows(Category))) == before
    return "\n".join(caught.value.args)


def test_a_new_product_is_sold_at_once(app: Flask) -> None:
    assert spreadsheets.import_products(as_csv(NEW)) == (1, 0)
    made = product("mint-tea")
    assert (made.price, made.stock, made.active) == (750, 12, True)
    assert made.name == {"en": "Mint tea", "ar": "شاي بالنعناع"}
    assert (made.subtitle, made.description, made.label) == ({"en": "50 g"}, {}, None)
    assert made.category.slug == "pantry"
    assert [one.slug for one in catalogue.products("نعناع").rows] == ["mint-tea"]
    [movement] = rows(StockMovement, product_id=made.id)
    assert (movement.quantity, movement.reason, movement.order_id) == (12, StockReason.INTAKE, None)
    assert not audit.violations()


def test_an_update_changes_what_is_said_and_leaves_the_rest(app: Flask) -> None:
    before = product("brass-dallah")
    text = as_csv({"slug": "brass-dallah", "price": "٧٠.٠٠", "name_ar": "دلة", "stock": "", "category": ""})
    assert spreadsheets.import_products(text) == (0, 1)
    after = product("brass-dallah")
    assert (after.price, after.stock, after.category_id) == (7000, before.stock, before.category_id)
    assert after.name == {"en": "Brass Dallah", "ar": "دلة"}
    assert after.description == before.description


def test_the_same_file_twice_changes_nothing_and_stock_is_booked_as_a_difference(
    app: Flask, order: OrderFactory
) -> None:
    before = stock_of("brass-dallah")
    text = as_csv({"slug": "brass-dallah", "stock": str(before + 20)})
    spreadsheets.import_products(text)
    movements = len(rows(StockMovement))
    spreadsheets.import_products(text)
    assert (stock_of("brass-dallah"), len(rows(StockMovement))) == (before + 20, movements)
    order.placed("brass-dallah", 3)
    spreadsheets.import_products(as_csv({"slug": "brass-dallah", "stock": "9999999"}))
    assert rows(StockMovement)[-1].quantity == 9999999 - (before + 17)
    spreadsheets.import_products(as_csv({"slug": "brass-dallah", "stock": "0"}))
    assert stock_of("brass-dallah") == 0
    assert rows(StockMovement)[-1].quantity == -9999999
    assert not audit.violations()


def test_a_product_is_taken_off_sale(app: Flask) -> None:
    spreadsheets.import_products(as_csv({"slug": "brass-dallah", "active": "no"}))
    assert catalogue.product("brass-dallah") is None
    spreadsheets.import_products(as_csv({"slug": "brass-dallah", "active": "yes"}))
    assert catalogue.product("brass-dallah") is not None


def test_a_new_category_comes_with_its_name(app: Flask) -> None:
    cells = {"category": "teas", "category_en": "Teas", "category_ar": "شاي"}
    assert spreadsheets.import_products(as_csv(NEW | cells, NEW | {"slug": "sage-tea", "category": "teas"})) == (2, 0)
    [category] = rows(Category, slug="teas")
    assert category.name == {"en": "Teas", "ar": "شاي"}
    assert category.position == 3


@pytest.mark.parametrize("mark", ["", spreadsheets.BOM])
@pytest.mark.parametrize("separator", [",", ";"])
def test_files_of_spreadsheets_are_read(app: Flask, mark: str, separator: str, tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text(mark + as_csv(NEW, {"slug": " "}, separator=separator), encoding="utf-8")
    result = app.test_cli_runner().invoke(args=["import-products", str(file)])
    assert (result.exit_code, result.output) == (0, "Products: 1 created, 0 updated.\n")


def test_every_fault_is_told_with_its_line_and_nothing_is_written(app: Flask, tmp_path: Path) -> None:
    text = as_csv(
        NEW | {"description_en": "two\nlines"},
        {"slug": "brass-dallah", "price": "1,50", "stock": "-1", "image": "../../.env", "active": "maybe"},
        {"slug": "Bad Slug", "name_ar": "x", "category": "nowhere"},
        NEW | {"price": "0"},
        {"slug": "", "price": "1e3"},
        {"slug": "stoneware-cup", "stock": "10000000"},
    )
    assert faults(text).splitlines() == [
        "line 4: active: write yes or no",
        "line 4: image: there is no file ../../.env in static/",
        "line 4: price: write an amount such as 12.50, with a point and no other sign",
        "line 4: stock: write a whole number from 0 to 9999999",
        "line 5: category: categories are beans, gear, pantry; a new one needs its name in category_en",
        "line 5: image: it is missing, and the product is new",
        "line 5: name_en: it is missing, and the product is new",
        "line 5: price: it is missing, and the product is new",
        "line 5: slug: write lower-case letters, digits and single hyphens, such as brass-dallah",
        "line 6: price: write a price above 0",
        "line 6: slug: an earlier line has the same",
        "line 7: category: it is missing, and the product is new",
        "line 7: image: it is missing, and the product is new",
        "line 7: name_en: it is missing, and the product is new",
        "line 7: price: write an amount such as 12.50, with a point and no other sign",
        "line 7: slug: it is missing, and the product is new",
        "line 8: stock: write a whole number from 0 to 9999999",
    ]
    file = tmp_path / "products.csv"
    file.write_text(text, encoding="utf-8")
    result = app.test_cli_runner().invoke(args=["import-products", str(file)])
    assert result.exit_code == 1
    assert "nothing was imported.\nline 4: active" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1"),
        ("price\n1\n", "slug among them"),
        ("slug,slug\nx,x\n", "each once"),
        ("slug,prize\nx,1\n", "price"),
        ("slug,price\nbrass-dallah,1,2\n", "line 2: there are more cells"),
        ("slug,price\nbrass-dallah,x,,\n", "line 2: price"),
        ('slug,price\nx,"1\n', "line 2"),
        ("slug\nx\0y\n", "isn't a CSV file"),
    ],
)
def test_what_is_no_table_of_products_is_refused(app: Flask, text: str, said: str) -> None:
    assert said in faults(text)


@pytest.mark.parametrize("path", ["../README.md", "/etc/hosts", "img", "img/none.svg", "img/" * 60])
def test_a_picture_is_one_of_the_shops_own(app: Flask, path: str) -> None:
    assert f"line 2: image: there is no file {path} in static/" in faults(as_csv(NEW | {"image": path}))


def test_a_file_in_another_encoding_is_refused(app: Flask, tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_bytes("slug,name_ar\nx,شاي\n".encode("cp1256"))
    result = app.test_cli_runner().invoke(args=["import-products", str(file)])
    assert result.exit_code == 1
    assert "not UTF-8" in result.output
    result = app.test_cli_runner().invoke(args=["import-products", str(tmp_path)])
    assert "Is a directory" in result.output


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [("47.20", "USD", 4720), ("47.2", "USD", 4720), ("1.500", "KWD", 1500), ("1500", "JPY", 1500), ("٣.٥", "USD", 350)],
)
def test_amounts_are_read_exactly(text: str, currency: str, minor: int) -> None:
    assert to_minor(text, currency) == minor


@pytest.mark.parametrize(
    "text", ["", "1,50", "-1", "+1", "1e3", "1_0", " 1", "0.001", "1.", ".5", "$1", "9" * 13, "NaN"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"amount|decimals"):
        to_minor(text, "USD")


@pytest.mark.parametrize("days", [("0001-01-01", "9999-12-31"), ("", "9999-12-31"), ("0001-01-01", "")])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_all_days_of_the_calendar_can_be_exported(
    new_app: Any, order: OrderFactory, days: tuple[str, str], zone: str
) -> None:
    order.placed()
    since, until = (date.fromisoformat(one) if one else None for one in days)
    with new_app(SHOP_TIMEZONE=zone).app_context():
        assert len(list(spreadsheets.export_orders(OrderList(since=since, until=until).select()))) == 2


def test_a_style_sheet_is_no_picture(app: Flask) -> None:
    with pytest.raises(spreadsheets.BadRows, match=r"image: css/tokens\.css is not a picture"):
        spreadsheets.import_products("slug,image\nbrass-dallah,css/tokens.css\n")


def test_a_slug_has_eighty_characters_at_most(app: Flask) -> None:
    fields = "category,price,image,name_en"
    values = "brewing,1.00,img/brass-dallah.webp,Long"
    with pytest.raises(spreadsheets.BadRows, match="slug: write lower-case letters"):
        spreadsheets.import_products(f"slug,{fields}\n{'a' * 81},{values}\n")
    image, category = db.session.execute(select(Product.image, Category.slug).join(Product.category)).first() or (
        "",
        "",
    )
    values = f"{category},1.00,{image},Long"
    assert spreadsheets.import_products(f"slug,{fields}\n{'a' * 80},{values}\n") == (1, 0)
    [made] = rows(Product, slug="a" * 80)
    assert (made.subtitle, made.description, made.name) == ({}, {}, {"en": "Long"})
