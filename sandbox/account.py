"""The merchant's account: the project's settings, its invoices, and what became of each callback."""

from collections import defaultdict
from datetime import UTC, datetime
from math import ceil

from flask import Blueprint, current_app, render_template, request
from flask.typing import ResponseReturnValue

from sandbox import web
from sandbox.delivery import MOST_ATTEMPTS, TRYING_SECONDS
from sandbox.records import Attempt, Delivery
from sandbox.texts import TEXTS

INVOICES_A_PAGE = 50
LARGEST_NUMBER = 2**63 - 1

blueprint = Blueprint("account", __name__)
blueprint.before_request(web.refuse_other_machines)


@blueprint.get("/")
def overview() -> ResponseReturnValue:
    """Show the account; `?before=` a number shows the invoices older than that one."""
    store = web.store()
    before = request.args.get("before", LARGEST_NUMBER, type=int)
    invoices = store.invoices(before=min(max(before, 0), LARGEST_NUMBER), limit=INVOICES_A_PAGE)
    deliveries: defaultdict[str, list[Delivery]] = defaultdict(list)
    for delivery in store.deliveries_of([invoice.id for invoice in invoices]):
        deliveries[delivery.invoice_id].append(delivery)
    attempts: defaultdict[int, list[Attempt]] = defaultdict(list)
    for attempt in store.attempts_of([delivery.id for some in deliveries.values() for delivery in some]):
        attempts[attempt.delivery_id].append(attempt)
    return render_template(
        "account.html",
        lang="en",
        t=TEXTS["en"],
        project=store.project(),
        invoices=invoices,
        deliveries=deliveries,
        attempts=attempts,
        older=invoices[-1].number if len(invoices) == INVOICES_A_PAGE else None,
        most_attempts=MOST_ATTEMPTS,
        trying_seconds=TRYING_SECONDS / current_app.config["SPEED"],
        now=datetime.now(UTC),
    )


@blueprint.app_template_filter("utc")
def utc(time: datetime) -> str:
    """Return a time for people, to the second, in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@blueprint.app_template_filter("wait")
def wait(seconds: float) -> str:
    """Return a length of time in its largest fitting unit: "12 min"."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(ceil(seconds), 0)} s"
