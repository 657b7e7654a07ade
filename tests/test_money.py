"""Money stays exact."""

from decimal import Decimal

import pytest
from babel.numbers import get_currency_precision
from hypothesis import given
from hypothesis import strategies as st

from shop.money import contained_tax, format_money, to_decimal

CURRENCIES = st.sampled_from(["USD", "KWD", "JPY", "SAR"])


@given(st.integers(0, 10**12), CURRENCIES)
def test_minor_units_become_exact_decimals(minor: int, currency: str) -> None:
    assert to_decimal(minor, currency).scaleb(get_currency_precision(currency)) == minor


@pytest.mark.parametrize(("currency", "expected"), [("USD", "47.20"), ("KWD", "4.720"), ("JPY", "4720")])
def test_each_currency_has_its_own_decimals(currency: str, expected: str) -> None:
    assert str(to_decimal(4720, currency)) == expected


@pytest.mark.parametrize(
    ("locale", "currency", "expected"),
    [("en", "USD", "$4,720.00"), ("ar", "USD", "4,720.00 USD"), ("ar", "KWD", "472.000 KWD")],
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
