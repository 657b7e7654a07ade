"""The run, in groups of checks that share one order and restart if interrupted."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import requests

from sandbox import web
from sandbox.conformance.checks import Result, Verdict
from sandbox.conformance.shops import Page, Shop, ShopError
from sandbox.records import Invoice, Request
from sandbox.trouble import CASES, callbacks, replies

MAX_DECIMALS = 8
"""More than any currency has; longer amounts come from binary floating point."""
WAIT_SECONDS = 20
NO_REQUEST = "no request for an invoice arrived"
NO_PAGE = "the address of the customer's page is unknown"
GUESSES = 200
SLOW_SENDERS = 50

MUST_BE_PAYABLE = ("slow", "svg-qr", "no-qr")
JUDGED_WITHOUT_PAGE = ("refuse", "401", "429", "500", "drip", "reset", "lost", "redirect")
MAX_REQUESTS = {"refuse": 3, "401": 1, "429": 5, "500": 5}
REFUSALS_IN_A_ROW = 10
"""Enough to count the shop's retries."""
REPLIES = tuple(name for name, case in CASES.items() if case.at == "put" and name != "early")


class Run:
    """A run for one shop. Needs the sandbox's application context."""

    def __init__(self, shop: Shop, *, callback_url: str, late_minutes: float, kept: Path) -> None:
        """Resume an unfinished run, or start one.

        Args:
            shop: the shop to check.
            callback_url: its address for callbacks.
            late_minutes: how long it reserves goods for an unpaid order; 0 skips the check `late`.
            kept: the file of results so far, for resuming.
        """
        self._shop = shop
        self._callback_url = callback_url
        self._late_minutes = late_minutes
        self._kept = kept
        self._paid: Invoice | None = None
        self._placed: list[Page] = []
        self.results: dict[str, Result] = {}
        if kept.exists():
            for name, (verdict, seen) in json.loads(kept.read_text()).items():
                self.results[name] = Result(name, Verdict(verdict), seen)
        self.groups: dict[str, Callable[[], Iterator[Result]]] = {
            "request": self._one_order_for_many,
            "cancel-url": self._cancel_url,
            "concurrent": lambda: self._case("concurrent"),
            "missing-ids": lambda: self._case("missing-ids"),
            "after-cancel": self._after_cancel,
            "early": self._early,
            "guesses": self._guesses,
            **{name: lambda name=name: self._reply(name) for name in REPLIES},  # type: ignore[misc]
            "late": self._late,
        }

    def groups_to_do(self) -> list[str]:
        """Return the names of the remaining groups; each places one order."""
        return [name for name in self.groups if name not in self.results]

    def do(self, group: str) -> list[Result]:
        """Run a group; save and return its results. Its first check has the group's name."""
        try:
            results = list(self.groups[group]())
        except ShopError as error:
            results = [Result(group, Verdict.NOT_RUN, str(error))]
        self._leave_orders()
        self.results |= {result.name: result for result in results}
        done = {name: (result.verdict, result.seen) for name, result in self.results.items()}
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        self._kept.write_text(json.dumps(done))
        return results

    # --- the groups ---

    def _one_order_for_many(self) -> Iterator[Result]:
        page, asked, _ = self._place()
        yield _exact(asked)
        invoice = self._invoice_of(asked)
        if invoice is None:
            return
        yield self._link(page, asked[0], "link")
        shown = invoice.secret in page.text
        yield _judge("secret", not shown, "not on the page" if page.url else "", "the secret is on the page")
        if invoice.success_url:
            requests.get(invoice.success_url, timeout=WAIT_SECONDS)
        paid = self._shop.is_paid(page)
        seen = "no successUrl was given" if not invoice.success_url else {False: "not paid", None: ""}.get(paid, "paid")
        yield _judge("success-url", not paid, seen, "the order's page says paid")
        yield self._wrong_method(invoice, page)
        for name in ("forged", "other-invoice", "malformed", "oversized"):
            yield from self._case(name, invoice, page, paid=False)
        steps = callbacks.start("after-cancel", invoice)  # an ordinary callback, sent at once
        yield self._judge_steps("good", steps, page, paid=True)
        if steps and steps[0].ok:
            self._paid = invoice
        yield from self._case("duplicate", invoice, page, paid=True)
        yield from self._case("second-session", invoice, page, paid=True)
        yield self._slow_senders(invoice)

    def _cancel_url(self) -> Iterator[Result]:
        page, asked, _ = self._place()
        invoice = self._invoice_of(asked)
        if invoice is None or not invoice.cancel_url:
            yield Result("cancel-url", Verdict.NOT_RUN, "no cancelUrl was given")
            return
        requests.get(invoice.cancel_url, timeout=WAIT_SECONDS)
        yield self._judge_steps("cancel-url", callbacks.start("after-cancel", invoice), page, paid=True)

    def _after_cancel(self) -> Iterator[Result]:
        page, asked, _ = self._place()
        invoice = self._invoice_of(asked)
        if invoice is None or not self._shop.cancel(page):
            yield Result("after-cancel", Verdict.NOT_RUN, "the order could not be cancelled")
            return
        yield self._judge_steps("after-cancel", callbacks.start("after-cancel", invoice), page)

    def _early(self) -> Iterator[Result]:
        page, invoice = self._place_with_invoice("early")
        first = web.store().attempts_of([one.id for one in web.store().deliveries_of([invoice.id])])[0]
        retry = callbacks.send_now(invoice.id)
        answers = f"{first.status or first.error}, then {(retry.status or retry.error) if retry else 'no retry'}"
        paid = self._eventually_paid(page)
        taken = bool(retry and retry.succeeded) or (first.succeeded and paid is True)
        shown = {True: "yes", False: "no", None: "unknown"}[paid]
        yield _judge("early", taken and paid is not False, answers, f"{answers}; paid: {shown}")

    def _late(self) -> Iterator[Result]:
        if not self._late_minutes:
            yield Result("late", Verdict.NOT_RUN, "--late MINUTES was not given")
            return
        page, invoice = self._place_with_invoice()
        time.sleep(self._late_minutes * 60 + 15)
        yield self._judge_steps("late", callbacks.start("after-cancel", invoice), page, paid=True)

    def _guesses(self) -> Iterator[Result]:
        page, invoice = self._place_with_invoice()
        for _ in range(GUESSES // 50):
            bodies = [callbacks.guess(invoice.id) for _ in range(50)]
            with ThreadPoolExecutor(8) as pool:
                statuses = [status for status, _ in pool.map(self._timed_post, bodies)]
        refused = all(400 <= status < 500 for status in statuses)
        [step, *_] = callbacks.start("after-cancel", invoice)
        seen = f"guesses {sorted(set(statuses))}, then {step.attempt.status or step.attempt.error}"
        paid = self._eventually_paid(page)
        yield _judge("guesses", refused and step.ok and paid is not False, seen, seen)

    def _reply(self, name: str) -> Iterator[Result]:
        """Place an order with a faulty answer, and check the customer's page."""
        callback: list[tuple[int, float]] = []
        if name == "slow" and self._paid:
            body = _callback_of(self._paid)
            threading.Timer(1.5, lambda: callback.append(self._timed_post(body))).start()
        page, asked, seconds = self._place(name)
        if not asked:
            yield Result(name, Verdict.NOT_RUN, f"{NO_REQUEST}. {_cut(page.text)}")
            return
        faults = list(self._faults(name, page, asked, seconds))
        if name == "slow" and callback and (callback[0][0] != 200 or callback[0][1] > 2):
            faults.append(f"a callback sent meanwhile was answered {callback[0][0]} after {callback[0][1]:.1f} s")
        if not faults and not page.url and name not in JUDGED_WITHOUT_PAGE:
            yield Result(name, Verdict.NOT_RUN, NO_PAGE)
            return
        seen = f"{len(asked)} request{'s' * (len(asked) > 1)}, the page after {seconds:.1f} s"
        yield _judge(name, not faults, seen, "; ".join(faults))

    def _faults(self, name: str, page: Page, asked: list[Request], seconds: float) -> Iterator[str]:
        """Describe what the shop did wrong after a faulty answer."""
        if page.status and page.status >= 500:
            yield f"the customer saw HTTP {page.status}: {_cut(page.text)}"
        if seconds > WAIT_SECONDS:
            yield f"the customer waited for {seconds:.0f} s"
        for one in asked:
            if one.bait and one.bait in page.text:
                yield f"the page shows {_cut(one.bait)}"
            if one.trouble == "redirect followed":
                yield "the shop followed the redirect and sent the API key along"
        if len(asked) > MAX_REQUESTS.get(name, 10):
            yield f"the shop sent {len(asked)} requests"
        if name == "429" and len(asked) > 1:
            gap = (asked[-2].received_at - asked[-1].received_at).total_seconds()
            if gap < replies.RETRY_AFTER_SECONDS - 0.1:
                yield f"the shop retried after {gap:.1f} s, despite Retry-After: {replies.RETRY_AFTER_SECONDS}"
        if name in MUST_BE_PAYABLE and page.url and self._link(page, asked[0], name).verdict is Verdict.FAILED:
            yield "the page has no payment link"

    # --- helpers ---

    def _place(self, trouble: str = "") -> tuple[Page, list[Request], float]:
        """Place an order; return its page, its requests (newest first) and the seconds."""
        newest = web.store().requests(limit=1)
        for _ in range(REFUSALS_IN_A_ROW if trouble in MAX_REQUESTS else bool(trouble)):
            web.store().plan_trouble(trouble)
        started = time.monotonic()
        try:
            page = self._shop.place()
            self._placed.append(page)
        finally:
            seconds = time.monotonic() - started
            while web.store().take_trouble():  # the next order starts without faults
                pass
        return page, web.store().requests(after=newest[0].number if newest else 0), seconds

    def _place_with_invoice(self, trouble: str = "") -> tuple[Page, Invoice]:
        """Place an order; return its page and invoice, or raise `ShopError`."""
        page, asked, _ = self._place(trouble)
        invoice = self._invoice_of(asked)
        if invoice is None:
            raise ShopError(NO_REQUEST)
        return page, invoice

    def _leave_orders(self) -> None:
        while self._placed:
            with suppress(ShopError, requests.RequestException):  # not part of any check
                self._shop.leave(self._placed.pop())

    def _case(
        self, name: str, invoice: Invoice | None = None, page: Page | None = None, *, paid: bool | None = True
    ) -> Iterator[Result]:
        """Run a callback case, on a new order unless one is given."""
        if invoice is None or page is None:
            page, invoice = self._place_with_invoice()
        if paid is False and self._shop.is_paid(page):
            paid = None  # because of an earlier check's fault, which must not count twice
        yield self._judge_steps(name, callbacks.start(name, invoice), page, paid=paid)

    def _judge_steps(self, name: str, steps: list[callbacks.Step], page: Page, *, paid: bool | None = None) -> Result:
        wrong = [f"{step.what}: {step.attempt.status or step.attempt.error}" for step in steps if not step.ok]
        is_paid = self._eventually_paid(page) if paid else self._shop.is_paid(page)
        if paid is not None and is_paid is not None and is_paid != paid:
            wrong.append("the order's page says paid" if is_paid else "the order's page does not say paid")
        answers = sorted({str(step.attempt.status or step.attempt.error) for step in steps})
        return _judge(name, not wrong, f"answered {', '.join(answers)}", "; ".join(wrong))

    def _eventually_paid(self, page: Page) -> bool | None:
        """Wait up to 5 seconds for a shop that confirms in the background."""
        for _ in range(20):
            paid = self._shop.is_paid(page)
            if paid is not False:
                return paid
            time.sleep(0.25)
        return False

    def _link(self, page: Page, request: Request, name: str) -> Result:
        if not page.url:
            return Result(name, Verdict.NOT_RUN, NO_PAGE)
        path = f"/invoice/{request.invoice_id}"
        return _judge(name, path in page.text, "the link is on the page", "the link is not on the page")

    def _wrong_method(self, invoice: Invoice, page: Page) -> Result:
        was_paid = self._shop.is_paid(page)
        query = {"invoiceId": invoice.id, "paymentSessionId": "1", "secret": invoice.secret}
        status = requests.get(self._callback_url, params=query, timeout=WAIT_SECONDS, allow_redirects=False).status_code
        paid = not was_paid and self._shop.is_paid(page)
        seen = f"answered {status}" + (", and the order is paid" if paid else "")
        return _judge("wrong-method", status < 500 and not paid, seen, seen)

    def _slow_senders(self, invoice: Invoice) -> Result:
        """Send a callback while many connections hang in the middle of a request."""
        address = urlsplit(self._callback_url)
        head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 500\r\n\r\n" + '{"secret'
        body = _callback_of(invoice)
        port = address.port or (443 if address.scheme == "https" else 80)
        with ExitStack() as connections:
            try:
                for _ in range(SLOW_SENDERS):
                    sender = connections.enter_context(socket.create_connection((address.hostname, port), timeout=5))
                    sender.sendall(head.encode())
            except OSError:  # a shop may limit connections
                pass
            status, seconds = self._timed_post(body)
        seen = f"answered {status or 'nothing'} after {seconds:.1f} s"
        return _judge("slow-senders", status == 200 and seconds < 5, seen, seen)

    def _timed_post(self, body: str) -> tuple[int, float]:
        """Send a callback; return the status (0 for no answer) and the seconds."""
        started, headers = time.monotonic(), {"Content-Type": "application/json"}
        try:
            answer = requests.post(self._callback_url, data=body, headers=headers, timeout=10, allow_redirects=False)
        except requests.RequestException:
            return 0, time.monotonic() - started
        return answer.status_code, time.monotonic() - started

    def _invoice_of(self, asked: list[Request]) -> Invoice | None:
        """Return the newest invoice that the shop received, if any."""
        made = [one.invoice_id for one in asked if one.invoice_id and one.status == 200]
        return web.store().invoice(made[0]) if made else None


def _callback_of(invoice: Invoice) -> str:
    """Return the body of the invoice's callback, or one with a guessed secret."""
    bodies = [one.body for one in web.store().deliveries_of([invoice.id]) if not one.once]
    return bodies[0] if bodies else callbacks.guess(invoice.id)


def _exact(asked: list[Request]) -> Result:
    if not asked:
        return Result("request", Verdict.NOT_RUN, f"{NO_REQUEST}: check the shop's settings")
    if asked[0].status != 200:
        return Result("request", Verdict.FAILED, f"HTTP {asked[0].status}: {asked[0].refusal}")
    amount = json.loads(asked[0].body, parse_float=Decimal, parse_int=Decimal)["amount"]
    exact = -int(amount.as_tuple().exponent) <= MAX_DECIMALS
    return _judge("request", exact, f"amount {amount}", f"amount {amount}")


def _judge(name: str, good: bool, seen: str, wrong: str) -> Result:
    """Return a check's result.

    `seen` describes a good one, "" if it can't be observed; `wrong` describes a bad one.
    """
    if good and not seen:
        return Result(name, Verdict.NOT_RUN, "can't be checked without the page's address and --paid-text")
    return Result(name, Verdict.PASSED if good else Verdict.FAILED, seen if good else wrong)


def _cut(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= 80 else plain[:79] + "…"
