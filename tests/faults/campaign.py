"""The fault campaign, `python -m tests.faults.campaign --checkouts 10000`: nothing is lost, whoever is killed.

Customers buy and pay over HTTP while web processes and workers are killed at random moments, callbacks come twice, ten
at once, forged and late, and the gateway's answers get lost. At the end the shop's books are audited, and compared
with the gateway's own: what was answered 200 is paid, and nothing else is.
"""

import heapq
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from sqlalchemy import func, select

from models import Delivery, Invoice, Order, OrderLine, Payment, Product
from shop.db import db
from shop.states import LineKind, OrderState
from tests.children import ROOT, children, forget_settings, free_ports
from tests.faults.customer import Customer, GoneHome, Waiting
from tests.faults.deployment import Deployment
from tests.postgres import Server, programs

SETTLE_SECONDS = 240


@dataclass
class Figures:
    """What a campaign came to."""

    database: str
    checkouts: int
    seed: int
    minutes: float = 0.0
    killed: int = 0
    orders: int = 0
    paid: int = 0
    acknowledged: int = 0
    """Payments that the gateway counts as delivered: the shop answered 200."""
    lost: int = 0
    """Of these, how many the shop doesn't have."""
    invented: int = 0
    """Payments that the shop has, and the gateway knows nothing of."""
    doubled: int = 0
    """Orders with more than one delivery, or more than one receipt. (An e-mail that is sent again has the same id.)"""
    receipts: int = 0
    """Orders whose customer was sent a receipt."""
    unannounced: int = 0
    """Paid orders whose customer was sent none."""
    oversold: int = 0
    """Units sold beyond what there was."""
    undelivered: int = 0
    """Callbacks that were still on their way at the end."""
    audit: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing was lost, invented, doubled or oversold, everybody heard of it, and the audit is clean."""
        bad = (self.lost, self.invented, self.doubled, self.unannounced, self.oversold, self.undelivered, self.audit)
        return not any(bad)


def run(deployment: Deployment, figures: Figures, clients: int, kill_every: float) -> Counter[str]:
    """Let the customers in, `clients` at a time, and kill somebody every `kill_every` seconds; give how they fared."""
    with deployment.app.app_context():
        slugs = list(db.session.scalars(select(Product.slug).filter_by(active=True)))
        db.session.remove()
    strangers = iter(range(figures.checkouts))
    away: list[tuple[float, int, Waiting]] = []
    ended: Counter[str] = Counter()
    lock, over = threading.Lock(), threading.Event()

    def next_one() -> tuple[float, int, Waiting] | None:
        """Who has come back, or a new customer, or else who comes back next."""
        with lock:
            if not away or away[0][0] > time.monotonic():
                for number in strangers:
                    return (
                        0.0,
                        number,
                        Customer(number, figures.seed, deployment.webs, deployment.sandbox_url, slugs).buy(),
                    )
            return heapq.heappop(away) if away else None

    def serve() -> None:
        while one := next_one():
            at, number, customer = one
            time.sleep(max(0.0, at - time.monotonic()))
            try:
                seconds = next(customer)
            except StopIteration as end:
                how = end.value
            except GoneHome:
                how = "went home"
            except Exception as error:  # a customer's trouble with the gateway is counted, and stops nobody else
                how = f"{type(error).__name__}: {error}"[:80]
            else:
                with lock:
                    heapq.heappush(away, (time.monotonic() + seconds, number, customer))
                continue
            with lock:
                ended[how] += 1
                bar.update(1)

    def kill() -> None:
        chance = random.Random(figures.seed)
        while not over.wait(kill_every * chance.uniform(0.5, 1.5)):
            deployment.kill_someone(chance)

    with click.progressbar(length=figures.checkouts, label=figures.database, file=sys.stderr) as bar:
        threads = [threading.Thread(target=serve, daemon=True) for _ in range(clients)]  # so that Ctrl-C ends them
        killer = threading.Thread(target=kill, daemon=True)
        for thread in [*threads, killer]:
            thread.start()
        for thread in threads:
            thread.join()
    over.set()
    killer.join()
    return ended


def compare(deployment: Deployment, figures: Figures, supply: int) -> None:
    """Hold the shop's books against the gateway's, and audit them."""
    figures.killed = deployment.killed
    figures.undelivered = deployment.undelivered()
    told = deployment.ask_sandbox("SELECT body FROM deliveries WHERE delivered_at IS NOT NULL")
    bodies = [json.loads(body) for (body,) in told]
    invoices = dict(deployment.ask_sandbox("SELECT secret, id FROM invoices"))
    acknowledged = {(invoices.get(body["secret"]), body.get("paymentSessionId", "")) for body in bodies}
    figures.acknowledged = len(acknowledged)
    with deployment.app.app_context():
        query = select(Invoice.gateway_id, Payment.session_id).join(Payment, Payment.order_id == Invoice.order_id)
        stored = {tuple(row) for row in db.session.execute(query)}
        figures.lost, figures.invented = len(acknowledged - stored), len(stored - acknowledged)
        count = select(func.count())
        figures.orders = db.session.scalar(count.select_from(Order)) or 0
        figures.paid = db.session.scalar(count.select_from(Order).filter_by(state=OrderState.PAID)) or 0
        several = select(Delivery.order_id).group_by(Delivery.order_id).having(func.count() > 1)
        receipts = {order_id: set(ids) for order_id, ids in deployment.mailbox.receipts.items()}
        repeated = {order_id for order_id, ids in receipts.items() if len(ids) > 1}
        figures.doubled = len({*db.session.scalars(several), *repeated})
        figures.receipts = len(receipts)
        paid = db.session.scalars(select(Order.id).filter_by(state=OrderState.PAID))
        figures.unannounced = len(set(paid) - set(receipts))
        sold = select(func.coalesce(func.sum(OrderLine.quantity), 0)).join(OrderLine.order)
        sold = sold.where(Order.state == OrderState.PAID, OrderLine.kind == LineKind.PRODUCT)
        figures.oversold = max(0, (db.session.scalar(sold) or 0) - supply)
        db.session.remove()
    command = [sys.executable, "-m", "flask", "--app", "app", "audit"]
    audit = subprocess.run(
        command,
        env=os.environ | deployment.settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if audit.returncode:
        figures.audit = audit.stdout + audit.stderr


def postgresql() -> Server:
    """A PostgreSQL server of this machine's programs."""
    found = programs()
    if found is None:
        raise click.ClickException("No PostgreSQL server programs are here: install the package postgresql.")
    return Server(found)


@click.command()
@click.option("--checkouts", default=1000, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite", show_default=True)
@click.option("--clients", default=12, show_default=True, type=click.IntRange(1, 100), help="Customers at a time.")
@click.option("--kill-every", default=0.25, show_default=True, help="Seconds between two kills, on average.")
@click.option("--seed", default=1, show_default=True, help="Another seed makes other customers and other moments.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here, too.")
def main(  # noqa: PLR0917  (options)
    checkouts: int, database: str, clients: int, kill_every: float, seed: int, file: Path | None
) -> None:
    """Run a campaign on this machine. Exit code 1 if anything is lost, doubled or oversold, or the audit fails."""
    forget_settings()
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    figures = Figures(database, checkouts, seed)
    started = time.monotonic()
    with ExitStack() as stack:
        if database == "postgresql":
            server = postgresql()
            stack.callback(server.remove)
            server.execute("CREATE DATABASE shop")
            url = server.url("shop")
        else:
            url = f"sqlite:///{folder / 'shop.db'}"
        start = stack.enter_context(children())
        deployment = Deployment(start, folder, url, free_ports(4), webs=2, workers=2)
        try:
            supply = deployment.supply(max(1, round(checkouts * 0.9 / 16)))
            ended = run(deployment, figures, clients, kill_every)
            deployment.settle(SETTLE_SECONDS)
            compare(deployment, figures, supply)
        finally:
            deployment.end()
    figures.minutes = round((time.monotonic() - started) / 60, 1)
    click.echo(f"\n{platform.platform()}, Python {platform.python_version()}")
    click.echo(", ".join(f"{how}: {number}" for how, number in ended.most_common()))
    for name, value in asdict(figures).items():
        click.echo(f"{name:13} {value}")
    if file:
        file.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    if figures.good:
        shutil.rmtree(folder)
    else:
        click.echo(f"Kept for a look: {folder}")
    sys.exit(0 if figures.good else 1)


if __name__ == "__main__":
    main()
