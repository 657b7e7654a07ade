"""What a stranger can cause from one address: `python -m tests.faults.stranger --minutes 60`.

He keeps no cookies, types other people's e-mail addresses, reserves all that he may, comes back by the success
address, cancels, reserves again, begins baskets, and guesses secrets. An honest customer elsewhere buys and pays once a
minute. The table of docs/security.md is what this prints after an hour.
"""

import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import click
import requests
from sqlalchemy import func, select

from models import Attention, Basket, CallbackAttempt, Invoice, Order, Product
from shop.db import db
from shop.states import OrderState
from tests.children import children, forget_settings, free_ports
from tests.faults.customer import CONTACT, Customer, GoneHome, hidden
from tests.faults.deployment import Deployment
from tests.pages import required_fields

UNITS = 20
"""Of each product."""


class Stranger:
    """Does all that one address may, as fast as it is answered."""

    def __init__(self, deployment: Deployment, slugs: list[str]) -> None:
        self.web, self.slugs = deployment.webs[0], slugs
        self.headers = {"X-Forwarded-For": "198.51.100.7", "Origin": self.web}
        self.tried: Counter[str] = Counter()
        self.over = threading.Event()

    def order(self) -> None:
        """Place orders over all units of all products, for other people; leave every other one, and cancel the rest."""
        number = 0
        while not self.over.wait(0.2):
            number += 1
            browser = requests.Session()
            browser.headers.update(self.headers)
            with suppress(requests.RequestException):
                for quantity in (UNITS, UNITS // 2, 3, 1):
                    for slug in self.slugs:
                        item = {"product": slug, "quantity": str(quantity)}
                        browser.post(f"{self.web}/basket/items", data=item, timeout=30)
                    page = browser.get(f"{self.web}/checkout", timeout=30).text
                    form = required_fields(page) | hidden(page) | CONTACT | {"delivery": "standard"}
                    form["email"] = f"victim-{number % 40}+{number}@example.com"
                    answer = browser.post(f"{self.web}/checkout", data=form, timeout=30, allow_redirects=False)
                    self.tried[f"order {answer.status_code}"] += 1
                    if answer.status_code == 303:
                        self._go_on(browser, answer.headers["Location"], cancels=number % 2 == 0)
                        break

    def _go_on(self, browser: requests.Session, place: str, *, cancels: bool) -> None:
        page = browser.get(f"{self.web}{place}?returned=success", timeout=30).text
        if cancels:
            data = {"csrf_token": hidden(page).get("csrf_token", "")}
            browser.post(f"{self.web}{place}/cancellation", data=data, timeout=30)
        else:
            threading.Thread(target=self._hold, args=(browser, place), daemon=True).start()

    def _hold(self, browser: requests.Session, place: str) -> None:
        """Reserve an order again whenever it has run out."""
        while not self.over.wait(30):
            with suppress(requests.RequestException):
                page = browser.get(f"{self.web}{place}", timeout=30).text
                if f"{place}/reservation" in page:
                    data = {"csrf_token": hidden(page).get("csrf_token", "")}
                    browser.post(f"{self.web}{place}/reservation", data=data, timeout=30)
                    self.tried["reserved again"] += 1

    def begin_baskets(self) -> None:
        """Put something into a new basket, again and again."""
        while not self.over.wait(6):
            with suppress(requests.RequestException):
                item = {"product": self.slugs[0], "quantity": "1"}
                answer = requests.post(f"{self.web}/basket/items", data=item, headers=self.headers, timeout=30)
                self.tried[f"basket {answer.status_code}"] += 1

    def guess(self) -> None:
        """Send callbacks with secrets that nobody gave."""
        while not self.over.wait(0.02):
            with suppress(requests.RequestException):
                body = {"invoiceId": "65448ddef4924a5dd1b241a9", "secret": f"guess-{random.random()}"}
                answer = requests.post(f"{self.web}/amwal/callback", json=body, headers=self.headers, timeout=30)
                self.tried[f"guess {answer.status_code}"] += 1


def size_of(folder: Path) -> int:
    """Bytes of the database, with its log."""
    return sum(file.stat().st_size for file in folder.glob("shop.db*"))


def held(deployment: Deployment, supply: int) -> int:
    """Units that are neither for sale nor paid for."""
    with deployment.app.app_context():
        left = db.session.scalar(select(func.sum(Product.stock)).filter_by(active=True)) or 0
        bought = select(Order).filter_by(state=OrderState.PAID)
        paid = sum(sum(order.quantities.values()) for order in db.session.scalars(bought))
        db.session.remove()
    return supply - left - paid


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
def main(minutes: float) -> None:
    """Let a stranger loose, and print what came of it."""
    forget_settings()
    folder = Path(tempfile.mkdtemp(prefix="stranger-"))
    with children() as start:
        url = f"sqlite:///{folder / 'shop.db'}"
        deployment = Deployment(start, folder, url, free_ports(3), webs=1, workers=1, RESERVATION_MINUTES="30")
        try:
            supply = deployment.supply(UNITS)
            with deployment.app.app_context():
                slugs = list(db.session.scalars(select(Product.slug).filter_by(active=True)))
                db.session.remove()
            size = size_of(folder)
            stranger = Stranger(deployment, slugs)
            doing = (stranger.order, stranger.begin_baskets, stranger.guess)
            threads = [threading.Thread(target=target, daemon=True) for target in doing]
            for thread in threads:
                thread.start()
            units, honest = [0], Counter[str]()
            until, customer = time.monotonic() + minutes * 60, 0
            while time.monotonic() < until:
                customer += 1
                somebody = Customer(customer, 1, deployment.webs, deployment.sandbox_url, slugs)
                somebody.odd_answer, somebody.plan, somebody.sends_twice = "", "pay", False
                with suppress(GoneHome):
                    try:
                        next(somebody.buy())
                    except StopIteration as end:
                        honest[str(end.value)] += 1
                for _ in range(6):
                    time.sleep(min(10, max(0, until - time.monotonic())))
                    units.append(held(deployment, supply))
            stranger.over.set()
            for thread in threads:
                thread.join(60)
            report(deployment, stranger, units, honest, supply, size_of(folder) - size)
        finally:
            deployment.end()
    shutil.rmtree(folder)


def report(  # noqa: PLR0917  (figures)
    deployment: Deployment, stranger: Stranger, units: list[int], honest: Counter[str], supply: int, grown: int
) -> None:
    """Print the figures."""
    count = select(func.count())
    with deployment.app.app_context():
        found: dict[str, object] = {
            "orders stored": db.session.scalar(count.select_from(Order).where(Order.email.like("victim%"))),
            "invoices at the gateway": db.session.scalar(
                count.select_from(Invoice).join(Order).where(Order.email.like("victim%"))
            ),
            "baskets": db.session.scalar(count.select_from(Basket)),
            "callbacks recorded": db.session.scalar(count.select_from(CallbackAttempt)),
            "open items for the merchant": db.session.scalar(count.select_from(Attention).filter_by(closed_at=None)),
        }
        db.session.remove()
    found["e-mails to strangers"] = sum(
        times for address, times in deployment.mailbox.sent.items() if address.startswith("victim")
    )
    found["e-mails to the merchant"] = deployment.mailbox.sent["merchant@example.com"]
    found["units held at most, and on average"] = f"{max(units)}, {sum(units) // len(units)} of {supply}"
    found["growth of the database"] = f"{grown / 1e6:.1f} MB"
    found["log"] = f"{sum(file.stat().st_size for file in deployment.folder.glob('w*.log')) / 1e6:.1f} MB"
    found["honest customers"] = dict(honest)
    found["tried"] = dict(stranger.tried)
    for name, figure in found.items():
        click.echo(f"{name:36} {figure}")


if __name__ == "__main__":
    main()
