"""Products and search: keyset pages, so that the last page of 100,000 products costs what the first one does."""

import unicodedata
from dataclasses import dataclass

from flask_babel import lazy_gettext as _
from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, joinedload

from models import Category, Labelled, Product, Texts
from shop.db import db

PAGE = 24

# What NFKD leaves apart: ya without dots, ta marbuta, alif wasla, Persian kaf and ya. Tatweel goes.
_LETTERS = str.maketrans("ىةٱکی", "يهاكي", "ـ")


class Sort(Labelled):
    """The orders in which the list can be shown."""

    FEATURED = "featured", _("Featured")
    NEWEST = "newest", _("Newest first")
    PRICE = "price", _("Price, low to high")
    PRICE_DOWN = "-price", _("Price, high to low")


@dataclass(frozen=True)
class Page:
    """Some products, and the `after` of the next page (None on the last)."""

    products: list[Product]
    next_after: str | None


def fold(text: str) -> str:
    """A text as search sees it: no case, accents or harakat; one form of alif, ya and ha; plain digits.

    SQLite's own full-text folding knows none of the Arabic part: it takes أحمد and احمد for different words.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    return " ".join(digits.translate(_LETTERS).split())


def searchable(*texts: Texts) -> str:
    """What `Product.search` holds for a product's texts: all of them, in all languages, folded."""
    return fold(" ".join(part for text in texts for part in text.values()))


def products(query: str = "", category: Category | None = None, sort: Sort = Sort.FEATURED, after: str = "") -> Page:
    """A page of the catalogue.

    Args:
        query: words that must all occur, in any language.
        category: only its products.
        sort: the order.
        after: `Page.next_after` of the page before; anything else starts at the beginning.
    """
    wanted = select(Product).where(Product.active).options(joinedload(Product.category))
    if category is not None:
        wanted = wanted.where(Product.category_id == category.id)
    for word in fold(query).split()[:8]:
        wanted = wanted.where(Product.search.contains(word, autoescape=True))
    found = list(db.session.scalars(_keyset(wanted, sort, after).limit(PAGE + 1)))
    more = len(found) > PAGE
    return Page(found[:PAGE], _cursor(found[PAGE - 1], sort) if more else None)


def product(slug: str) -> Product | None:
    """A product that is on sale, or None."""
    return db.session.scalar(select(Product).filter_by(slug=slug, active=True).options(joinedload(Product.category)))


def categories() -> list[Category]:
    """All categories, in their order."""
    return list(db.session.scalars(select(Category).order_by(Category.position, Category.id)))


def _keys(sort: Sort) -> tuple[list[InstrumentedAttribute[int]], bool]:
    """The columns that a sort goes by, ended by the id, and whether it goes downwards."""
    match sort:
        case Sort.NEWEST:
            return [Product.id], True
        case Sort.PRICE:
            return [Product.price, Product.id], False
        case Sort.PRICE_DOWN:
            return [Product.price, Product.id], True
        case _:
            return [Product.position, Product.id], False


def _keyset(wanted: Select[Product], sort: Sort, after: str) -> Select[Product]:
    columns, down = _keys(sort)
    values = [int(part) for part in after.split(".") if part.isascii() and part.isdecimal() and len(part) < 16]
    if len(values) == len(columns):
        place = tuple_(*columns) < tuple_(*values) if down else tuple_(*columns) > tuple_(*values)
        wanted = wanted.where(place)
    return wanted.order_by(*(column.desc() if down else column.asc() for column in columns))


def _cursor(last: Product, sort: Sort) -> str:
    return ".".join(str(getattr(last, column.key)) for column in _keys(sort)[0])
