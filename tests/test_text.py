"""Text that people type and paste (rows 70 to 72)."""

import sys
import unicodedata
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from models import Order, Product
from shop import baskets, catalogue, spreadsheets
from shop.config import load
from shop.text import fold, one_line, plain, several_lines, visible
from tests.conftest import CheckingClient, rows, settings_for

RANGES = """00AD 034F 061C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0
FFF0-FFF8 1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"""
"""Default_Ignorable_Code_Point, as Unicode's DerivedCoreProperties.txt has it."""


def code_points() -> list[str]:
    """Every default-ignorable code point."""
    ends = [entry.split("-") for entry in RANGES.split()]
    return [chr(code) for pair in ends for code in range(int(pair[0], 16), int(pair[-1], 16) + 1)]


INVISIBLE = code_points()
FORMATS = [chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code)) == "Cf"]
ARABIC_NUMBER_SIGNS = [c for c in FORMATS if c in "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"]


def test_row_70_every_invisible_code_point_vanishes_from_what_has_no_use_for_it() -> None:
    for c in INVISIBLE:
        for text in (f"{c}+966 50", f"+966{c} 50", f"+966 50{c}", f"{c}{c}+9{c}66 5{c}0{c}"):
            assert plain(text) == "+966 50", f"U+{ord(c):04X}"
        assert visible(f"{c}key{c}-1{c}") == "key-1", f"U+{ord(c):04X}"
        assert fold(f"{c}قهوة{c} Caf{c}é") == fold("قهوة café"), f"U+{ord(c):04X}"


def test_row_70_a_name_of_nothing_visible_is_empty() -> None:
    for c in [*INVISIBLE, *"\u2800\u00a0\u3000\u0301\u064e\x1b"]:
        for text in (c, f" {c} ", c * 3, f"{c}\u200d{c}"):
            assert one_line(text) == "", f"U+{ord(c):04X}"


def test_row_70_nothing_invisible_stays_at_the_edges_of_a_text() -> None:
    after_all = set("\ufe0f\ufe0e") | {chr(code) for code in [*range(0xFE00, 0xFE10), *range(0xE0020, 0xE01F0)]}
    for c in INVISIBLE:
        assert one_line(f"{c}Sara") == "Sara", f"U+{ord(c):04X}"
        if c not in after_all and not 0x180B <= ord(c) <= 0x180F:  # these belong to the character before
            assert one_line(f"Sara{c}") == "Sara", f"U+{ord(c):04X}"


@pytest.mark.parametrize("text", ["می‌خواهم", "👩‍💻 Sara", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿 flag", "葛󠄀城", "क्‍ष"])
def test_row_70_joiners_and_selectors_that_mean_something_are_kept(text: str) -> None:
    assert one_line(text) == text
    assert several_lines(f" {text} \n {text}") == f"{text}\n{text}"


@pytest.mark.parametrize("c", [c for c in FORMATS if c not in INVISIBLE and c not in "\ufff9\ufffa\ufffb"])
def test_row_70_signs_that_are_seen_are_kept(c: str) -> None:
    assert c in one_line(f"سنة {c}١٤٤٧")


OPENERS, CLOSERS = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068", "\u202c\u2069"
TEXTS = st.text(alphabet=st.sampled_from([*OPENERS, *CLOSERS, *INVISIBLE[:40], *"aسb ١\n\t\x00"]), max_size=20)


@given(TEXTS | st.text())
def test_row_70_nothing_that_is_left_turns_what_follows_around(text: str) -> None:
    cleaned = one_line(text)
    depth: list[str] = []
    for c in cleaned:
        if c in OPENERS:
            depth.append("\u2069" if c in "\u2066\u2067\u2068" else "\u202c")
        elif c in CLOSERS:
            assert depth
            assert depth.pop() == c
    assert not depth
    assert one_line(cleaned) == cleaned
    assert "\n" not in cleaned
    assert plain(plain(text)) == plain(text)
    assert not set(plain(text)) & set(INVISIBLE)


# --- Where people type -----------------------------------------------------------------------------------------------

TYPED = [
    ("phone", "\u202a+966 50 123 4567\u202c", "+966 50 123 4567"),
    ("phone", "tel:+966501234567", "+966501234567"),
    ("phone", "TEL:+966-50-123;ext=12", "+966-50-123 ext. 12"),
    ("phone", "+966 50 123 4567 ext. 12", "+966 50 123 4567 ext. 12"),
    ("phone", "+966 50 123 4567 x12", "+966 50 123 4567 x12"),
    ("phone", "٠٥٠ ١٢٣ ٤٥٦٧ تحويلة ١٢", "٠٥٠ ١٢٣ ٤٥٦٧ تحويلة ١٢"),
    ("phone", "＋９６６　５０　１２３", "+966 50 123"),
    ("phone", "050\u2011123\u20134567", "050-123-4567"),
    ("email", "\u200esara@example.com", "sara@example.com"),
    ("email", "Ali <ali@example.com>", "ali@example.com"),
    ("email", '"Haddad, Sara" <sara@example.com>', "sara@example.com"),
    ("email", "<sara@example.com>", "sara@example.com"),
    ("email", "mailto:sara@example.com?subject=Coffee", "sara@example.com"),
    ("email", "MAILTO:sara@example.com", "sara@example.com"),
    ("email", "sara@example.com,", "sara@example.com"),
    ("email", "ｓａｒａ＠example.com", "sara@example.com"),
    ("name", "\u2067سارة\u2069", "سارة"),
    ("name", "Sa\u00adra Had\ufeffdad", "Sara Haddad"),
    ("postcode", "１１９３７\u200b", "11937"),
    ("note", "one\u200b\r\ntwo\u202e", "one\ntwo"),
]


@pytest.mark.parametrize(("field", "typed", "kept"), TYPED)
def test_row_70_what_was_pasted_into_the_form_is_understood(
    client: CheckingClient, field: str, typed: str, kept: str
) -> None:
    client.fill_basket()
    answer = client.post("/checkout", data=client.checkout_form(**{field: typed}))
    assert answer.status_code == 303, answer.text
    assert getattr(rows(Order)[0], field) == kept


@pytest.mark.parametrize(
    ("field", "typed"),
    [("name", "\u200b\u3164"), ("email", "sara@example.com, ali@example.com"), ("email", "a <b@c.de> <d@e.fg>x"),
     ("phone", "tel:"), ("phone", "+966 50 call me"), ("city", "\u2800"), ("phone", "ext. 12")],
)  # fmt: skip
def test_row_70_and_what_means_nothing_is_still_refused(client: CheckingClient, field: str, typed: str) -> None:
    client.fill_basket()
    assert client.post("/checkout", data=client.checkout_form(**{field: typed})).status_code == 422


@pytest.mark.parametrize("typed", ["٢\u200f", "\u202b2\u202c", "２", " 2\u00a0", "\ufeff2"])
def test_row_70_quantities(client: CheckingClient, typed: str) -> None:
    assert baskets.parse_quantity(typed) == 2
    assert client.post("/basket/items", data={"product": "stoneware-cup", "quantity": typed}).status_code == 303


@pytest.mark.parametrize("typed", ["dallah\u200f", "\u202adallah\u202c", "ｄａｌｌａｈ", "dal\u00adlah", "دلّة\u200f"])
def test_row_70_searches(client: CheckingClient, typed: str) -> None:
    assert "/products/brass-dallah" in client.get("/", query_string={"q": typed}).text


def test_row_70_settings(tmp_path: Any) -> None:
    pasted = {"AMWAL_API_KEY": "\u200ba-key\u200b", "PUBLIC_URL": "\u202ahttps://shop.example\u202c"}
    pasted |= {"SHOP_CURRENCY": "SAR\u200f", "RESERVATION_MINUTES": "\ufeff45", "SHOP_NAME": "متجر می‌خواهم\u200f"}
    settings = load(settings_for(tmp_path, "https://gateway.example/projects/1") | pasted)
    assert (settings.amwal_api_key, settings.public_url) == ("a-key", "https://shop.example")
    assert (settings.shop_currency, settings.reservation_minutes) == ("SAR", 45)
    assert settings.shop_name == "متجر می‌خواهم"


# --- Rows 71 and 72 --------------------------------------------------------------------------------------------------


def price_of(slug: str) -> int:
    """What a product costs, in cents."""
    return int(rows(Product, slug=slug)[0].price)


@pytest.mark.parametrize(
    ("table", "price"),
    [
        ("slug;price\nstoneware-cup;12,5", 1250),
        ("slug;price\nstoneware-cup;12,50", 1250),
        ("slug;price\nstoneware-cup;1234,5", 123450),
        ("slug;price\nstoneware-cup;12.50", 1250),
        ("slug;price\nstoneware-cup;\u200e12,5\u200f", 1250),
        ('slug,price\nstoneware-cup,"12.50"', 1250),
        ("\ufeffslug\u200b;PRICE\nstoneware-cup;1", None),
        ("slug;price\nstoneware-cup;1.234,50", None),
        ("slug;price\nstoneware-cup;1,234,50", None),
        ("slug;price\nstoneware-cup;12,345", None),
        ('slug,price\nstoneware-cup,"12,5"', None),
    ],
)
def test_row_71_in_a_semicolon_file_a_decimal_comma_is_a_point(app: Flask, table: str, price: int | None) -> None:
    before = price_of("stoneware-cup")
    if price is None:
        with pytest.raises(spreadsheets.BadRows):
            spreadsheets.import_products(table)
        assert price_of("stoneware-cup") == before
    else:
        spreadsheets.import_products(table)
        assert price_of("stoneware-cup") == price


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("slug,pirce", "'pirce' is none; did you mean price?"),
        ("Slug,price", "'Slug' is none; did you mean slug?"),
        ("slug,Name EN", "'Name EN' is none; did you mean name_en?"),
        ("slug,weather", "'weather' is none"),
        ("slug,pric,stok", "'pric' is none; did you mean price?. 'stok' is none; did you mean stock?"),
    ],
)
def test_row_71_wrong_headings_are_named_with_the_nearest_right_one(app: Flask, heading: str, said: str) -> None:
    with pytest.raises(spreadsheets.BadRows) as caught:
        spreadsheets.import_products(f"{heading}\nstoneware-cup,1,1")
    assert caught.value.args[0].endswith(said)


@pytest.mark.parametrize("language", ["en", "ar"])
def test_row_72_a_search_finds_what_is_in_a_category_of_that_name(
    app: Flask, client: CheckingClient, language: str
) -> None:
    for category in catalogue.categories():
        found = {one.slug for one in catalogue.products(category.name[language]).rows}
        assert {one.slug for one in rows(Product, category_id=category.id)} <= found
