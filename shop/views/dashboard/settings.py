"""What the merchant chooses without the command line."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext as _
from sqlalchemy import select, update

from models import Shop
from shop.config import settings
from shop.db import db, write
from shop.views.dashboard.forms import SettingsForm

bp = Blueprint("settings", __name__, url_prefix="/settings")


@bp.get("")
def show() -> str:
    """Show what is chosen, and what the operator has set."""
    form = SettingsForm(obj=db.session.scalars(select(Shop)).one())
    return render_template("dashboard/settings.html", form=form, merchant_email=settings.merchant_email)


@bp.post("")
def change() -> ResponseReturnValue:
    """Store what was chosen."""
    with write() as session:
        session.execute(update(Shop).values(mails_paid_orders=SettingsForm().mails_paid_orders.data))
    flash(_("Saved."), "success")
    return redirect(url_for(".show"), 303)
