"""The customer's side: the payment page, in English and Arabic, without JavaScript."""

from decimal import Decimal

from flask import Blueprint, abort, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from sandbox import web
from sandbox.api import payment_url, qr_code
from sandbox.records import Invoice
from sandbox.texts import TEXTS

SLOW_SECONDS = 20
"""How long a slow payment takes to be confirmed. Long enough to be back in the shop and look around."""

blueprint = Blueprint("pages", __name__, url_prefix=f"/<any({', '.join(TEXTS)}):lang>/invoice/<hex:invoice_id>")


@blueprint.get("")
def invoice(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Show what is to be paid, or that it is paid."""
    invoice = _invoice_or_404(invoice_id)
    if invoice.paid_at:
        return _page("returned.html", lang, invoice, outcome=_outcome(invoice), onward="")
    return _page("invoice.html", lang, invoice, qr=qr_code(payment_url(invoice.id, lang)))


@blueprint.post("/payment")
@blueprint.post("/slow-payment", endpoint="pay_slowly", defaults={"confirm_after": SLOW_SECONDS})
def pay(lang: str, invoice_id: str, confirm_after: float = 0) -> ResponseReturnValue:
    """Pay. Of two tabs the first counts; the second is shown the same page."""
    _refuse_other_sites(lang)
    web.store().pay(_invoice_or_404(invoice_id).id, confirm_after=confirm_after)
    # Not straight to successUrl: browsers apply form-action to where a form's answer sends them, and would block it.
    return redirect(url_for(".paid", lang=lang, invoice_id=invoice_id), 303)


@blueprint.post("/second-payment")
def pay_again(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Pay once more what is paid: a second paymentSessionId for the shop to notice."""
    _refuse_other_sites(lang)
    web.store().pay_again(_invoice_or_404(invoice_id).id)
    return redirect(url_for(".paid", lang=lang, invoice_id=invoice_id), 303)


@blueprint.get("/paid")
def paid(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Show that the invoice is paid, or soon will be, and send the browser on to successUrl."""
    invoice = _invoice_or_404(invoice_id)
    if not invoice.paid_at:  # the address alone proves nothing
        return redirect(url_for(".invoice", lang=lang, invoice_id=invoice_id), 303)
    return _page("returned.html", lang, invoice, outcome=_outcome(invoice), onward=invoice.success_url)


@blueprint.post("/cancellation")
def cancel(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Leave without paying. Nothing is stored: no cancelled state is documented, so the invoice stays payable."""
    _refuse_other_sites(lang)
    return redirect(url_for(".cancelled", lang=lang, invoice_id=_invoice_or_404(invoice_id).id), 303)


@blueprint.get("/cancelled")
def cancelled(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Show that nothing was paid, and send the browser on to cancelUrl."""
    invoice = _invoice_or_404(invoice_id)
    if invoice.paid_at:  # paid in another tab meanwhile
        return redirect(url_for(".invoice", lang=lang, invoice_id=invoice_id), 303)
    return _page("returned.html", lang, invoice, outcome="cancelled", onward=invoice.cancel_url)


@blueprint.app_template_filter("amount")
def amount(amount: Decimal) -> str:
    """Return an amount for people: exact, in Western digits, without the unit, which the protocol doesn't carry."""
    return f"{amount:,f}"


def _invoice_or_404(invoice_id: str) -> Invoice:
    return web.store().invoice(invoice_id) or abort(404)


def _outcome(invoice: Invoice) -> str:
    """Return how a payment stands: "paid", or "confirming" while its time is to come."""
    return "confirming" if invoice.paid_at and invoice.paid_at > web.store().now() else "paid"


def _refuse_other_sites(lang: str) -> None:
    if not web.is_from_own_page():
        abort(403, TEXTS[lang]["other_site"])


def _page(template: str, lang: str, invoice: Invoice, **values: object) -> str:
    values["tells"] = web.store().project().tells
    return render_template(template, lang=lang, t=TEXTS[lang], invoice=invoice, **values)
