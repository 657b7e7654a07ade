"""The customer's side: the payment page, in English and Arabic, without JavaScript."""

from decimal import Decimal

from flask import Blueprint, abort, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from sandbox import web
from sandbox.api import payment_url, qr_code
from sandbox.records import Invoice
from sandbox.texts import TEXTS

blueprint = Blueprint("pages", __name__, url_prefix=f"/<any({', '.join(TEXTS)}):lang>/invoice/<hex:invoice_id>")


@blueprint.get("")
def invoice(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Show what is to be paid, or that it is paid."""
    invoice = _invoice_or_404(invoice_id)
    if invoice.paid_at:
        return _page("returned.html", lang, invoice, outcome="paid", onward="")
    return _page("invoice.html", lang, invoice, qr=qr_code(payment_url(invoice.id, lang)))


@blueprint.post("/payment")
def pay(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Pay. Of two tabs the first counts; the second is shown the same page."""
    _refuse_other_sites(lang)
    web.store().pay(_invoice_or_404(invoice_id).id)
    # Not straight to successUrl: browsers apply form-action to where a form's answer sends them, and would block it.
    return redirect(url_for(".paid", lang=lang, invoice_id=invoice_id), 303)


@blueprint.get("/paid")
def paid(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Show that the invoice is paid, and send the browser on to successUrl."""
    invoice = _invoice_or_404(invoice_id)
    if not invoice.paid_at:  # the address alone proves nothing
        return redirect(url_for(".invoice", lang=lang, invoice_id=invoice_id), 303)
    return _page("returned.html", lang, invoice, outcome="paid", onward=invoice.success_url)


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


def _refuse_other_sites(lang: str) -> None:
    if not web.is_from_own_page():
        abort(403, TEXTS[lang]["other_site"])


def _page(template: str, lang: str, invoice: Invoice, **values: object) -> str:
    return render_template(template, lang=lang, t=TEXTS[lang], invoice=invoice, **values)
