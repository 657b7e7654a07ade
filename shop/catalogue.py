"""Products, categories and search."""

import mimetypes
from pathlib import Path

from flask import current_app
from flask_babel import lazy_gettext as _
from sqlalchemy import select
from sqlalchemy.orm import joinedload
from werkzeug.security import safe_join

from models import Category, LocalizedText, Product
from shop import paging
from shop.db import db
from shop.paging import Keys, Page
from shop.states import Labelled
from shop.text import fold

PAGE = 24


class Sort(Labelled):
    """Sort orders of the product list."""

    FEATURED = "featured", _("Featured")
    NEWEST = "newest", _("Newest first")
    PRICE = "price", _("Price, low to high")
    PRICE_DOWN = "-price", _("Price, high to low")

    @property
    def keys(self) -> Keys:
        """The columns to sort by."""
        match self:
            case Sort.NEWEST:
                return Keys([Product.id], down=True)
            case Sort.PRICE:
                return Keys([Product.price, Product.id])
            case Sort.PRICE_DOWN:
                return Keys([Product.price, Product.id], down=True)
            case _:
                return Keys([Product.position, Product.id])


def searchable(*texts: LocalizedText) -> str:
    """The value of `Product.search`: a product's texts in all languages, folded."""
    return fold(" ".join(part for text in texts for part in text.values()))


def picture(path: str) -> str:
    """Return the path of a picture in `static/`.

    Raises:
        ValueError: there is no such file, or it isn't a picture.
    """
    file = safe_join(str(current_app.static_folder), path)
    if len(path) > 200 or file is None or not Path(file).is_file():
        raise ValueError(f"there is no file {path} in static/")
    if not (mimetypes.guess_type(path)[0] or "").startswith("image/"):
        raise ValueError(f"{path} is not a picture")
    return path


def products(
    query: str = "", category: Category | None = None, sort: Sort = Sort.FEATURED, after: str = ""
) -> Page[Product]:
    """A page of the catalogue.

    Args:
        query: words that must all occur, in any language.
        category: limits the page to its products.
        sort: the sort order.
        after: `next_after` of the previous page; anything else starts at the beginning.
    """
    wanted = select(Product).where(Product.active).options(joinedload(Product.category))
    if category is not None:
        wanted = wanted.where(Product.category_id == category.id)
    for word in fold(query).split()[:8]:
        wanted = wanted.where(Product.search.contains(word, autoescape=True))
    return paging.page(wanted, sort.keys, after, PAGE)


def product(slug: str) -> Product | None:
    """A product that is on sale, or None."""
    return db.session.scalar(select(Product).filter_by(slug=slug, active=True).options(joinedload(Product.category)))


def categories() -> list[Category]:
    """All categories, sorted by position."""
    return list(db.session.scalars(select(Category).order_by(Category.position, Category.id)))
