"""What the merchant chooses without the command line."""

import logging

from flask import Blueprint, flash, g, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _
from sqlalchemy import select, update

from models import Shop
from shop import gateway
from shop.config import settings
from shop.db import db, write
from shop.views.dashboard.forms import CloseForm, SettingsForm

log = logging.getLogger(__name__)
bp = Blueprint("settings", __name__, url_prefix="/settings")


@bp.get("")
def show() -> str:
    """Show what is chosen, and whether the checkout is closed."""
    return _page(CloseForm())


@bp.post("")
def change() -> ResponseReturnValue:
    """Store what was chosen."""
    with write() as session:
        session.execute(update(Shop).values(mails_paid_orders=SettingsForm().mails_paid_orders.data))
    flash(_("Saved."), "success")
    return redirect(url_for(".show"), 303)


@bp.post("/closed")
def close() -> ResponseReturnValue:
    """Take no orders for a while. Customers read the sentence; whoever has an order can still pay it."""
    sent = CloseForm()
    if not sent.validate_on_submit():
        return _page(sent), 422
    gateway.close_by_merchant(sent.why.data or "")
    log.info("the checkout was closed, by staff %d", g.signed_in.staff_id)
    flash(_("The checkout is closed."), "success")
    return redirect(url_for(".show"), 303)


@bp.post("/open")
def reopen() -> ResponseReturnValue:
    """Take orders again, whatever had closed the checkout."""
    gateway.close_by_merchant("")
    if gateway.key_is_rejected():
        gateway.reopen_checkout(f"staff:{g.signed_in.staff_id}")
    log.info("the checkout was opened, by staff %d", g.signed_in.staff_id)
    flash(_("The checkout is open."), "success")
    return redirect(url_for(".show"), 303)


def _page(closing: CloseForm) -> str:
    form = SettingsForm(formdata=None, obj=db.session.scalars(select(Shop)).one())
    return render_template(
        "dashboard/settings.html", form=form, closing=closing, merchant_email=settings.merchant_email
    )
