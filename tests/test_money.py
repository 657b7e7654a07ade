"""Money stays exact."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.money import contained_tax, exponent, format_money, to_decimal, to_minor

CURRENCIES = st.sampled_from(["USD", "KWD", "JPY", "SAR"])


@given(st.integers(0, 10**12), CURRENCIES)
def test_minor_units_become_exact_decimals(minor: int, currency: str) -> None:
    assert to_decimal(minor, currency).scaleb(exponent(currency)) == minor


@pytest.mark.parametrize(("currency", "expected"), [("USD", "47.20"), ("KWD", "4.720"), ("JPY", "4720")])
def test_each_currency_has_its_own_decimals(currency: str, expected: str) -> None:
    assert str(to_decimal(4720, currency)) == expected


@pytest.mark.parametrize(
    ("locale", "currency", "expected"),
    [
        ("en", "USD", "$4,720.00"),
        ("ar", "USD", "4,720.00 USD"),
        ("ar", "KWD", "472.000 KWD"),
        ("en", "KWD", "KWD 472.000"),
        ("en", "RSD", "RSD 4,720.00"),
        ("en", "JPY", "¥472,000"),
        ("fr", "EUR", "4\u202f720,00 €"),
    ],
)
def test_people_read_western_digits_in_both_languages(locale: str, currency: str, expected: str) -> None:
    assert format_money(472_000, currency, locale).replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("total", "rate", "tax"), [(11_500, 1500, 1500), (4720, 1500, 616), (4720, 0, 0), (1, 1500, 0)]
)
def test_the_tax_is_contained_in_the_price(total: int, rate: int, tax: int) -> None:
    assert contained_tax(total, rate) == tax


@given(st.integers(0, 10**9), st.integers(0, 9_999))
def test_the_tax_is_rounded_half_up_and_never_off_by_more_than_half_a_unit(total: int, rate: int) -> None:
    exact = Decimal(total) * rate / (10_000 + rate)
    assert abs(contained_tax(total, rate) - exact) <= Decimal("0.5")


@pytest.mark.parametrize(
    ("currency", "decimals"),
    [
        ("RSD", 2),
        ("IQD", 3),
        ("ISK", 0),
        ("AFN", 2),
        ("IRR", 2),
        ("LBP", 2),
        ("SYP", 2),
        ("YER", 2),
        ("JOD", 3),
        ("CLF", 4),
    ],
)
def test_row_77_decimals_are_those_of_iso_4217_and_not_those_that_people_write(currency: str, decimals: int) -> None:
    """Prices, the gateway's amount and the pages agree on them."""
    assert exponent(currency) == decimals
    text = f"1{'.' if decimals else ''}{'5' * decimals}"
    assert str(to_decimal(to_minor(text, currency), currency)) == text
    assert text in format_money(to_minor(text, currency), currency, "en")
