"""The first page of the dashboard: what is to do, what came in, and whether all is well."""

from flask import Blueprint, render_template
from sqlalchemy import select

from models import CallbackAttempt, GatewayCall
from shop import reports
from shop.db import db
from shop.order_lists import MOST_COUNTED, OrderList, Stage
from shop.states import CallbackOutcome
from shop.views.dashboard import attention

bp = Blueprint("today", __name__)
DAYS = (1, 7, 30)


@bp.get("/")
def show() -> str:
    """Show what is to do first. Each figure links to exactly the rows that it counts."""
    last_callback = select(CallbackAttempt.received_at).filter_by(outcome=CallbackOutcome.ACCEPTED)
    last_call = select(GatewayCall).where(GatewayCall.outcome != "reopened").order_by(GatewayCall.id.desc()).limit(1)
    return render_template(
        "dashboard/today.html",
        open_kinds=attention.count_open(),
        stages=[(stage, OrderList(stage=stage).count()) for stage in (Stage.REVIEW, Stage.TO_HAND_OVER, Stage.UNPAID)],
        most=MOST_COUNTED,
        takings=[(days, reports.takings(days)) for days in DAYS],
        running_out=reports.running_out(10),
        last_callback=db.session.scalar(last_callback.order_by(CallbackAttempt.id.desc()).limit(1)),
        last_call=db.session.scalar(last_call),
    )
