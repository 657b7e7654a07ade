"""The list of orders, and an order with its timeline."""

from itertools import chain
from typing import Any

from flask import Blueprint, Response, abort, flash, g, redirect, render_template, request, stream_with_context, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _
from flask_babel import ngettext
from sqlalchemy import select
from sqlalchemy.orm import joinedload, selectinload

from models import Order, OrderLine, OrderNote, Payment
from shop import orders, refunds, shipping, spreadsheets, timeline
from shop.db import db, write
from shop.money import to_minor
from shop.order_lists import MOST_COUNTED, OrderList, Stage
from shop.refusals import Refusal
from shop.states import TRANSITIONS, Actor, By, OrderState
from shop.views.dashboard.forms import DeliveryForm, NoteForm, RefundForm
from shop.views.dashboard.people import is_really_you

bp = Blueprint("orders", __name__, url_prefix="/orders")
FIRST = 10  # of what waits for staff, above the list of all orders
FEW = 100  # packing slips at once


@bp.get("")
def index() -> str:
    """List orders. Without a filter, what waits for staff comes first."""
    wanted, after = OrderList.from_args(request.args), request.args.get("after", "")
    waiting: list[tuple[Stage, list[Order]]] = []
    if not (wanted.args or after):
        lists = [(stage, OrderList(stage=stage).page(size=FIRST).rows) for stage in (Stage.REVIEW, Stage.TO_HAND_OVER)]
        waiting = [(stage, rows) for stage, rows in lists if rows]
    counted = [(stage, OrderList(stage=stage).count()) for stage in (Stage.REVIEW, Stage.TO_HAND_OVER, Stage.UNPAID)]
    return render_template(
        "dashboard/orders.html",
        wanted=wanted,
        page=wanted.page(after),
        waiting=waiting,
        counted=dict(counted),
        stages=list(Stage),
        most=MOST_COUNTED,
    )


@bp.get("/export.csv")
def export() -> ResponseReturnValue:
    """The orders of the same filters, for a spreadsheet."""
    lines = spreadsheets.export_orders(OrderList.from_args(request.args).select())
    text = stream_with_context(line.encode() for line in chain([spreadsheets.BOM], lines))
    response = Response(text, content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = "attachment; filename=orders.csv"
    return response


@bp.post("/next-step")
def advance_several() -> ResponseReturnValue:
    """Bring the chosen orders to their next step."""
    done = 0
    for number in request.form.getlist("order"):
        order = db.session.scalar(select(Order).filter_by(id=Order.id_of(number)).options(joinedload(Order.delivery)))
        if order is not None and order.steps_left:
            try:
                shipping.advance(order.id, order.steps_left[0], g.signed_in.staff_id)
                done += 1
            except Refusal as refused:
                flash(f"{order.number}: {refused.message}", "error")
    flash(ngettext("%(num)s order went on.", "%(num)s orders went on.", done), "success")
    return redirect(url_for(".index", stage=request.form.get("stage", "")), 303)


@bp.get("/slips")
def slips() -> str:
    """Packing slips of the chosen orders, to be printed."""
    ids = [Order.id_of(number) for number in request.args.getlist("order")[:FEW]]
    wanted = select(Order).where(Order.id.in_(ids)).options(selectinload(Order.lines), joinedload(Order.delivery))
    return render_template("dashboard/slips.html", orders=db.session.scalars(wanted.order_by(Order.id)).all())


@bp.get("/<number>")
def show(number: str) -> ResponseReturnValue:
    """Show an order and its timeline."""
    return _page(order_or_404(number), NoteForm())


@bp.post("/<number>/notes")
def add_note(number: str) -> ResponseReturnValue:
    """Add a note, which customers don't see."""
    order, sent = order_or_404(number), NoteForm()
    if not sent.validate_on_submit():
        return _page(order, sent), 422
    with write() as session:
        session.add(OrderNote(order_id=order.id, staff_id=g.signed_in.staff_id, text=sent.text.data))
    return redirect(url_for(".show", number=order.number, _anchor="timeline"), 303)


@bp.post("/<number>/delivery")
def advance(number: str) -> ResponseReturnValue:
    """Bring the delivery forward. The customer gets an e-mail."""
    order, sent = order_or_404(number), DeliveryForm()
    to = next((step for step in order.delivery_steps if step == request.form.get("to")), None) or abort(400)
    if not sent.validate_on_submit():
        return _page(order, NoteForm(formdata=None), delivery=sent), 422
    try:
        shipping.advance(order.id, to, g.signed_in.staff_id, sent.carrier.data or "", sent.tracking.data or "")
    except Refusal as refused:
        sent.tracking.errors = [refused.message]
        return _page(order, NoteForm(formdata=None), delivery=sent), 422
    return redirect(url_for(".show", number=order.number), 303)


@bp.post("/<number>/payments/<int(max=2147483647):payment_id>/refunds")
def refund(number: str, payment_id: int) -> ResponseReturnValue:
    """Record that money of a payment was sent back. The gateway has no call for it, so nothing moves by this."""
    order, sent = order_or_404(number), RefundForm()
    if payment_id not in [payment.id for payment in order.payments]:
        abort(404)
    if not sent.validate_on_submit() or not is_really_you(sent):
        return _page(order, NoteForm(formdata=None), (payment_id, sent)), 422
    try:
        amount = to_minor(sent.amount.data or "", order.currency)
        refunds.record(payment_id, amount, sent.reference.data or "", sent.note.data or "", g.signed_in.staff_id)
    except (ValueError, Refusal) as error:
        wrong = error.message if isinstance(error, Refusal) else _("Enter an amount such as 12.50.")
        sent.amount.errors = [wrong]
        return _page(order, NoteForm(formdata=None), (payment_id, sent)), 422
    flash(_("The refund is recorded."), "success")
    return redirect(url_for(".show", number=order.number, _anchor="payments"), 303)


@bp.post("/<number>/cancellation")
def cancel(number: str) -> ResponseReturnValue:
    """Cancel an unpaid order. Its goods return to the stock, and what the customer had chosen to the basket."""
    order = order_or_404(number)
    if not orders.cancel(order.id, by_staff()):
        flash(_("This order can no longer be cancelled."), "error")
    return redirect(url_for(".show", number=order.number), 303)


def by_staff() -> By:
    """The actor of what is done in this session."""
    return By(Actor.STAFF, g.signed_in.staff_id)


def order_or_404(number: str) -> Order:
    """The order with this number, and everything that its page shows."""
    together: list[Any] = [
        selectinload(Order.lines).joinedload(OrderLine.product),
        joinedload(Order.invoice),
        joinedload(Order.delivery),
        selectinload(Order.payments).selectinload(Payment.refunds),
        selectinload(Order.events),
    ]
    found = db.session.scalar(select(Order).filter_by(id=Order.id_of(number)).options(*together))
    return found or abort(404)


def _page(
    order: Order,
    note: NoteForm,
    refunding: tuple[int, RefundForm] | None = None,
    delivery: DeliveryForm | None = None,
) -> str:
    allowed = {to for to, actors in TRANSITIONS[order.state].items() if Actor.STAFF in actors}
    return render_template(
        "dashboard/order.html",
        order=order,
        acts=timeline.of(order),
        note=note,
        refunding=refunding,
        delivery_form=delivery or DeliveryForm(formdata=None),
        refund_form=RefundForm(formdata=None),
        may_cancel=OrderState.CANCELLED in allowed and order.is_cancellable,
    )
