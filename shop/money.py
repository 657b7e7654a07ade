"""Money: integer minor units inside, exact decimals on the wire, the reader's notation on pages."""

import re
from copy import copy
from decimal import Decimal

from babel import Locale
from babel.numbers import parse_pattern

_EXPONENTS = {0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF", 4: "CLF UYW"}
_EXPONENTS |= {3: "BHD IQD JOD KWD LYD OMR TND"}


def exponent(currency: str) -> int:
    """The decimals of a currency by ISO 4217. (Locale libraries say how many people write: none for Serbian dinars.)"""
    return next((decimals for decimals, currencies in _EXPONENTS.items() if currency in currencies.split()), 2)


def to_decimal(minor: int, currency: str) -> Decimal:
    """4720 US cents → `Decimal("47.20")`. Kuwaiti dinars have three decimals, yen none."""
    return Decimal(minor).scaleb(-exponent(currency))


def to_minor(text: str, currency: str) -> int:
    """`"47.20"` → 4720 US cents. Digits may be of any script.

    Raises:
        ValueError: for anything but digits with a point before the decimals, or more decimals than the currency has.
    """
    decimals = exponent(currency)
    if not re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        raise ValueError("write an amount such as 12.50, with a point and no other sign")
    amount = Decimal(text).scaleb(decimals)
    if amount != int(amount):
        raise ValueError(f"{currency} has {decimals} decimals")
    return int(amount)


def format_money(minor: int, currency: str, locale: str) -> str:
    """Minor units for people: `$47.20` or `KWD 4.720` in English, `47.20 USD` in Arabic (Western digits in both)."""
    standard = Locale.parse(locale).currency_formats["standard"]
    pattern = copy(parse_pattern("#,##0.00 ¤¤") if locale.startswith("ar") else standard)
    pattern.frac_prec = (exponent(currency), exponent(currency))
    text = str(pattern.apply(to_decimal(minor, currency), locale, currency=currency, currency_digits=False))
    return re.sub(r"(?<=[^\W\d])(?=\d)", "\u00a0", text)  # a code is no symbol: `KWD 4.720`, and not `KWD4.720`


def contained_tax(total: int, rate: int) -> int:
    """The tax in a total that includes it.

    Args:
        total: minor units.
        rate: hundredths of a percent.

    Returns:
        Minor units, rounded half up.
    """
    return (total * rate * 2 + (10_000 + rate)) // (2 * (10_000 + rate))
