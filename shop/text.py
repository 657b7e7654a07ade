"""Typed text, made comparable."""

import unicodedata

# What NFKD leaves apart: ya without dots, ta marbuta, alif wasla, Persian kaf and ya. Tatweel goes.
_LETTERS = str.maketrans("ىةٱکی", "يهاكي", "ـ")


def fold(text: str) -> str:
    """A text as search sees it: no case, accents or harakat; one form of alif, ya and ha; plain digits.

    SQLite's own full-text folding knows none of the Arabic part: it takes أحمد and احمد for different words.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    return " ".join(digits.translate(_LETTERS).split())
