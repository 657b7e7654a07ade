"""Money: integer minor units inside, exact decimals on the wire, the reader's notation on pages."""

from decimal import Decimal

from babel.numbers import format_currency, get_currency_precision


def to_decimal(minor: int, currency: str) -> Decimal:
    """4720 US cents → `Decimal("47.20")`. Kuwaiti dinars have three decimals, yen none."""
    return Decimal(minor).scaleb(-get_currency_precision(currency))


def to_minor(amount: Decimal, currency: str) -> int:
    """`Decimal("47.20")` dollars → 4720.

    Raises:
        ValueError: if the amount is finer than the currency's smallest unit.
    """
    scaled = amount.scaleb(get_currency_precision(currency))
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{amount} {currency} is finer than the currency's smallest unit")
    return int(scaled)


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
