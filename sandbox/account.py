"""The merchant's account: settings, clock, invoices and their callbacks."""

import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from math import ceil
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, abort, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from sandbox import web
from sandbox.delivery import MAX_ATTEMPTS, TRYING_SECONDS
from sandbox.records import Attempt, Delivery, Project
from sandbox.texts import TEXTS
from sandbox.trouble import BUTTONS, CASES

INVOICES_A_PAGE = 50
IDS_TO_COPY = 1000
REFUSALS_SHOWN = 5
LARGEST_NUMBER = 2**63 - 1
LONGEST_MOVE = 7 * 24 * 60 * 60
WAIT_SECONDS = 3.0
"""How long a form waits for the worker, so that the next page shows the result."""

blueprint = Blueprint("account", __name__)
blueprint.before_request(web.refuse_other_machines)


@blueprint.before_request
def refuse_other_sites() -> None:
    """Abort with 403 if another site sent the form through the merchant's browser."""
    if request.method == "POST" and not web.is_from_own_page():
        abort(403, "This form was sent from another site, so nothing was done. Use the button in the account.")


@blueprint.get("/")
def overview() -> ResponseReturnValue:
    """Show the account.

    `?before=7` shows the invoices with numbers below 7, `?show=paid` only paid invoices.
    """
    return _page(web.store().project())


@blueprint.post("/settings")
def keep_settings() -> ResponseReturnValue:
    """Save the project's settings.

    If one is invalid, none is saved, and the page shows the input with error messages (422).
    """
    typed: dict[str, Any] = {name: request.form.get(name, "").strip() for name in ("api_key", "callback_url")}
    typed |= {name: name in request.form for name in ("callbacks_on", "failure_mails_on")}
    errors = {}
    if not re.fullmatch("[!-~]+", typed["api_key"]):
        errors["api_key"] = "Enter ASCII characters without spaces."
    if typed["callback_url"] and not _is_address(typed["callback_url"]):
        errors["callback_url"] = "Enter an address that starts with http:// or https://, or leave this empty."
    if errors:
        return _page(typed, errors), 422
    web.store().keep_settings(**typed)
    return redirect(url_for(".overview", _anchor="project"), 303)


@blueprint.post("/clock")
def move_clock() -> ResponseReturnValue:
    """Advance the clock by the form's `seconds`, divided by the speed.

    Waits up to 3 seconds for the clock.
    """
    seconds = request.form.get("seconds", 0, type=int)
    if not 0 < seconds <= LONGEST_MOVE:
        abort(422, f"Advance the clock by 1 to {LONGEST_MOVE} seconds at a time.")
    store = web.store()
    store.move_clock(seconds / current_app.config["SENDING"].speed)
    _wait_until(lambda: not store.clock_is_moving)
    return redirect(url_for(".overview", _anchor="clock"), 303)


@blueprint.post(f"/deliveries/<int(max={LARGEST_NUMBER}):delivery_id>/attempt")
def send_now(delivery_id: int) -> ResponseReturnValue:
    """Send a callback now, even one given up, and wait up to 3 seconds for the answer."""
    store = web.store()
    delivery = store.delivery(delivery_id) or abort(404)
    if store.project().sends_callbacks and store.attempt_now(delivery_id):
        _wait_until(lambda: (store.delivery(delivery_id) or delivery).attempts_made > delivery.attempts_made)
    return redirect(url_for(".overview", **_place(), _anchor=f"invoice-{delivery.invoice_id}"), 303)


def _page(form: Project | dict[str, Any], errors: dict[str, str] | None = None) -> str:
    """Return the account page, with `form` as settings and `errors` by field."""
    store, place = web.store(), _place()
    only_paid = "show" in place
    invoices = store.invoices(before=place.get("before", LARGEST_NUMBER), limit=INVOICES_A_PAGE, only_paid=only_paid)
    deliveries: defaultdict[str, list[Delivery]] = defaultdict(list)
    for delivery in store.deliveries_of([invoice.id for invoice in invoices]):
        deliveries[delivery.invoice_id].append(delivery)
    attempts: defaultdict[int, list[Attempt]] = defaultdict(list)
    for attempt in store.attempts_of([delivery.id for some in deliveries.values() for delivery in some]):
        attempts[attempt.delivery_id].append(attempt)
    all_paid = store.invoices(before=LARGEST_NUMBER, limit=IDS_TO_COPY, only_paid=True) if only_paid else []
    return render_template(
        "account.html",
        lang="en",
        t=TEXTS["en"],
        project=store.project(),
        form=form,
        errors=errors or {},
        invoices=invoices,
        paid_ids=[invoice.id for invoice in all_paid],
        ids_to_copy=IDS_TO_COPY,
        deliveries=deliveries,
        attempts=attempts,
        refused=store.requests(only_failed=True, limit=REFUSALS_SHOWN),
        planned=store.planned_troubles(),
        cases=CASES,
        buttons=BUTTONS,
        place=place,
        older=invoices[-1].number if len(invoices) == INVOICES_A_PAGE else None,
        most_attempts=MAX_ATTEMPTS,
        trying_seconds=TRYING_SECONDS / current_app.config["SENDING"].speed,
        clock_is_moving=store.clock_is_moving,
        now=store.now(),
    )


def _place() -> dict[str, Any]:
    """Return the account's query arguments; invalid ones are ignored."""
    place: dict[str, Any] = {"show": "paid"} if request.args.get("show") == "paid" else {}
    before = request.args.get("before", LARGEST_NUMBER, type=int)
    return place | ({"before": max(before, 0)} if before < LARGEST_NUMBER else {})


def _is_address(text: str) -> bool:
    with suppress(ValueError):  # from `urlsplit`, for malformed hosts and ports
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        return usable and all(char > " " for char in text)
    return False


def _wait_until(happened: Callable[[], bool]) -> None:
    deadline = monotonic() + WAIT_SECONDS
    while not happened() and monotonic() < deadline:
        sleep(0.02)


@blueprint.app_template_filter("utc")
def utc(time: datetime) -> str:
    """Format a time in UTC, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@blueprint.app_template_filter("wait")
def wait(seconds: float) -> str:
    """Format seconds in the largest unit that fits: "12 min"."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(ceil(seconds), 0)} s"
