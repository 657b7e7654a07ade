"""Text that people type, made comparable."""

import unicodedata

# What NFKD doesn't unify: ya without dots, ta marbuta, alif wasla, Persian kaf and ya. Tatweel is removed.
_LETTERS = str.maketrans("ىةٱکی", "يهاكي", "ـ")


def fold(text: str) -> str:
    """Fold a text for searching: no case, accents or harakat; one form of alif, ya and ha; plain digits.

    SQLite's own full-text folding knows nothing of the Arabic part: to it, أحمد and احمد are different words.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    return " ".join(digits.translate(_LETTERS).split())
