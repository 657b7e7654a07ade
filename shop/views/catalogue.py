"""The catalogue and its product pages."""

from flask import Blueprint, abort, render_template, request

from shop import baskets, catalogue
from shop.text import plain
from shop.views import browser

bp = Blueprint("catalogue", __name__)


@bp.get("/")
def index() -> str:
    """List products, by search or category, sorted and paginated."""
    query = plain(request.args.get("q", ""))[:100]
    slug = request.args.get("category", "")
    after = request.args.get("after", "")
    wanted = request.args.get("sort", "")
    sort = next((one for one in catalogue.Sort if one == wanted), catalogue.Sort.FEATURED)
    categories = catalogue.categories()
    category = next((one for one in categories if one.slug == slug), None)
    if slug and category is None:
        abort(404)
    page = catalogue.products(query, category, sort, after)
    return render_template(
        "catalogue/index.html",
        products=page.rows,
        next_after=page.next_after,
        categories=categories,
        query=query,
        category=category,
        sort=sort.value,
        sorts=[(one.value, one.label) for one in catalogue.Sort],
        after=after,
        is_front=not (query or category or after),
    )


@bp.get("/products/<slug>")
def product(slug: str) -> str:
    """Show a product."""
    return product_page(slug)


def product_page(slug: str, *, error: str = "", quantity: str = "1") -> str:
    """Render a product's page, with the error and the text of a rejected quantity."""
    found = catalogue.product(slug)
    if found is None:
        abort(404)
    basket = baskets.find(browser.basket_token())
    held = next((item.quantity for item in basket.items if item.product_id == found.id), 0) if basket else 0
    return render_template("catalogue/product.html", product=found, in_basket=held, error=error, quantity=quantity)
