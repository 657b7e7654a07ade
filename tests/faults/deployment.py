"""A whole deployment for fault campaigns: web processes, workers and the sandbox gateway as programs of their own."""

import logging
import os
import random
import re
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from contextlib import closing, suppress
from email import message_from_bytes
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from flask import Flask, current_app
from sqlalchemy import select

from app import create_app
from models import OutboxMessage, Product, StockMovement
from shop.db import db, write
from shop.states import OutboxKind, StockReason
from tests.children import Start, end, wait_for
from tests.conftest import fill

API_KEY = "campaign-key"
SPEED = 2000
"""Makes two minutes of the gateway's three days: killed processes are back long before it gives up."""


class Process:
    """A program, or one that forks again whenever its present life is killed."""

    def __init__(self, start: Start, name: str, command: list[str], folder: Path, **environment: str) -> None:
        """Start it; its errors go to a log in `folder`."""
        self.name = name
        self.lives: list[int] = []
        self.warm = threading.Event()
        """Set at the first life: only before it, the program buys something and cancels."""
        self.said: list[str] = []
        self.process = start(*command, errors=folder / f"{name}.log", env=environment)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.lives.append(int(line))
                self.warm.set()
            else:
                self.said.append(line)

    def kill_life(self) -> bool:
        """Kill the present life without a warning; False if there is none to kill yet."""
        if not self.lives:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.lives[-1], signal.SIGKILL)
            return True
        return False

    def end(self) -> None:
        """Stop it; kill it if it does not stop."""
        end(self.process)


class Mailbox:
    """A mail server that keeps who was sent how many e-mails, and which receipt: orders' ids, and e-mails' ids."""

    def __init__(self, port: int) -> None:
        self.sent: Counter[str] = Counter()
        self.receipts: dict[int, list[str]] = defaultdict(list)
        logging.getLogger("mail.log").setLevel(logging.WARNING)
        self._server = Controller(self, hostname="127.0.0.1", port=port)
        self._server.start()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        """Take an e-mail."""
        self.sent.update(envelope.rcpt_tos)
        message_id = str(message_from_bytes(envelope.content)["Message-ID"])
        if found := re.match(r"<mail_receipt\.(\d+)\.", message_id):
            self.receipts[int(found[1])].append(message_id)
        return "250 OK"

    def end(self) -> None:
        """Stop it."""
        self._server.stop()


class Deployment:
    """Shop and gateway, with what a campaign needs to know of both."""

    def __init__(
        self,
        start: Start,
        folder: Path,
        database_url: str,
        ports: list[int],
        *,
        webs: int,
        workers: int,
        **changes: str,
    ) -> None:
        """Set everything up and start it.

        Args:
            start: starts programs, and ends them whatever happens here.
            folder: for databases and logs.
            database_url: the shop's database, empty yet.
            ports: of the sandbox, the mail server and each web process.
            webs: number of web processes; callbacks go to the first.
            workers: number of worker processes.
            changes: other settings.
        """
        self.folder = folder
        self.sandbox_url = f"http://127.0.0.1:{ports[0]}"
        self.mailbox = Mailbox(ports[1])
        self.webs = [f"http://127.0.0.1:{port}" for port in ports[2:]]
        self.sandbox_database = folder / "sandbox.db"
        self.killed = 0
        command = ["-m", "sandbox", "serve", "--port", str(ports[0]), "--database", str(self.sandbox_database)]
        command += ["--api-key", API_KEY, "--callback-url", f"{self.webs[0]}/amwal/callback", "--speed", str(SPEED)]
        self.sandbox = Process(start, "sandbox", command, folder)
        wait_for(f"{self.sandbox_url}/healthz")
        [[project]] = self.ask_sandbox("SELECT id FROM project")
        self.settings = {
            "AMWAL_PROJECT_URL": f"{self.sandbox_url}/projects/{project}",
            "AMWAL_API_KEY": API_KEY,
            "AMWAL_PAYMENT_ORIGINS": self.sandbox_url,
            "PUBLIC_URL": self.webs[0],
            "SECRET_KEY": "only-for-campaigns-" * 3,
            "DATABASE_URL": database_url,
            "MAIL_URL": f"smtp://127.0.0.1:{ports[1]}",
            "MERCHANT_EMAIL": "merchant@example.com",
            "RESERVATION_MINUTES": "1",
            "TRUSTED_PROXIES": "1",  # each customer comes from an address of their own
        } | changes
        self.app = create_app(self.settings)
        fill(self.settings)
        prefork = ["-m", "tests.faults.prefork"]
        self.shop = [
            Process(start, f"web-{n}", [*prefork, "web", str(ports[n + 1])], folder, **self.settings)
            for n in range(1, webs + 1)
        ]
        self.shop += [
            Process(start, f"worker-{n}", [*prefork, "worker"], folder, **self.settings) for n in range(1, workers + 1)
        ]
        for process in self.shop:
            assert process.warm.wait(60), f"{process.name} did not start"
        for url in self.webs:
            wait_for(f"{url}/healthz")

    def supply(self, units: int) -> int:
        """Put so many units of each product on the shelf; return how many there are in all. Nobody may be buying."""
        with self.app.app_context(), write() as session:
            products = session.query(Product).filter_by(active=True).order_by(Product.id).all()
            for product in products:
                more = units - product.stock
                if more:
                    session.add(StockMovement(product_id=product.id, quantity=more, reason=StockReason.INTAKE))
                    product.stock = units
            return units * len(products)

    def kill_someone(self, chance: random.Random) -> None:
        """Kill a web process or a worker, whoever it hits."""
        self.killed += chance.choice(self.shop).kill_life()

    def ask_sandbox(self, statement: str, *values: object) -> list[Any]:
        """Read the gateway's own book."""
        with closing(sqlite3.connect(f"file:{self.sandbox_database}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(statement, values).fetchall()

    def undelivered(self) -> int:
        """How many callbacks the gateway still means to send."""
        return int(self.ask_sandbox("SELECT count(*) FROM deliveries WHERE next_attempt_at IS NOT NULL")[0][0])

    def settle(self, seconds: float) -> None:
        """Wait until the gateway has delivered everything, and the shop has sent every receipt, or no longer."""
        until = time.monotonic() + seconds
        while (self.undelivered() or self._unsent()) and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(1)

    def _unsent(self) -> bool:
        """Whether a receipt is still to be sent."""
        query = select(OutboxMessage.id).filter_by(kind=OutboxKind.MAIL_RECEIPT, done_at=None).limit(1)
        with self.app.app_context():
            found = db.session.scalar(query) is not None
            db.session.remove()
            return found

    def end(self) -> None:
        """End everything well."""
        for process in [*self.shop, self.sandbox]:
            process.end()
        self.mailbox.end()
        forget_connections(self.app)


def forget_connections(app: Flask) -> None:
    """Close what this process has open of the shop's database."""
    if current_app:
        db.session.remove()
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()
