"""The basket page, and adding, changing and removing items."""

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _

from shop import baskets, catalogue
from shop.views import browser
from shop.views.catalogue import product_page
from shop.views.guards import never_cached, same_origin_only

bp = Blueprint("basket", __name__)
bp.after_request(never_cached)


@bp.get("/basket")
def show() -> str:
    """Show the basket. `?added=` comes from a browser that had sent no cookie before: it may keep none."""
    return basket_page({}, cookies_off="added" in request.args and not browser.sends_cookies())


@bp.post("/basket/items")
@same_origin_only
def add() -> ResponseReturnValue:
    """Add a product.

    The form is on pages shared by all visitors, so it has no CSRF token: see `same_origin_only`.
    """
    slug, quantity = request.form.get("product", ""), request.form.get("quantity", "1")
    product = catalogue.product(slug)
    if product is None:
        abort(404)
    try:
        token = baskets.add(browser.basket_token(), product, baskets.parse_quantity(quantity), browser.buyer())
    except baskets.TooManyBaskets:
        abort(429, _("There were too many new baskets from your internet connection. Please try again in an hour."))
    except baskets.WrongQuantity as refused:
        return product_page(slug, error=str(refused.message), quantity=quantity), 422
    browser.keep_basket(token)
    flash(_("Added to your basket."), "success")
    return redirect(url_for("basket.show", added=None if browser.sends_cookies() else 1), 303)


@bp.post("/basket/items/<int(max=2147483647):item_id>")
def change(item_id: int) -> ResponseReturnValue:
    """Change an item's quantity; 0 removes it."""
    quantity = request.form.get("quantity", "")
    try:
        known = baskets.change(browser.basket_token(), item_id, baskets.parse_quantity(quantity))
    except baskets.WrongQuantity as refused:
        return basket_page({item_id: (str(refused.message), quantity)}), 422
    if not known:
        flash(_("This item is no longer in your basket."), "error")
    return redirect(url_for("basket.show"), 303)


def basket_page(errors: dict[int, tuple[str, str]], *, cookies_off: bool = False) -> str:
    """Render the basket, with the error and the text of each rejected quantity."""
    basket = baskets.find(browser.basket_token())
    return render_template("basket/show.html", basket=basket, errors=errors, cookies_off=cookies_off)
