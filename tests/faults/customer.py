"""A customer who buys and pays while the shop is being killed: patient, sometimes odd, and reproducible by a seed."""

import random
import re
import time
from collections.abc import Generator
from html import unescape

import requests

from tests.pages import required_fields

PATIENCE = 120
"""Tries, a quarter of a second apart, before a customer goes home."""
INVOICE_LEASE = 16
"""Seconds after which the claim on an order's invoice that a killed process leaves behind has run out."""
ODD_ANSWERS = ("lost", "reset", "500", "html", "missing-field", "early", "429")
PLANS = {
    "pay": 66,
    "duplicate": 8,
    "concurrent": 5,
    "second-session": 3,
    "forged": 3,
    "missing-ids": 1,
    "other-invoice": 1,
    "slowly": 3,
    "cancel": 3,
    "pay after cancelling": 2,
    "pay late": 2,
    "walk away": 3,
}
CONTACT = {"name": "Sara", "email": "sara@example.com", "address": "1 Olive Street", "city": "Amman", "country": "JO"}


Waiting = Generator[float, None, str]
"""What a customer does: yields for how many seconds they want to do something else, and returns how it ended."""


class GoneHome(Exception):
    """The shop did not answer for too long."""


class Customer:
    """One customer with one order."""

    def __init__(self, number: int, seed: int, webs: list[str], sandbox: str, slugs: list[str]) -> None:
        """Make up what the customer will do; the same seed and number always make the same customer."""
        self.chance = random.Random(seed * 1_000_003 + number)
        self.webs = webs
        self.sandbox = sandbox
        self.slugs = self.chance.sample(slugs, 3)
        self.plan = self.chance.choices(list(PLANS), weights=list(PLANS.values()))[0]
        self.odd_answer = self.chance.choice(ODD_ANSWERS) if self.chance.random() < 0.08 else ""
        self.sends_twice = self.chance.random() < 0.05
        self.contact = CONTACT | {"email": f"customer-{number}@example.com"}
        self.browser = requests.Session()
        self.browser.trust_env = False
        address = ".".join(str(self.chance.randint(1, 254)) for _ in range(4))
        self.headers = {"Host": webs[0].removeprefix("http://"), "X-Forwarded-For": address, "Origin": webs[0]}

    def buy(self) -> Waiting:
        """Buy something and pay for it, or whatever else is planned."""
        quantity = self.chance.choice((1, 1, 1, 2))
        for slug in self.slugs:
            answer = self._ask("POST", "/basket/items", {"product": slug, "quantity": str(quantity)})
            if answer.status_code == 303:
                break
        page = self._ask("GET", "/checkout")
        if page.status_code != 200:
            return "sold out" if answer.status_code == 422 else f"basket {answer.status_code}"
        if self.odd_answer:
            requests.post(f"{self.sandbox}/trouble", json={"case": self.odd_answer, "invoice": "next"}, timeout=30)
        form = required_fields(page.text) | hidden(page.text) | self.contact | {"delivery": "standard"}
        answers = [self._ask("POST", "/checkout", form) for _ in range(1 + self.sends_twice)]
        if any(answer.status_code != 303 for answer in answers):
            return _said(answers[0])
        places = {answer.headers["Location"] for answer in answers}
        assert len(places) == 1, places
        self.place = places.pop()
        link = self._payment_link()
        for _ in range(3):
            if not link:
                yield INVOICE_LEASE
                link = self._payment_link()
        if not link:
            return "no invoice"
        self.invoice = link.rpartition("/")[2]
        if self.plan == "pay late":
            yield 70  # the reservation is over by then
        return self.pay()

    def pay(self) -> str:
        """Do with the invoice what was planned."""
        if self.plan in ("cancel", "pay after cancelling"):
            page = self._ask("GET", self.place).text
            self._ask("POST", f"{self.place}/cancellation", {"csrf_token": hidden(page).get("csrf_token", "")})
        if self.plan in ("cancel", "walk away"):
            return self.plan
        if self.plan in ("pay", "pay late", "pay after cancelling"):
            self._pay_page("payment")
        elif self.plan == "slowly":
            self._ask("GET", f"{self.place}?returned=success")
            self._pay_page("slow-payment")
        elif self.plan in ("forged", "other-invoice"):
            self._trouble()
            self._pay_page("payment")
        else:
            self._trouble()
        return self.plan

    def _pay_page(self, how: str) -> None:
        requests.post(f"{self.sandbox}/en/invoice/{self.invoice}/{how}", timeout=30, allow_redirects=False)

    def _trouble(self) -> None:
        requests.post(f"{self.sandbox}/trouble", json={"case": self.plan, "invoice": self.invoice}, timeout=120)

    def _payment_link(self) -> str:
        """Look at the order's page, and try again where the payment service did not answer; "" if that helps not."""
        for _ in range(5):
            page = self._ask("GET", self.place).text
            link = re.search(r'href="([^"]+/en/invoice/[0-9a-f]{24})"', page)
            if link:
                return unescape(link[1])
            if f'action="{self.place}/invoice"' not in page:
                break  # a process died while it was asking
            self._ask("POST", f"{self.place}/invoice", {"csrf_token": hidden(page).get("csrf_token", "")})
        return ""

    def _ask(self, method: str, path: str, form: dict[str, str] | None = None) -> requests.Response:
        """Ask whichever web process answers, and ask again while none does."""
        for attempt in range(PATIENCE):
            web = self.webs[(attempt + self.chance.randrange(len(self.webs))) % len(self.webs)]
            try:
                answer = self.browser.request(
                    method, f"{web}{path}", data=form, headers=self.headers, timeout=30, allow_redirects=False
                )
            except requests.RequestException:
                time.sleep(0.25)
                continue
            if answer.status_code != 503:
                return answer
            time.sleep(0.25)
        raise GoneHome(path)


def _said(answer: requests.Response) -> str:
    """What a page that refuses an order says, in short."""
    said = re.search(r'role="alert"[^>]*>(.*?)</(?:div|section)>', answer.text, re.DOTALL)
    words = " ".join(re.sub("<[^>]+>", " ", said[1]).split()) if said else ""
    return f"checkout {answer.status_code}: {re.sub('left of .*', 'left', words)[:90]}"


def hidden(page: str) -> dict[str, str]:
    """The hidden fields of a page's forms."""
    fields: dict[str, str] = {}
    for tag in re.findall(r'<input[^>]*type="hidden"[^>]*>', page):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and value:
            fields.setdefault(name[1], unescape(value[1]))
    return fields
