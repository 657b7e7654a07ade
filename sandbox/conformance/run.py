"""The run: places orders, and judges what came of them. Interrupted, it goes on where it stopped."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import requests
from flask import current_app

from sandbox import web
from sandbox.conformance.shops import Counts, Page, Shop, ShopError
from sandbox.delivery import browser
from sandbox.records import Invoice, Request
from sandbox.store import LEASE
from sandbox.trouble.callbacks import Step, curl
from sandbox.trouble.cases import Case

SHOP_LOG = "shop.log"
WAIT_SECONDS = 20
PAID_SECONDS = 5
"""How long a shop may take to show and count what it has answered with 200."""
BACKGROUND_SECONDS = 12
"""How long a shop may take to ask for the invoice, if it does so after it has shown the page."""
SECOND_LOOK_SECONDS = 0.3
LINGER_SECONDS = 1
"""How long the gateway goes on refusing when the page is there, to count what the shop repeats in the background."""
REFUSALS_IN_A_ROW = 10
"""Enough to count the shop's retries."""
UNSEEN = "can't be checked without the page's address and --paid-text, or --payments"


class Verdict(StrEnum):
    """The outcome of a check."""

    PASSED = "passed"
    ANSWER_ONLY = "answer only"
    """The answers are right; whether the payment is stored and delivered once was not seen."""
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Result:
    """The outcome of a case, what was seen, and a command that repeats it."""

    name: str
    verdict: Verdict
    seen: str
    again: str = ""


@dataclass(frozen=True)
class Order:
    """An order that the run placed: its page, its requests (newest first), and the seconds that placing it took."""

    page: Page
    requests: Sequence[Request]
    seconds: float
    before: Counts
    """What the shop had stored before."""
    made: Invoice | None

    @property
    def invoice(self) -> Invoice:
        """The newest invoice that the shop received. Raises `ShopError` if there is none."""
        if self.made is None:
            last = self.requests[0]
            raise ShopError(f"the order got no invoice: HTTP {last.status}. {last.refusal}".strip())
        return self.made


class Run:
    """A run for one shop. Needs the sandbox's application context."""

    def __init__(
        self, shop: Shop, *, callback_url: str, late_minutes: float | None, folder: Path, ca: Path | None = None
    ) -> None:
        """Resume an unfinished run, or start one.

        Args:
            shop: the shop to check.
            callback_url: its address for callbacks.
            late_minutes: how long it reserves goods for an unpaid order; None if unknown.
            folder: results.json there keeps what has passed so far, for resuming; that of another run is not used.
                What a shop prints that was started here is in SHOP_LOG.
            ca: the certificates that the shop may have; None for the usual ones.
        """
        self.shop = shop
        self.callback_url = callback_url
        self.late_minutes = late_minutes
        self.ca = ca
        self.log = folder / SHOP_LOG
        self.sent: set[str] = set()
        """Secrets that this run has put into an address, which a shop may log."""
        self.came_later: list[str] = []
        """What the shop stored or delivered when the case had been judged that could have been the reason."""
        self.results: dict[str, Result] = {}
        self._kept = folder / "results.json"
        self._placed: list[Page] = []
        self._tells_apart = True
        self._counted = Counts()
        self._unpaid: Order | None = None
        self._late: tuple[float, Order] | None = None
        self._key = [callback_url, late_minutes, repr(shop)]
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # damaged: it begins anew
            done = json.loads(self._kept.read_text())
            if done["run"] == self._key:
                self.results = {name: Result(name, Verdict.PASSED, *more) for name, more in done["passed"].items()}

    def do(self, case: Case) -> Result:
        """Run a case and return its result, which `keep` saves."""
        try:
            result: Result = case.act(self, case)
        except (ShopError, requests.RequestException) as error:
            result = Result(case.name, Verdict.FAILED, str(error), self.shop.command)
        self._leave_orders()
        return result

    def keep(self, result: Result) -> None:
        """Save a result, for when the run is interrupted."""
        self.results[result.name] = result
        passed = [one for one in self.results.values() if one.verdict is Verdict.PASSED]
        done = {"run": self._key, "passed": {one.name: [one.seen, one.again] for one in passed}}
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        self._kept.write_text(json.dumps(done))

    # --- placing orders ---

    def place(self, trouble: str = "", times: int = 1) -> Order:
        """Place an order whose next requests for an invoice meet a fault case.

        Raises:
            ShopError: if the shop sent no request for an invoice.
        """
        store, before = web.store(), self.count()
        newest = store.requests(limit=1)
        for _ in range(times if trouble else 0):
            store.plan_trouble(trouble)
        started = time.monotonic()
        try:
            page = self.shop.place()
            if page.url.startswith(f"{current_app.config['PUBLIC_URL']}/"):
                raise ShopError(f"{page.url} is the gateway's page: --place must print that of the order in your shop")
            self._placed.append(page)
            seconds, after = time.monotonic() - started, newest[0].number if newest else 0
            page, arrived = self._settle(page, after)
            self._placed[-1] = page
            if times > 1:
                time.sleep(LINGER_SECONDS)
                arrived = store.requests(after=after)
        finally:
            while store.take_trouble():  # the next order starts without faults
                pass
        # A shop may meanwhile repeat requests of earlier orders. Those are spared from the case, and not this order's.
        asked = [one for one in arrived if one.body not in store.spared]
        if arrived and not asked:  # its requests all have the same body: they can't be told apart
            store.spared, self._tells_apart, asked = set(), False, arrived
            if trouble:
                return self.place(trouble, times)
        if self._tells_apart:
            store.spared |= {one.body for one in asked}
        if not asked:
            raise ShopError(
                f"no request for an invoice arrived: check --place and the shop's settings. {cut(page.text)}".strip()
            )
        made = [one.invoice_id for one in asked if one.invoice_id and one.status == 200]
        return Order(page, asked, seconds, before, store.invoice(made[0]) if made else None)

    def _settle(self, page: Page, after: int) -> tuple[Page, list[Request]]:
        """Wait until a page knows an invoice, or offers to try again.

        Returns:
            The page, and the requests with numbers above `after`. One that is still being answered is not among them.
        """
        until = time.monotonic() + (BACKGROUND_SECONDS if page.status == 200 else PAID_SECONDS)
        while True:
            arrived = web.store().requests(after=after)
            has_link = any(f"/invoice/{one.invoice_id}" in page.text for one in arrived)
            if arrived and (has_link or self.shop.offers_retry(page) or page.status != 200):
                return page, arrived
            if time.monotonic() > until:
                return page, arrived
            time.sleep(0.1)
            page = self.shop.look(page) if page.status == 200 else page

    def ask_again(self, order: Order) -> Order | None:
        """Ask for an order's invoice as its page offers; return the order with it, or None if that's impossible here.

        Raises:
            ShopError: if no new invoice was asked for, or the page does not show its link.
        """
        newest = web.store().requests(limit=1)[0].number
        if not self.shop.retry(order.page):
            return None
        page, asked = self._settle(self.shop.look(order.page), newest)
        made = next((web.store().invoice(one.invoice_id) for one in asked if one.invoice_id), None)
        if made is None or f"/invoice/{made.id}" not in page.text:
            raise ShopError("asked for an invoice again, the page still has no payment link")
        return replace(order, page=page, requests=asked, made=made)

    def unpaid(self) -> Order:
        """Return an unpaid order, which cases that leave it unpaid share."""
        if self._unpaid is None or self.shop.is_paid(self._unpaid.page):
            self._unpaid = self.place()
            self._placed.remove(self._unpaid.page)
        return replace(self._unpaid, before=self.count())

    def spend(self, order: Order) -> Order:
        """Return a shared order that will be paid, so that it is shared no longer."""
        self._unpaid = None
        return order

    def place_late(self) -> tuple[float, Order]:
        """Place the order that is paid at the end of the run, when its reservation has run out."""
        if self._late is None:
            order = self.place()
            self._placed.remove(order.page)
            self._late = (time.monotonic(), order)
        return self._late

    def wait_until_late(self, minutes: float) -> Order:
        """Return the order that was placed first, once `minutes` and a round of the shop's worker have passed."""
        placed_at, order = self.place_late()
        time.sleep(max(0.0, placed_at + minutes * 60 + (15 if minutes else 0) - time.monotonic()))
        return replace(order, before=self.count())

    def _leave_orders(self) -> None:
        while self._placed:
            with suppress(ShopError, requests.RequestException):  # not part of any check
                self.shop.leave(self._placed.pop())

    # --- judging ---

    def count(self) -> Counts:
        """Return what the shop has stored, and note what has come since the last case was judged."""
        before, self._counted = self._counted, self.shop.counts()
        for what in ("payments", "deliveries"):
            was, now = getattr(before, what), getattr(self._counted, what)
            if None not in (was, now) and now > was:
                self.came_later.append(f"{what}: {now - was} more, some time after the callback")
        return self._counted

    def judge_steps(self, case: Case, order: Order, steps: Sequence[Step], more: Sequence[str] = ()) -> Result:
        """Judge the shop's answers, and what it shows and counts afterwards. `more`: other faults."""
        wrong = [f"{step.what}: {step.answer}" for step in steps if not step.ok]
        unseen, faults = self.outcome(order, case.payments, case.deliveries)
        first_wrong = next((step for step in steps if not step.ok), steps[0] if steps else None)
        again = first_wrong.curl if first_wrong else ""
        if wrong := [*wrong, *more, *faults]:
            return Result(case.name, Verdict.FAILED, "; ".join(wrong), again)
        seen = f"answered {', '.join(sorted({step.answer for step in steps}))}"
        return Result(case.name, Verdict.ANSWER_ONLY if unseen else Verdict.PASSED, seen, again)

    def outcome(self, order: Order, payments: int, deliveries: int | None) -> tuple[bool, list[str]]:
        """Look at what the shop shows and has stored since the order was placed.

        Args:
            order: the order.
            payments: how many are right.
            deliveries: how many are right; None if it may deliver or leave that to the merchant.

        Returns:
            Whether something that is needed could not be seen, and what is wrong.
        """
        until, looks, first = time.monotonic() + PAID_SECONDS, 0, self.shop.counts()
        while looks < 2:  # a second look, as a second delivery may come a little later
            paid, now, lacks = self.shop.is_paid(order.page), self.shop.counts(), False
            wrong = []
            # After a payment that needs a decision, it may say that.
            if paid is not None and paid != bool(deliveries) and (deliveries, payments) in {(1, 1), (0, 0)}:
                wrong.append("the order's page says paid" if paid else "the order's page does not say paid")
                lacks = not paid
            for what, expected in (("payments", payments), ("deliveries", deliveries)):
                before, after = getattr(order.before, what), getattr(now, what)
                if None not in (before, after, expected) and after - before != expected:
                    wrong.append(f"{what}: {after - before} instead of {expected}")
                    lacks |= after - before < expected
            looks += 2 if lacks and time.monotonic() > until else not lacks
            time.sleep(SECOND_LOOK_SECONDS)
        self._counted = now
        if not wrong and order.before.payments is not None and first.payments != now.payments:
            wrong.append("the payment was stored only after the answer")
        if payments:
            return now.payments is None or now.deliveries is None, wrong
        return now.payments is None and paid is None, wrong

    def pay(self, invoice: Invoice) -> str:
        """Pay an invoice, and return the body of its callback, to be sent by the caller."""
        web.store().pay(invoice.id, tell_after=LEASE.total_seconds())
        return next(one.body for one in web.store().deliveries_of([invoice.id]) if not one.once)

    def post(self, body: str) -> tuple[int, float]:
        """Send a callback; return the status (0 for no answer) and the seconds."""
        started, headers = time.monotonic(), {"Content-Type": "application/json"}
        try:
            with browser(self.ca) as session:
                answer = session.post(self.callback_url, data=body, headers=headers, timeout=10, allow_redirects=False)
        except requests.RequestException:
            return 0, time.monotonic() - started
        return answer.status_code, time.monotonic() - started

    def get(self, url: str) -> requests.Response:
        """Open an address like a browser that has no cookies, and that comes from the payment page."""
        with browser(self.ca) as session:
            return session.get(url, headers={"Referer": f"{current_app.config['PUBLIC_URL']}/"}, timeout=WAIT_SECONDS)

    def again(self, body: str) -> str:
        """Return a command that sends this callback."""
        return curl(self.callback_url, body)


def judge(case: Case, good: bool, seen: str, *, again: str) -> Result:
    """Return a case's result; `again` is a command that repeats it."""
    return Result(case.name, Verdict.PASSED if good else Verdict.FAILED, seen, again)


def cut(text: str) -> str:
    """Return the start of a text on one line."""
    plain = " ".join(text.split())
    return plain if len(plain) <= 80 else plain[:79] + "…"
