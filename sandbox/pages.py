"""The customer's payment page, in English and Arabic, without JavaScript."""

from decimal import Decimal

from flask import Blueprint, abort, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from sandbox import web
from sandbox.api import payment_url, qr_code
from sandbox.records import Invoice
from sandbox.texts import TEXTS

SLOW_SECONDS = 20
"""Delay of a slow payment's confirmation: enough time to look at the shop's page meanwhile."""

blueprint = Blueprint("pages", __name__, url_prefix=f"/<any({', '.join(TEXTS)}):lang>/invoice/<hex:invoice_id>")


@blueprint.get("")
def invoice(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Show the invoice, or its outcome if it is paid."""
    invoice = _invoice_or_404(invoice_id)
    if invoice.paid_at:
        return _page("returned.html", lang, invoice, outcome=_outcome(invoice), onward="")
    return _page("invoice.html", lang, invoice, qr=qr_code(payment_url(invoice.id, lang)))


@blueprint.post("/payment")
@blueprint.post("/slow-payment", endpoint="pay_slowly", defaults={"confirm_after": SLOW_SECONDS})
def pay(lang: str, invoice_id: str, confirm_after: float = 0) -> ResponseReturnValue:
    """Pay the invoice. Paying again changes nothing and shows the same page."""
    _refuse_other_sites(lang)
    web.store().pay(_invoice_or_404(invoice_id).id, confirm_after=confirm_after)
    # Not straight to successUrl: browsers apply the CSP's form-action to redirects, too.
    return redirect(url_for(".paid", lang=lang, invoice_id=invoice_id), 303)


@blueprint.post("/second-payment")
def pay_again(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Pay a paid invoice again, with a second paymentSessionId."""
    _refuse_other_sites(lang)
    web.store().pay_again(_invoice_or_404(invoice_id).id)
    return redirect(url_for(".paid", lang=lang, invoice_id=invoice_id), 303)


@blueprint.get("/paid")
def paid(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Show that the invoice is paid or being confirmed, and go on to successUrl."""
    invoice = _invoice_or_404(invoice_id)
    if not invoice.paid_at:  # the address alone proves nothing
        return redirect(url_for(".invoice", lang=lang, invoice_id=invoice_id), 303)
    return _page("returned.html", lang, invoice, outcome=_outcome(invoice), onward=invoice.success_url)


@blueprint.post("/cancellation")
def cancel(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Cancel the payment. The invoice stays payable: no cancelled state is documented."""
    _refuse_other_sites(lang)
    return redirect(url_for(".cancelled", lang=lang, invoice_id=_invoice_or_404(invoice_id).id), 303)


@blueprint.get("/cancelled")
def cancelled(lang: str, invoice_id: str) -> ResponseReturnValue:
    """Show that nothing was paid, and go on to cancelUrl."""
    invoice = _invoice_or_404(invoice_id)
    if invoice.paid_at:  # in another tab
        return redirect(url_for(".invoice", lang=lang, invoice_id=invoice_id), 303)
    return _page("returned.html", lang, invoice, outcome="cancelled", onward=invoice.cancel_url)


@blueprint.app_template_filter("amount")
def amount(amount: Decimal) -> str:
    """Format an amount exactly, without currency: the protocol has none."""
    return f"{amount:,f}"


def _invoice_or_404(invoice_id: str) -> Invoice:
    return web.store().invoice(invoice_id) or abort(404)


def _outcome(invoice: Invoice) -> str:
    """Return "paid", or "confirming" while the payment isn't confirmed yet."""
    return "confirming" if invoice.paid_at and invoice.paid_at > web.store().now() else "paid"


def _refuse_other_sites(lang: str) -> None:
    if not web.is_from_own_page():
        abort(403, TEXTS[lang]["other_site"])


def _page(template: str, lang: str, invoice: Invoice, **values: object) -> str:
    values["sends_callbacks"] = web.store().project().sends_callbacks
    return render_template(template, lang=lang, t=TEXTS[lang], invoice=invoice, **values)
