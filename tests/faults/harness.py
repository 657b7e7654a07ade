"""The harness around a shop that lives a random life (tests/faults/test_stateful.py): its crashes, its browsers, its
gateway, and a database that is put back for each life."""

import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

import amwal
from app import create_app
from models import Staff
from shop import payments, worker
from shop.db import Base, UTCDateTime, db, sqlite_library, write
from shop.limits import MissLimiter
from shop.ops import audit
from tests.conftest import set_stock, settings_for
from tests.faults.bugs import Killed

STOCK = {"finjan-set": 3, "brass-dallah": 4, "stoneware-cup": 40}
ORIGIN = "http://127.0.0.1:8001"

Effect = Callable[[], None]


# --- Crashes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crash:
    """Where an operation breaks off, and how."""

    at: str
    """Before a "statement" or a "commit", after it is "committed", or while the "gateway" is asked."""
    number: int
    """Which of them, counted from 1. If there are not so many, nothing breaks."""
    killed: bool
    """Whether the process dies, or only the database fails."""

    def error(self) -> BaseException:
        """What is raised."""
        return Killed() if self.killed else OperationalError("", {}, Exception("database or disk is full"))


class Watch:
    """Sees every commit of a write transaction and applies to the model what it brings; breaks what it is told to."""

    def __init__(self, app: Flask) -> None:
        self.engine = db.engines["write"]
        self.app = app
        self.commits_ever = 0
        self.begin()
        self.listeners = [
            (self.engine, "before_cursor_execute", self._statement),
            (self.engine, "commit", self._commit),
            (Session, "after_commit", self._committed),
        ]
        for one in self.listeners:
            event.listen(*one)

    def close(self) -> None:
        """Look away."""
        for one in self.listeners:
            event.remove(*one)

    def begin(self, effects: list[Effect] | None = None, crash: Crash | None = None) -> None:
        """An operation begins, whose commits have these effects, in this order."""
        self.effects = deque(effects or ())
        self.crash = crash
        self.counts: dict[str, int] = {}
        self.fired = self.paused = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count nothing and break nothing meanwhile."""
        self.paused = True
        yield
        self.paused = False

    def reach(self, place: str) -> None:
        """Something gets to a place where a crash may be due."""
        if not self.paused:
            count = self.counts[place] = self.counts.get(place, 0) + 1
            if self.crash and (self.crash.at, self.crash.number) == (place, count):
                self.fired = True
                raise self.crash.error()

    def _statement(self, *_: Any) -> None:
        self.reach("statement")

    def _commit(self, _: Any) -> None:
        self.reach("commit")

    def _committed(self, session: Session) -> None:
        if session.bind is self.engine and not session.in_nested_transaction():
            self.commits_ever += 1
            if not self.paused and self.effects:
                self.effects.popleft()()
            self.reach("committed")


# --- The shop's surroundings -----------------------------------------------------------------------------------------


class Browser(FlaskClient):
    """A browser: nothing is shared between its requests but cookies."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        kwargs.setdefault("base_url", self.application.extensions["settings"].public_url)
        with self.application.app_context():
            return super().open(*args, **kwargs)

    def knows(self) -> list[str]:
        """The tokens of the orders in its cookie."""
        return list(self._session().get("orders", ()))

    def basket(self) -> str:
        """The token of the basket in its cookie."""
        return str(self._session().get("basket", ""))

    def _session(self) -> dict[str, Any]:
        cookie = self.get_cookie(self.application.config["SESSION_COOKIE_NAME"], "127.0.0.1")
        if cookie is None:
            return {}
        signer: Any = self.application.session_interface.get_signing_serializer(self.application)  # type: ignore[attr-defined]
        return dict(signer.loads(cookie.value))


class FakeGateway:
    """Hands out invoices, or does what else it is told. `meanwhile` is what happens while it thinks."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.invoices: list[amwal.Invoice] = []
        self.reply = "ok"
        self.said: amwal.Invoice | amwal.AmwalError | None = None
        self.meanwhile: Callable[[amwal.Invoice], None] | None = None

    def create_invoice(self, **_: Any) -> amwal.Invoice:
        number = len(self.invoices) + 1
        invoice = amwal.Invoice(f"id-{number}", f"{ORIGIN}/en/invoice/{number}", f"secret-{number}", PNG)
        errors = {
            "unavailable": amwal.Unavailable("no answer"),
            "refused": amwal.Refused("err 7"),
            "bad": amwal.BadReply("no JSON"),
            "key": amwal.KeyRejected("HTTP 401"),
        }
        self.said = errors.get(self.reply, invoice)
        if self.reply == "repeated" and self.invoices:
            self.said = self.invoices[-1]
        if self.said is invoice:
            self.invoices.append(invoice)
        if self.meanwhile:
            with self.watch.pause():
                self.meanwhile(invoice)
        self.watch.reach("gateway")
        if isinstance(self.said, amwal.AmwalError):
            raise self.said
        return self.said


PNG = payments.draw_qr(ORIGIN)


class Harness:
    """One app for all sequences, and a database that is put back before each."""

    def __init__(self, folder: Path, migrated: Path) -> None:
        self.folder, self.file, self.template = folder, folder / "shop.db", folder / "template.db"
        shutil.copy(migrated, self.file)
        self.app = create_app(settings_for(folder, "http://127.0.0.1:9/projects/none"))
        self.app.testing = True
        self.app.test_client_class = Browser
        with self.app.app_context():
            self.write_engine = db.engines["write"]
            # Whether a commit outlives a power cut is not what this is about.
            event.listen(self.write_engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
            for slug, units in STOCK.items():
                set_stock(slug, units)
            with write() as session:
                session.add(Staff(email="maha@example.com", name="Maha", password_hash="-"))
            worker.tick()
            self.engines = list(db.engines.values())
        self.raw: Any = None
        self.seen: Counter[str] = Counter()
        self.forget_connections()
        shutil.copy(self.file, self.template)

    def restore(self) -> None:
        """Begin anew."""
        self.forget_connections()
        for file in self.folder.glob("shop.db*"):
            file.unlink()
        shutil.copy(self.template, self.file)
        self.raw = sqlite_library().connect(self.file, isolation_level=None, check_same_thread=False)
        self.app.extensions["miss_limiter"] = MissLimiter(limit=1000)

    def browser(self) -> Browser:
        """A customer's browser."""
        return Browser(self.app, self.app.response_class)

    def forget_connections(self) -> None:
        """Close what is open of the database."""
        for engine in self.engines:
            engine.dispose()
        if self.raw:
            self.raw.close()

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read what is committed."""
        return list(self.raw.execute(statement, values))

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that is committed."""
        return {table: self.ask(f"SELECT * FROM {table}") for table in Base.metadata.tables}

    def let_time_pass(self, seconds: int) -> None:
        """Set all that has a time back by as much: the clock itself stays right."""
        self.raw.execute("BEGIN IMMEDIATE")
        for statement in SHIFTS:
            self.raw.execute(statement, {"by": f"-{seconds} seconds"})
        self.raw.execute("COMMIT")


def value_of(page: str, name: str) -> str:
    """The value of a page's hidden field."""
    [field_] = re.findall(f'<input[^>]* name="{name}"[^>]*>', page)[:1]
    [value] = re.findall('value="([^"]*)"', field_)
    return unescape(value)


def shift(table: Any) -> str:
    """A statement that sets a table's times back."""
    columns = [column.name for column in table.columns if isinstance(column.type, UTCDateTime)]
    changes = ", ".join(f"{name} = strftime('%Y-%m-%d %H:%M:%f', {name}, :by) || '000'" for name in columns)
    return f"UPDATE {table.name} SET {changes}" if columns else ""


def over_all(check: audit.Check) -> tuple[str, dict[str, object]]:
    """A check's query over all rows, with its parameters."""
    text = check.along in ("invoice.secret_digest", "invoice.gateway_id")
    return check.sql, {"first": "" if text else 0, "last": "~" if text else 2**62}


SHIFTS = [statement for table in Base.metadata.sorted_tables if (statement := shift(table))]
AUDIT = [(check.text, *over_all(check)) for check in audit.CHECKS if check.invariant not in (0, 9)]
"""The audit's queries. The audit itself, and the check of the file, run at the end of a life."""
