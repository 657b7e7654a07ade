"""`POST /trouble`: starting fault cases, from programs and from the account."""

from flask import Blueprint, abort, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue

from sandbox import web
from sandbox.records import Invoice
from sandbox.trouble.callbacks import Step
from sandbox.trouble.cases import CASES

blueprint = Blueprint("trouble", __name__)
blueprint.before_request(web.refuse_other_machines)


@blueprint.post("/trouble")
def start() -> ResponseReturnValue:
    """Start `case` for `invoice`: an id, `last` for the newest, or `next`.

    `next` is the shop's next request for an invoice. Forms are redirected to the account; programs get JSON: what a
    shop must do, and its answers. Error statuses: 403 for another site, 404 for an unknown invoice, 409 while callbacks
    are off, 422 for an unknown or unsuitable case.
    """
    if not web.is_from_own_page():
        abort(403, "This form was sent from another site, so nothing was done.")
    said = request.form if request.form else request.get_json(silent=True)
    asked = said if isinstance(said, dict) else {}
    case, wanted = CASES.get(str(asked.get("case"))), str(asked.get("invoice", "last"))
    if case is None:
        abort(422, f"Unknown case. Choose one of: {', '.join(CASES)}.")
    if (case.at == "put") != (wanted == "next"):
        hint = 'the next request: give "next"' if case.at == "put" else 'an invoice: give its id or "last"'
        abort(422, f'The case {case.name} is for {hint} as "invoice".')
    steps: list[Step] = []
    invoice = None if case.at == "put" else _invoice(wanted)
    if invoice is None:
        web.store().plan_trouble(case.name)
    elif case.name != "good" and not web.store().project().sends_callbacks:
        abort(409, "Callbacks are off in the project's settings.")
    else:
        steps = case.act(invoice)
    if request.form:
        return redirect(url_for("account.overview", _anchor=f"invoice-{wanted}"), 303)
    sent = [step.as_json() for step in steps]
    return jsonify(
        case=case.name,
        invoice=invoice and invoice.id,
        title=case.title,
        must=case.must,
        ok=all(step.ok for step in steps),
        sent=sent,
    )


def _invoice(wanted: str) -> Invoice:
    if wanted == "last":
        newest = web.store().invoices(before=2**63 - 1, limit=1)
        return newest[0] if newest else abort(404, "There are no invoices yet.")
    return web.store().invoice(wanted) or abort(404, "Unknown invoice. The account lists all invoices.")
