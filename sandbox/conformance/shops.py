"""The shop under test, used like a customer: placing orders, reading their pages."""

import re
import shlex
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass, field, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import requests

from sandbox.delivery import browser, certificate_error

SECONDS = 90
"""Timeout for one page. Longer than the slowest fault case, to detect a shop that hangs."""


class ShopError(Exception):
    """An order could not be placed or read, so its cases are not run.

    The text says why.
    """


@dataclass(frozen=True)
class Page:
    """The customer's page of an order; `url` is "" and `status` None if unknown."""

    url: str = ""
    status: int | None = None
    text: str = ""
    html: str = ""
    """The text as it was sent, if it is HTML."""
    headers: str = ""
    """Those of the page, and of the redirects to it."""


@dataclass(frozen=True)
class Counts:
    """How many payments and deliveries a shop has stored; None if unknown."""

    payments: int | None = None
    deliveries: int | None = None


@dataclass
class AnyShop:
    """A shop in any language, whose orders are placed by a command. Its methods may raise `ShopError`."""

    command: str
    """Places an order and prints its page's address."""
    paid_text: str = ""
    """Text that only the page of a paid order shows; "" if unknown."""
    retry_text: str = "try again"
    payments: str = ""
    """Prints how many payments are stored; "" for none."""
    deliveries: str = ""
    cancel_command: str = ""
    """Cancels the order whose page's address is added as last argument; "" for none."""
    retry_command: str = ""
    """Asks for this order's invoice again."""
    ca: Path | None = None
    retry_hint = "; --retry-text says how it offers that"

    def place(self) -> Page:
        """Place an order and return its page."""
        ran = _run(self.command)
        url = (re.findall(r"https?://\S+", ran.stdout) or [""])[-1]
        if ran.returncode:
            return Page(status=500, text=f"the command's exit code was {ran.returncode}: {_last_line(ran)}")
        return replace(self._get(url), url=url) if url else Page()

    def is_paid(self, page: Page) -> bool | None:
        """Return whether the order's page says paid; None if unknown."""
        return _plain(self.paid_text) in _plain(self.look(page).text) if self.paid_text and page.url else None

    def look(self, page: Page) -> Page:
        """Return an order's page, loaded again."""
        return self._get(page.url) if page.url else page

    def counts(self) -> Counts:
        """Return what the shop has stored, of all orders."""
        return Counts(_count(self.payments), _count(self.deliveries))

    def offers_retry(self, page: Page) -> bool:
        """Return whether the page of an order without an invoice offers to try again."""
        return _plain(self.retry_text) in _plain(page.text)

    def cancel(self, page: Page) -> bool:
        """Cancel the order as its customer; return False if that's impossible here."""
        return _act(self.cancel_command, page)

    def retry(self, page: Page) -> bool:
        """Ask for the order's invoice again, as its customer; return False if that's impossible here."""
        return _act(self.retry_command, page)

    def leave(self, page: Page) -> None:
        """Cancel an unpaid order, as a shop may limit unpaid orders per customer."""
        if self.cancel_command and page.url and self.is_paid(page) is False:
            self.cancel(page)

    def _get(self, url: str) -> Page:
        with browser(self.ca) as session:
            return _get(session, url)


class Dukkan:
    """A Dukkan or a fork, at the origin `url`: what `AnyShop` does by commands, this does through its forms."""

    command = ""
    retry_hint = ""

    def __repr__(self) -> str:
        return "Dukkan"

    def __init__(self, url: str, database: Path | None = None, ca: Path | None = None) -> None:
        self._url = url
        self._database = database
        self._browser = browser(ca)
        self._browser.headers["Origin"] = url

    def place(self) -> Page:
        form = self._checkout_form()
        if form is None:  # the basket is empty, unless a cancelled order restored it
            self._fill_basket()
            form = self._checkout_form()
        if form is None:
            raise ShopError("the shop has no checkout form at /checkout")
        answer = self._post("/checkout", form)
        if answer.status_code != 303:
            alert = answer.text.partition('role="alert"')[2]
            said = " ".join(re.sub("<[^>]*>", " ", f"<{alert}").split())[:200]
            raise ShopError(f"the checkout answered with HTTP {answer.status_code}. {said}")
        return _get(self._browser, urljoin(self._url, answer.headers["Location"]))

    def look(self, page: Page) -> Page:
        """Return an order's page, loaded again."""
        return _get(self._browser, page.url)

    def is_paid(self, page: Page) -> bool | None:
        answer = self._browser.get(f"{page.url}/status", timeout=SECONDS)
        return answer.json().get("state") in {"paid", "needs_review"} if answer.ok else None

    def counts(self) -> Counts:
        if not (self._database and self._database.exists()):
            return Counts()
        with closing(sqlite3.connect(f"{self._database.resolve().as_uri()}?mode=ro", uri=True)) as database:
            query = "SELECT (SELECT count(*) FROM payment), (SELECT count(*) FROM delivery)"
            return Counts(*database.execute(query).fetchone())

    def offers_retry(self, page: Page) -> bool:
        return any(form.action.endswith("/invoice") for form in forms(page.text))

    def cancel(self, page: Page) -> bool:
        return self._press("/cancellation", page)

    def retry(self, page: Page) -> bool:
        return self._press("/invoice", page)

    def _press(self, action: str, page: Page) -> bool:
        for form in forms(page.text):
            if form.action.endswith(action):
                return self._post(form.action, form.fields).status_code == 303
        return False

    def leave(self, page: Page) -> None:
        if page.url and self.is_paid(page) is False:
            self.cancel(page)

    def _checkout_form(self) -> dict[str, str] | None:
        page = _get(self._browser, f"{self._url}/checkout").text
        return next((form.fields for form in forms(page) if "checkout_key" in form.fields), None)

    def _fill_basket(self) -> None:
        for slug in dict.fromkeys(re.findall(r'href="/products/([^"?#]+)"', _get(self._browser, self._url).text)):
            if self._post("/basket/items", {"product": slug, "quantity": "1"}).status_code == 303:
                return
        raise ShopError("nothing is in stock: add stock, or start with a new sample shop")

    def _post(self, path: str, form: dict[str, str]) -> requests.Response:
        try:
            return self._browser.post(urljoin(self._url, path), data=form, timeout=SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise ShopError(f"no answer from {path} ({type(error).__name__})") from error


Shop = AnyShop | Dukkan


@dataclass
class Form:
    """A form of a page, filled in with what its fields ask for."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)


SAMPLES = {"email": "conformance@example.com", "tel": "+962 7 9012 3456", "number": "1", "checkbox": "on"}


class _Forms(HTMLParser):
    """Collects the forms of a page. Only required fields are filled in, and what is chosen already stays."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name, kind, value = given.get("name", ""), given.get("type", "text"), given.get("value", "")
        if tag == "form":
            self.forms.append(Form(given.get("action", "")))
        elif not self.forms or (not name and tag != "option"):
            return
        elif tag == "select":
            self._select = name
        elif tag == "option":
            if "selected" in given or not self._fields.get(self._select):
                self._fields[self._select] = value
        elif kind == "radio":
            if "checked" in given or name not in self._fields:
                self._fields[name] = value
        elif kind == "hidden" or "checked" in given:
            self._fields[name] = value
        elif tag in {"input", "textarea"} and "required" in given:
            self._fields[name] = value or SAMPLES.get(kind, "Conformance run")

    @property
    def _fields(self) -> dict[str, str]:
        return self.forms[-1].fields


def forms(page: str) -> list[Form]:
    """Return the forms of a page, filled in."""
    parser = _Forms()
    parser.feed(page)
    return parser.forms


def _run(command: str, *more: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the user's, without a shell."""
    words = [*shlex.split(command), *more]
    try:
        return subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ShopError(f"the command {command!r} failed ({type(error).__name__})") from error


def _act(command: str, page: Page) -> bool:
    """Run a command for an order, if there is one."""
    if command and (ran := _run(command, page.url)).returncode:
        raise ShopError(f"the command {command!r} failed with {ran.returncode}: {_last_line(ran)}")
    return bool(command)


def _count(command: str) -> int | None:
    if not command:
        return None
    ran = _run(command)
    if ran.returncode or not re.fullmatch(r"\d+", ran.stdout.strip()):
        raise ShopError(f"the command {command!r} printed no whole number: {_last_line(ran)}")
    return int(ran.stdout)


def _plain(text: str) -> str:
    """Return a text as it is compared: in small letters, each blank as one."""
    return " ".join(text.casefold().split())


def _last_line(ran: "subprocess.CompletedProcess[str]") -> str:
    return (ran.stderr.strip().splitlines() or ["no message"])[-1]


def _get(session: requests.Session, url: str) -> Page:
    try:
        answer = session.get(url, timeout=SECONDS)
    except requests.exceptions.SSLError as error:
        raise ShopError(f"no answer from {url} ({certificate_error(error)})") from error
    except (requests.RequestException, ValueError) as error:  # ValueError: a malformed host
        raise ShopError(f"no answer from {url} ({type(error).__name__})") from error
    if "charset" not in answer.headers.get("Content-Type", ""):
        answer.encoding = "utf-8"  # or what a meta element says, which is nearly always the same
    html = answer.text if "html" in answer.headers.get("Content-Type", "html") else ""
    headers = "\n".join(f"{one.url} {one.headers}" for one in [*answer.history, answer])
    return Page(answer.url, answer.status_code, unescape(answer.text).replace("\\/", "/"), html, headers)
