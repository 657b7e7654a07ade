"""The cases of a run, and how each is judged: those of `trouble` by `callback` and `reply`, a few of them apart."""

import base64
import json
import re
import shlex
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from decimal import Decimal
from urllib.parse import urlencode, urlsplit

from flask import current_app

from sandbox import web
from sandbox.conformance.run import REFUSALS_IN_A_ROW, UNSEEN, WAIT_SECONDS, Order, Result, Run, Verdict, cut, judge
from sandbox.conformance.shops import ShopError
from sandbox.trouble import CASES, Case, callbacks, replies
from sandbox.trouble.cases import case

MAX_DECIMALS = 8
"""More than any currency has; longer amounts come from binary floating point."""
GUESSES = 200
RACES = 4
SLOW_SENDERS = 50
NO_PAGE = "the command that places orders printed no address of a page"

_Judge = Callable[[Run, Case], Result]
SHOP: dict[str, Case] = {}


@case("shop", rule=1, cases=SHOP)
def request(run: Run, this: Case) -> Result:
    """An order.

    A shop must request the invoice with an exact amount.

    A float such as 0.30000000000000004 is not a price.
    """
    asked, project = run.place().requests[0], web.store().project()
    url = f"{current_app.config['PUBLIC_URL']}/projects/{project.id}"
    again = f"curl -i -X PUT -H 'Authorization: Bearer {project.api_key}' --data-raw {shlex.quote(asked.body)} {url}"
    if asked.status != 200:
        return judge(this, False, f"HTTP {asked.status}: {asked.refusal}", again=again)
    found = re.search(r'"amount"\s*:\s*([-+.\deE]+)', asked.body)
    amount = Decimal(found[1]) if found else Decimal("NaN")
    exact = amount.is_finite() and -int(amount.as_tuple().exponent) <= MAX_DECIMALS
    return judge(this, exact, f"amount {amount}: compare it with the order's total", again=again)


@case("shop", rule=2, cases=SHOP)
def link(run: Run, this: Case) -> Result:
    """The payment link.

    A shop must show the payment link from the gateway.

    Without it the customer can't pay.
    """
    order = run.unpaid()
    shown = _link_is_shown(order)
    said = "the link is on the page" if shown else "the link is not on the page"
    return judge(this, shown, said, again=_look(order))


@case("shop", rule=5, cases=SHOP)
def secret(run: Run, this: Case) -> Result:
    """The secret.

    A shop must not show the secret: on the page, before and after the payment, in headers and cookies, in its log.

    Whoever reads it can confirm the order without paying.
    """
    order = run.place()
    invoice = order.invoice
    if not order.page.url:
        return judge(this, False, NO_PAGE, again=_look(order))
    callbacks.good(invoice)
    run.outcome(order, 1, 1)  # which `good` judges
    paid = run.shop.look(order.page)
    returns = "".join(run.get(url).text for url in (invoice.success_url, invoice.cancel_url) if url)
    headers = order.page.headers + paid.headers
    places = {"on the page": order.page.text, "on the page of the paid order": paid.text, "in headers": headers}
    places |= {"in a cookie, encoded": _decoded(headers), "on a page that the customer returns to": returns}
    shown = [f"the secret is {where}" for where, text in places.items() if invoice.secret in text]
    said = "; ".join(shown) or "neither on the page nor in its headers"
    return judge(this, not shown, said, again=_look(order))


def _decoded(text: str) -> str:
    """Return what is in base64 in a text."""
    words = re.findall(r"[A-Za-z0-9_-]{40,}", text)
    pieces = (base64.urlsafe_b64decode(word[: len(word) // 4 * 4]) for word in words)
    return b"".join(pieces).decode(errors="replace")


def logged(run: Run) -> Result | None:
    """Look for the secrets of all invoices in what the shop has printed; return the failed case, or None."""
    log = run.log.read_text(errors="replace") if run.log.exists() else ""
    invoices = web.store().invoices(before=2**63 - 1, limit=1000)
    found = [one.id for one in invoices if one.secret in log and one.secret not in run.sent]
    seen = f"the shop's log has the secrets of {len(found)} invoices, {found[:1]} for example"
    return judge(SHOP["secret"], False, seen, again=f"grep secret {run.log}") if found else None


@case("shop", rule=6, cases=SHOP)
def success_url(run: Run, this: Case) -> Result:
    """A return without a payment.

    A shop must not mark the order paid when successUrl is opened.

    Anybody can open that address.
    """
    order = run.unpaid()
    url = order.invoice.success_url
    if not url:
        return Result(this.name, Verdict.PASSED, "no successUrl was given")
    run.get(url)
    result = _still_unpaid(run, this, order, "opened", f"curl -i {shlex.quote(url)}")
    if result.verdict is not Verdict.PASSED:
        return result
    steps = callbacks.good(run.spend(order).invoice)
    run.get(url)  # after the payment it changes nothing, either
    after = run.judge_steps(this, order, steps)
    return result if after.verdict is not Verdict.FAILED else replace(after, seen=f"paid after that: {after.seen}")


@case("shop", rule=6, cases=SHOP)
def wrong_method(run: Run, this: Case) -> Result:
    """A GET with everything right.

    A shop must not mark the order paid on GET, and not crash.

    Previews, crawlers and caches send GETs.
    """
    order = run.place()  # its secret stands in an address, which may be logged
    invoice = order.invoice
    url = f"{run.callback_url}{'&' if urlsplit(run.callback_url).query else '?'}"
    url += urlencode({"invoiceId": invoice.id, "paymentSessionId": "1", "secret": invoice.secret})
    run.sent.add(invoice.secret)
    status, again = run.get(url).status_code, f"curl -i {shlex.quote(url)}"
    if status >= 500:
        return judge(this, False, f"answered {status}", again=again)
    return _still_unpaid(run, this, order, f"answered {status}", again)


@case("shop", rule=6, cases=SHOP)
def cancel_url(run: Run, this: Case) -> Result:
    """A payment after all.

    A shop must accept the payment after cancelUrl was opened.

    Opening it proves nothing. Payments are final: nobody can trace a payment that wasn't stored.
    """
    order = run.place()
    invoice = order.invoice
    if not invoice.cancel_url:
        return Result(this.name, Verdict.PASSED, "no cancelUrl was given")
    run.get(invoice.cancel_url)
    steps = callbacks.good(invoice)
    run.get(invoice.cancel_url)
    with suppress(ShopError):  # it may refuse
        run.shop.cancel(order.page)  # by a page that was loaded before the payment
    return run.judge_steps(this, order, steps)


@case("shop", rule=7, cases=SHOP)
def guesses(run: Run, this: Case) -> Result:
    """Guessed secrets.

    A shop must refuse 200 guessed secrets, then accept the real callback.

    A block would hit the gateway.
    """
    order = run.place()
    invoice = order.invoice
    bodies = [callbacks.guess(invoice.id) for _ in range(GUESSES)]
    with ThreadPoolExecutor(8) as pool:
        statuses = {status for status, _ in pool.map(run.post, bodies)}
    steps = callbacks.good(invoice)
    wrong = [f"guesses were answered {status}" for status in sorted(statuses) if not 400 <= status < 500]
    result = run.judge_steps(this, order, steps, wrong)
    seen = result.seen if wrong else f"guesses {sorted(statuses)}, then {result.seen}"
    again = f"for n in $(seq {GUESSES}); do {run.again(bodies[0])}; done; {result.again}"
    return replace(result, seen=seen, again=again)


@case("shop", rule=8, cases=SHOP)
def slow_senders(run: Run, this: Case) -> Result:
    """Slow senders.

    A shop must answer within 5 s despite 50 slow senders.

    Otherwise one machine can block the shop.
    """
    order = run.place()
    invoice = order.invoice
    address, body = urlsplit(run.callback_url), run.pay(invoice)
    head = f"POST {address.path or '/'} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 500\r\n\r\n" + '{"secret'
    port = address.port or (443 if address.scheme == "https" else 80)
    tls = ssl.create_default_context(cafile=run.ca)
    with ExitStack() as connections:
        try:
            for _ in range(SLOW_SENDERS):
                sender = connections.enter_context(socket.create_connection((address.hostname, port), timeout=5))
                if address.scheme == "https":
                    sender = connections.enter_context(tls.wrap_socket(sender, server_hostname=address.hostname))
                sender.sendall(head.encode())
        except OSError:  # a shop may limit connections
            pass
        status, seconds = run.post(body)
    seen = f"answered {status or 'nothing'} after {seconds:.1f} s"
    slow = f"seq {SLOW_SENDERS} | xargs -P {SLOW_SENDERS} -I% curl -s -m 20 --limit-rate 1 -d '{'%' * 20}' "
    again = f"{slow}{shlex.quote(run.callback_url)} & sleep 2; {run.again(body)}"
    if status != 200 or seconds >= 5:
        return judge(this, False, seen, again=again)
    return replace(run.judge_steps(this, order, []), seen=seen, again=again)


def early(run: Run, this: Case) -> Result:
    """The callback was sent before the answer; now comes its retry."""
    order, store = run.place("early"), web.store()
    first = store.attempts_of([one.id for one in store.deliveries_of([order.invoice.id])])[0]
    steps = callbacks.send_now(order.invoice.id)
    result = run.judge_steps(this, order, steps)
    answers = ", then ".join([str(first.status or first.error), *(step.answer for step in steps)])
    seen = f"answered {answers}" + f"; {result.seen}" * (result.verdict is Verdict.FAILED)
    return replace(result, seen=seen, again=_again(run, this))


def other_invoice(run: Run, this: Case) -> Result:
    """The other invoice is that of an order that must stay unpaid as well."""
    order, other = run.unpaid(), run.place()
    steps = callbacks.other_invoice(order.invoice)
    paid = run.shop.is_paid(other.page)
    return run.judge_steps(this, order, steps, ["the other order's page says paid"] if paid else [])


def malformed(run: Run, this: Case) -> Result:
    """Odd secrets come while there is an order without an invoice, and so without a secret."""
    run.place("refuse", REFUSALS_IN_A_ROW)
    return callback(run, this)


def after_cancel(run: Run, this: Case) -> Result:
    """Cancelled by its customer, then paid."""
    order = run.place()
    if not run.shop.cancel(order.page):
        return Result(this.name, Verdict.NOT_RUN, "the order can't be cancelled without --cancel")
    with suppress(ShopError):  # it may refuse
        run.shop.retry(order.page)
    steps = [*callbacks.after_cancel(order.invoice), *callbacks.duplicate(order.invoice)]
    return run.judge_steps(this, order, steps)


def late(run: Run, this: Case) -> Result:
    """Paid when its reservation has run out."""
    if run.late_minutes is None:
        return Result(this.name, Verdict.NOT_RUN, "--late MINUTES was not given")
    order = run.wait_until_late(run.late_minutes)
    steps = callbacks.good(order.invoice)
    return run.judge_steps(replace(this, deliveries=None if run.late_minutes else 1), order, steps)


def slow(run: Run, this: Case) -> Result:
    """While the gateway takes its time, a callback for another order arrives."""
    other, answers = run.spend(run.unpaid()), list[tuple[int, float]]()
    body = run.pay(other.invoice)
    meanwhile = threading.Timer(1.5, lambda: answers.append(run.post(body)))
    meanwhile.start()
    result = reply(run, this)
    meanwhile.join()
    status, seconds = answers[0]
    _, wrong = run.outcome(other, 1, 1)
    if status != 200 or seconds > 2:
        wrong = [f"a callback sent meanwhile was answered {status or 'nothing'} after {seconds:.1f} s"]
    return replace(result, verdict=Verdict.FAILED, seen="; ".join([*wrong, result.seen])) if wrong else result


def refuse(run: Run, this: Case) -> Result:
    """The customer asks again, after another order; then once more by a page that was loaded before, and when paid."""
    order = run.place(this.name, REFUSALS_IN_A_ROW)
    result, other = reply(run, this, order), run.place()
    if result.verdict is Verdict.FAILED or not (first := run.ask_again(order)):
        return result
    for one in (first, other):
        if f"/invoice/{one.invoice.id}" not in run.shop.look(one.page).text:
            return judge(this, False, "with two orders, the page of one has not its own link", again=_look(one))
    with suppress(ShopError):  # it may refuse
        run.shop.retry(order.page)
    steps = callbacks.good(first.invoice)
    with suppress(ShopError):
        run.shop.retry(order.page)
    paid = run.judge_steps(this, first, steps)
    return replace(paid, seen=f"{result.seen}; asked again, twice, and paid by the first link: {paid.seen}")


def forged(run: Run, this: Case) -> Result:
    """Before the payment, and after it."""
    first, order = callback(run, this), run.place()
    if first.verdict is Verdict.FAILED:
        return first
    steps = [*callbacks.good(order.invoice), *callbacks.forged(order.invoice)]
    return run.judge_steps(replace(this, payments=1, deliveries=1), order, steps)


def concurrent(run: Run, this: Case) -> Result:
    """Several times: a race is not lost each time."""
    results = (callback(run, this) for _ in range(RACES))
    return next((one for one in results if one.verdict is Verdict.FAILED), None) or callback(run, this)


def missing_ids(run: Run, this: Case) -> Result:
    """Two orders are paid without ids: nothing but the secret tells them apart."""
    first = callback(run, this)
    return first if first.verdict is Verdict.FAILED else callback(run, this)


def callback(run: Run, this: Case) -> Result:
    """Send the callbacks of a case, and judge the answers: for an order of its own, unless it stays unpaid."""
    order = run.place() if this.payments else run.unpaid()
    return run.judge_steps(this, order, CASES[this.name].act(order.invoice))


def reply(run: Run, this: Case, order: Order | None = None) -> Result:
    """Place an order with a faulty answer, and judge the customer's page."""
    order = order or run.place(this.name, REFUSALS_IN_A_ROW if this.max_requests < 10 else 1)
    again = _again(run, this)
    if faults := list(_faults(run, this, order)):
        return judge(this, False, "; ".join(faults), again=again)
    if this.name != "refuse" and run.shop.offers_retry(order.page):
        run.ask_again(order)
    count = len(order.requests)
    return judge(this, True, f"{count} request{'s' * (count > 1)}, the page after {order.seconds:.1f} s", again=again)


def _and(*more: str) -> _Judge:
    """Return a judge for a case that includes others."""

    def all_of_them(run: Run, this: Case) -> Result:
        results = [reply(run, case) for case in (this, *(CASES[name] for name in more))]
        worst = next((one for one in results if one.verdict is Verdict.FAILED), results[0])
        return replace(worst, name=this.name)

    return all_of_them


def _faults(run: Run, this: Case, order: Order) -> Iterator[str]:
    """Describe what the shop did wrong after a faulty answer."""
    page, asked = order.page, order.requests
    if page.status != 200:
        yield f"the customer saw HTTP {page.status}: {cut(page.text)}" if page.status else NO_PAGE
    if order.seconds > WAIT_SECONDS:
        yield f"the customer waited for {order.seconds:.0f} s"
    for one in asked:
        if one.bait and one.bait in (page.html if "<" in one.bait else page.text):
            yield f"the page shows {cut(one.bait)}"
        if one.trouble == "redirect followed":
            yield "the shop followed the redirect and sent the API key along"
    if len(asked) > this.max_requests:
        yield f"the shop sent {len(asked)} requests"
    if this.name == "429" and len(asked) > 1:
        gap = (asked[-2].received_at - asked[-1].received_at).total_seconds()
        if gap < replies.RETRY_AFTER_SECONDS - 0.1:
            yield f"the shop retried after {gap:.1f} s, despite Retry-After: {replies.RETRY_AFTER_SECONDS}"
    if page.status == 200 and not _link_is_shown(order):
        if this.payable:
            yield "the page has no payment link"
        elif this.payable is False and not run.shop.offers_retry(page):
            yield f"the page has neither a payment link nor an offer to try again{run.shop.retry_hint}"


def _link_is_shown(order: Order) -> bool:
    """Whether the page has the link of an invoice whose answer can be used."""
    usable = [one for one in order.requests if not one.trouble or (one.trouble in CASES and CASES[one.trouble].payable)]
    return any(f"/invoice/{one.invoice_id}" in order.page.text for one in usable if one.invoice_id)


def _again(run: Run, this: Case) -> str:
    url = f"{current_app.config['PUBLIC_URL']}/trouble"
    plan = callbacks.curl(url, json.dumps({"case": this.name, "invoice": "next"}))
    return f"{plan} && {run.shop.command or 'place an order'}"


def _still_unpaid(run: Run, this: Case, order: Order, seen: str, again: str) -> Result:
    unseen, wrong = run.outcome(order, 0, 0)
    if wrong:
        return judge(this, False, "; ".join([seen, *wrong]), again=again)
    return Result(this.name, Verdict.NOT_RUN, UNSEEN) if unseen else judge(this, True, f"{seen}, not paid", again=again)


def _look(order: Order) -> str:
    return f"curl -s {shlex.quote(order.page.url)}"


_JUDGES: dict[str, _Judge] = {
    "refuse": refuse,
    "slow": slow,
    "javascript-url": _and("markup"),
    "svg-qr": _and("remote-qr", "markup-qr"),
    "early": early,
    "concurrent": concurrent,
    "after-cancel": after_cancel,
    "forged": forged,
    "other-invoice": other_invoice,
    "missing-ids": missing_ids,
    "malformed": malformed,
    "late": late,
}
"""Those of cases that need more than `callback` or `reply`."""
_OF_TROUBLE = {
    name: replace(this, act=_JUDGES.get(name, callback if this.at == "callback" else reply))
    for name, this in CASES.items()
    if this.rule
}
_IN_THE_END = ("guesses", "late")
ALL = dict(sorted((SHOP | _OF_TROUBLE).items(), key=lambda item: item[0] in _IN_THE_END))
"""All cases of a run, in their order. Last come those that may get the run blocked, and whose order must be old."""
