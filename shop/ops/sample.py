"""The sample shop, "Qahwa & Co.": three categories, sixteen products, three ways of delivery."""

import json
from pathlib import Path

from sqlalchemy import select

from models import Category, DeliveryMethod, Product, StockMovement
from shop.catalogue import searchable
from shop.db import write
from shop.states import StockReason

DATA = Path(__file__).with_name("sample_shop.json")


def fill() -> int:
    """Add missing categories, delivery methods and products of the sample shop. Return the number of products added."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    with write() as session:
        categories = {one.slug: one for one in session.scalars(select(Category))}
        for position, values in enumerate(data["categories"]):
            if values["slug"] not in categories:
                categories[values["slug"]] = Category(**values, position=position)
                session.add(categories[values["slug"]])
        options = set(session.scalars(select(DeliveryMethod.slug)))
        for position, values in enumerate(data["delivery"]):
            if values["slug"] not in options:
                session.add(DeliveryMethod(**values, position=position))
        known = set(session.scalars(select(Product.slug)))
        added = [product for product in data["products"] if product["slug"] not in known]
        for position, values in enumerate(data["products"]):
            if values["slug"] not in known:
                session.add(_product(values, position, categories[values["category"]]))
        session.flush()
        for product in session.scalars(select(Product).where(Product.slug.in_([one["slug"] for one in added]))):
            if product.stock:
                reason = StockReason.INTAKE
                session.add(StockMovement(product_id=product.id, quantity=product.stock, reason=reason))
        return len(added)


def _product(values: dict[str, object], position: int, category: Category) -> Product:
    own = values | {"category": category, "image": f"img/products/{values['image']}.svg", "position": position}
    product = Product(**own)
    product.search = searchable(product.name, product.subtitle, product.description, category.name)
    return product
