"""The sample shop, "Qahwa & Co.": its categories, products and ways of delivery, from a file that forks change."""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models import Category, DeliveryMethod, Product, StockMovement
from shop.catalogue import picture, searchable
from shop.db import write
from shop.states import StockReason

LARGEST = 2**31  # what a column holds
DATA = Path(__file__).with_name("sample_shop.json")


class BadSample(Exception):
    """The file can't be used. The text says why, in English. Nothing was written."""


def fill(file: Path | None = None) -> tuple[int, int]:
    """Add what is missing, and update the rest by slug, except stock: what was sold stays sold.

    Args:
        file: JSON as in `DATA`, which is the default.

    Returns:
        The numbers of products added and updated.

    Raises:
        BadSample: it is no such file, or it names a picture that isn't in `static/`.
    """
    file = file or DATA
    try:
        return _fill(json.loads(file.read_text(encoding="utf-8-sig")))
    except KeyError as error:
        raise BadSample(f"{file.name}: an entry has no {error}") from None
    except TypeError:
        raise BadSample(f"{file.name}: it isn't written like {DATA.name}") from None
    except ValueError as error:
        raise BadSample(f"{file.name}: {error}") from None
    except IntegrityError as error:
        raise BadSample(f"{file.name}: {str(error.orig).splitlines()[0]}") from None


def _fill(data: dict[str, list[dict[str, Any]]]) -> tuple[int, int]:
    categories = {one["slug"] for one in data["categories"]}
    wrong = [error for one in data["products"] if (error := _error(one, categories))]
    if wrong:
        raise ValueError("; ".join(wrong))
    with write() as session:
        rows = _put(session, Category, data["categories"])
        _put(session, DeliveryMethod, data["delivery"])
        stock = {one["slug"]: one["stock"] for one in data["products"]}
        products = [
            {name: value for name, value in one.items() if name != "stock"} | {"category": rows[one["category"]]}
            for one in data["products"]
        ]
        known = set(session.scalars(select(Product.slug)))
        for slug, product in _put(session, Product, products).items():
            product.search = searchable(product.name, product.subtitle, product.description, product.category.name)
            if slug not in known and stock[slug]:
                product.stock = stock[slug]
                intake = StockMovement(product_id=product.id, quantity=product.stock, reason=StockReason.INTAKE)
                session.add(intake)
        return len(stock.keys() - known), len(stock.keys() & known)


def _put(session: Session, model: Any, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Add or update the rows of a table, in the order of the file. Return them by slug."""
    known = {one.slug: one for one in session.scalars(select(model))}
    found = {}
    for position, values in enumerate(entries):
        if unknown := [name for name in values if not hasattr(model, name)]:
            raise ValueError(f"{values['slug']}: a {model.__name__} has no {', '.join(unknown)}")
        if wrong := _wrong_values(model, values):
            raise ValueError(f"{values['slug']}: {', '.join(wrong)} can't be used; see {DATA.name}")
        row = found[values["slug"]] = known.get(values["slug"]) or model(**values)
        for name, value in (values | {"position": position}).items():
            setattr(row, name, value)
        session.add(row)
    session.flush()
    return found


def _wrong_values(model: Any, values: dict[str, Any]) -> list[str]:
    """The names of what is missing, or of another type than its column."""
    needed = {"name", "price"} & set(model.__table__.columns.keys())
    wrong = sorted(needed - values.keys())
    for name, value in values.items():
        column = model.__table__.columns.get(name)
        if column is None or (value is None and column.nullable):
            continue
        fits = type(value) is column.type.python_type and (type(value) is not int or 0 <= value < LARGEST)
        if type(value) is dict:
            fits = bool(value or name != "name") and all(type(text) is str for text in value.values())
        wrong += [] if fits else [name]
    return wrong


def _error(product: dict[str, Any], categories: set[str]) -> str:
    try:
        picture(product["image"])
    except ValueError as error:
        return f"{product['slug']}: {error}"
    if _wrong_values(Product, {"name": product["name"], "price": product["price"], "stock": product["stock"]}):
        return f"{product['slug']}: name, price or stock can't be used; see {DATA.name}"
    there = product["category"] in categories
    return "" if there else f"{product['slug']}: there is no category {product['category']}"
