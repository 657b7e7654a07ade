"""Money: integer minor units inside, exact decimals on the wire, the reader's notation on pages."""

import re
from decimal import Decimal

from babel.numbers import format_currency, get_currency_precision


def to_decimal(minor: int, currency: str) -> Decimal:
    """4720 US cents → `Decimal("47.20")`. Kuwaiti dinars have three decimals, yen none."""
    return Decimal(minor).scaleb(-get_currency_precision(currency))


def to_minor(text: str, currency: str) -> int:
    """`"47.20"` → 4720 US cents. Digits may be of any script.

    Raises:
        ValueError: for anything but digits with a point before the decimals, or more decimals than the currency has.
    """
    decimals = get_currency_precision(currency)
    if not re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        raise ValueError("write an amount such as 12.50, with a point and no other sign")
    amount = Decimal(text).scaleb(decimals)
    if amount != int(amount):
        raise ValueError(f"{currency} has {decimals} decimals")
    return int(amount)


def format_money(minor: int, currency: str, locale: str) -> str:
    """Minor units for people: `$47.20` in English, `47.20 USD` in Arabic (Western digits in both)."""
    pattern = "#,##0.00 ¤¤" if locale.startswith("ar") else None
    return format_currency(to_decimal(minor, currency), currency, pattern, locale=locale)


def contained_tax(total: int, rate: int) -> int:
    """The tax in a total that includes it.

    Args:
        total: minor units.
        rate: hundredths of a percent.

    Returns:
        Minor units, rounded half up.
    """
    return (total * rate * 2 + (10_000 + rate)) // (2 * (10_000 + rate))
