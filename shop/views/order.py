"""The order page, from payment to delivery, and the customer's actions on it."""

import base64
from typing import Any
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    abort,
    flash,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import joinedload, selectinload
from werkzeug.wrappers import Response

from models import Order, OrderLine
from shop import baskets, limits, orders, outbox, payments, refusals
from shop.db import db
from shop.states import CUSTOMER, OrderState
from shop.views import browser
from shop.views.guards import never_cached

bp = Blueprint("order", __name__, url_prefix=Order.PATH)
bp.after_request(never_cached)


@bp.get("")
def show(token: str) -> ResponseReturnValue:
    """Show the order: its payment page and its status page in one.

    `?returned=success` marks a browser that comes back from the payment page. It proves no payment; the first one
    extends the reservation: see `orders.record_return`. `?returned=cancel` changes nothing.

    `?key=` opens all of the order to this browser from now on, and leaves the address at once: there it would stay in
    histories and in the logs of proxies. A browser without cookies keeps it.
    """
    order = order_or_404(token)
    returned = request.args.get("returned")
    if returned == "success" and order.state.may_have_unseen_payment and not order.buyer_returned:
        orders.record_return(order.id)
        order = order_or_404(token)
    key = request.args.get("key", "")
    full = browser.may_see_all(order, key)
    if key and full:
        browser.keep_order(order)
        if browser.sends_cookies():
            return _without_key(order)
    return render_template(
        "order/show.html",
        order=order,
        status_view=status_view(order, came_back_unpaid=returned == "cancel"),
        full=full,
        key=key if full else "",
        may_resume=limits.may_resume(order) and order.is_in_stock,
        just_paid=browser.sees_paid_first(order),
        link_mailed=outbox.has_mailed_link(order.id),
        qr_uri=_data_uri(order),
        payment_host=urlsplit(order.invoice.url).netloc if order.invoice else "",
        status_url=url_for("order.status", token=token, returned=returned),
    )


@bp.get("/status")
def status(token: str) -> ResponseReturnValue:
    """The order's state and its page's view as JSON, for the page's script: one query, never cached."""
    order = db.session.scalar(select(Order).filter_by(token=token))
    if order is None:
        return jsonify(error="no such order"), 404
    view, state = status_view(order, came_back_unpaid=request.args.get("returned") == "cancel"), order.state
    return jsonify(state=state.value, label=str(state.label), final=state.is_final, view=view)


@bp.get("/qr.png")
def qr(token: str) -> ResponseReturnValue:
    """The QR code of the payment page, while the order can be paid."""
    order = order_or_404(token)
    if not order.is_payable or order.invoice is None:
        abort(404)
    response = make_response(order.invoice.qr)
    response.content_type = "image/png"
    return response


@bp.get("/receipt")
def receipt(token: str) -> ResponseReturnValue:
    """The printable receipt of a paid order, for its customer only."""
    order, key = _own_order(token)
    if not order.has_receipt:
        abort(404)
    return render_template("order/receipt.html", order=order, key=key)


@bp.post("/invoice")
def request_invoice(token: str) -> ResponseReturnValue:
    """Request the invoice again."""
    order, key = _own_order(token)
    payments.request_invoice(order.id)
    return _back(order, key)


@bp.post("/cancellation")
def cancel(token: str) -> ResponseReturnValue:
    """Cancel the order, release its goods and restore its basket."""
    order, key = _own_order(token)
    if orders.cancel(order.id, CUSTOMER):
        _bring_basket_back(order)
    else:
        flash(_("This order can no longer be cancelled."), "error")
    return _back(order, key)


@bp.post("/reservation")
def resume(token: str) -> ResponseReturnValue:
    """Reserve the goods of an expired order again."""
    order, key = _own_order(token)
    try:
        orders.resume(order.id, browser.buyer())
    except refusals.Refusal as refused:
        flash(str(refused.message), "error")
        return _back(order, key)
    if order.invoice is None:
        payments.request_invoice(order.id)
    return _back(order, key)


@bp.post("/basket")
def order_again(token: str) -> ResponseReturnValue:
    """Put the order's products into the basket again."""
    order, _key = _own_order(token)
    browser.keep_basket(baskets.add_order(browser.basket_token(), order))
    return redirect(url_for("basket.show", added=None if browser.sends_cookies() else 1), 303)


def order_or_404(token: str) -> Order:
    """The order with this token and everything its page shows. After a restore, a customer may ask for a lost one."""
    together = (
        selectinload(Order.lines).joinedload(OrderLine.product),
        joinedload(Order.invoice),
        joinedload(Order.delivery),
    )
    order = db.session.scalar(select(Order).filter_by(token=token).options(*together))
    if order is None:
        abort(404, _("We can't find this order. If you have paid for it, please don't pay again, and contact us."))
    return order


def _own_order(token: str) -> tuple[Order, str]:
    """The order and the key to pass on (empty if the cookie suffices); 403 for others."""
    order = order_or_404(token)
    key = request.args.get("key", "")
    if not browser.may_see_all(order, key):
        abort(403, _("Please open the link in our e-mail to manage this order."))
    return order, key


def status_view(order: Order, *, came_back_unpaid: bool) -> str:
    """The name of the order's template in `templates/order/states/`.

    Once any browser has returned by successUrl, the page doesn't ask for payment again, to avoid a double payment.
    """
    if order.is_in_doubt:
        return "in_doubt"
    if order.state is OrderState.PLACED:
        return "preparing" if order.is_asking else "unreachable"
    if order.state is OrderState.AWAITING_PAYMENT:
        return "confirming" if order.buyer_returned and not came_back_unpaid else "waiting"
    return order.state.value


def _bring_basket_back(order: Order) -> None:
    """Give the browser the cancelled order's basket, merged with one begun since."""
    begun = baskets.find(browser.basket_token())
    if begun is not None and begun.items and begun.id != order.basket_id:
        browser.keep_basket(baskets.add_order(begun.token, order))
    elif order.basket is not None:
        browser.keep_basket(order.basket.token)


def _without_key(order: Order) -> Response:
    rest: dict[str, Any] = {name: value for name, value in request.args.items() if name != "key"}
    return redirect(url_for("order.show", token=order.token, **rest), 303)


def _data_uri(order: Order) -> str | None:
    if not order.is_payable or order.invoice is None:
        return None
    return "data:image/png;base64," + base64.b64encode(order.invoice.qr).decode()


def _back(order: Order, key: str) -> Response:
    query: dict[str, Any] = {"key": key} if key else {}
    return redirect(url_for("order.show", token=order.token, **query), 303)
