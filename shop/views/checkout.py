"""Checkout: from a basket to an order awaiting payment.

The first of the five files of the payment flow. `orders.place` commits the order (place transaction, T1);
`payments.request_invoice` requests an invoice from the gateway (PUT) and stores it (invoice transaction, T2); the
browser is redirected to the order's page (`views/order.py`), which shows the invoice's link and QR code.
"""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_babel import get_locale
from flask_babel import gettext as _
from sqlalchemy import select

from models import Basket, DeliveryMethod, Order, localized
from shop import baskets, gateway, orders, payments, refusals
from shop.db import db
from shop.views import browser
from shop.views.forms import CheckoutForm, countries
from shop.views.guards import never_cached

bp = Blueprint("checkout", __name__)
bp.after_request(never_cached)


@bp.before_request
def refuse_while_closed() -> ResponseReturnValue | None:
    """Take no orders while the gateway rejects our API key; the basket is kept.

    See `gateway.checkout_is_closed`.
    """
    return (render_template("checkout/closed.html"), 503) if gateway.checkout_is_closed() else None


@bp.get("/checkout")
def form() -> ResponseReturnValue:
    """Show the form for contact, address and delivery."""
    return _page(CheckoutForm())


@bp.post("/checkout")
def submit() -> ResponseReturnValue:
    """Place the order, request its invoice and redirect to the order's page.

    A repeated submit (double click, second tab, back button) leads to the same order, with the details sent first: see
    `orders.place`. Corrected details are not stored, and the customer is told.
    """
    sent = CheckoutForm()
    try:
        quote = orders.read_quote(sent.checkout_key.data or "")
        sent.country.choices, sent.delivery.choices = countries(), [(slug, slug) for slug in quote.totals]
        if not sent.validate_on_submit():
            return _page(sent, status=422)
        order = orders.place(quote, sent.contact(), sent.delivery.data, str(get_locale()), browser.buyer())
    except refusals.Refusal as refused:
        return _page(sent, refused, status=422)
    if order.total != quote.totals[sent.delivery.data] or _differs(order, sent.contact()):
        flash(
            _("This order was already placed, as shown here. Before paying, you can cancel it and check out again."),
            "error",
        )
    browser.keep_order(order)
    payments.request_invoice(order.id)
    return redirect(url_for("order.show", token=order.token), 303)


def _differs(order: Order, contact: dict[str, str]) -> bool:
    return any(getattr(order, name) != value for name, value in contact.items())


def _page(sent: CheckoutForm, refused: refusals.Refusal | None = None, status: int = 200) -> ResponseReturnValue:
    """Render the form for the current basket, with the typed values and their errors."""
    basket = baskets.find(browser.basket_token())
    if basket is None or not basket.items or not (sent.is_submitted() or basket.is_in_stock):
        if refused:
            flash(str(refused.message), "error")
        return redirect(url_for("basket.show"), 303)
    options = _delivery_methods(basket)
    totals = {option.slug: basket.goods + charge for option, charge in options}
    sent.country.choices = [("", _("Choose a country")), *countries()]
    sent.delivery.choices = [(option.slug, localized(option.name)) for option, _ in options]
    if sent.delivery.data not in totals:
        sent.delivery.data = next(iter(totals), None)
    page = render_template(
        "checkout/form.html",
        form=sent,
        basket=basket,
        options=options,
        total_for=totals,
        checkout_key=orders.Quote(basket.token, basket.version, totals).sign(),
        refused=refused,
    )
    return page, status


def _delivery_methods(basket: Basket) -> list[tuple[DeliveryMethod, int]]:
    """The active delivery methods, each with its charge in minor units."""
    active = select(DeliveryMethod).filter_by(active=True).order_by(DeliveryMethod.position, DeliveryMethod.id)
    return [(option, option.charge(basket.goods)) for option in db.session.scalars(active)]
