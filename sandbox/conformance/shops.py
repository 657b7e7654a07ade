"""The shop under test, used like a customer: placing orders, reading their pages."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from html import unescape
from typing import Protocol
from urllib.parse import urljoin

import click
import requests

SECONDS = 90
"""Timeout for one page. Longer than the slowest fault case, to detect a shop that hangs."""


class ShopError(Exception):
    """An order could not be placed or read, so its checks are not run.

    The text says why.
    """


@dataclass(frozen=True)
class Page:
    """The customer's page of an order; `url` is "" and `status` None if unknown."""

    url: str = ""
    status: int | None = None
    text: str = ""


class Shop(Protocol):
    """A shop, as a customer uses it. Any method may raise `ShopError`."""

    def place(self) -> Page:
        """Place an order and return its page."""

    def look(self, page: Page) -> Page:
        """Return an order's page, loaded again."""

    def is_paid(self, page: Page) -> bool | None:
        """Return whether the order's page says paid; None if unknown."""

    def cancel(self, page: Page) -> bool:
        """Cancel the order as its customer; return False if that's impossible here."""

    def leave(self, page: Page) -> None:
        """Cancel an unpaid order, as a shop may limit unpaid orders per customer."""


class AnyShop:
    """A shop in any language, whose orders are placed by a command or by hand."""

    def __init__(self, command: str | None, paid_text: str) -> None:
        """Prepare to place orders.

        Args:
            command: places an order and prints its page's address; None asks the user to place each order.
            paid_text: text that only the page of a paid order shows; "" if unknown.
        """
        self._command = command
        self._paid_text = paid_text

    def place(self) -> Page:
        if self._command is None:
            click.echo("Place an order for any product in your shop.")
            url = click.prompt("Address of the page after checkout (press Enter if unknown)", default="")
        else:
            try:
                ran = subprocess.run(
                    shlex.split(self._command), capture_output=True, text=True, timeout=SECONDS, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ShopError(f"the command for placing orders failed ({type(error).__name__})") from error
            url = (re.findall(r"https?://\S+", ran.stdout) or [""])[-1]
            if ran.returncode:
                last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
                return Page(status=500, text=f"the command's exit code was {ran.returncode}: {last}")
        return _get(requests.Session(), url) if url else Page()

    def look(self, page: Page) -> Page:
        return _get(requests.Session(), page.url) if page.url else page

    def is_paid(self, page: Page) -> bool | None:
        return self._paid_text in self.look(page).text if self._paid_text and page.url else None

    def cancel(self, page: Page) -> bool:
        if self._command is not None:
            return False
        return click.confirm("Cancel that order as its customer. Done?")

    def leave(self, page: Page) -> None:
        pass


class Dukkan:
    """A Dukkan or a fork, at the origin `url`: orders are placed through its forms."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._browser = requests.Session()
        self._browser.trust_env = False
        self._browser.headers["Origin"] = url

    def place(self) -> Page:
        form = self._checkout_form()
        if "checkout_key" not in form:  # the basket is empty, unless a cancelled order restored it
            self._fill_basket()
            form = self._checkout_form()
        if "checkout_key" not in form:
            raise ShopError("the shop has no checkout form at /checkout")
        contact = {"name": "Conformance", "email": "conformance@example.com", "address": "1 Test Street"}
        more = {"city": "Amman", "country": "JO", "note": "placed by a conformance run"}
        delivery = re.search(r'name="delivery"[^>]*value="([^"]+)"|value="([^"]+)"[^>]*name="delivery"', form["#page"])
        form["delivery"] = (delivery[1] or delivery[2]) if delivery else ""
        del form["#page"]
        answer = self._post("/checkout", form | contact | more)
        if answer.status_code != 303:
            raise ShopError(f"the checkout answered with HTTP {answer.status_code}")
        return _get(self._browser, urljoin(self._url, answer.headers["Location"]))

    def look(self, page: Page) -> Page:
        return _get(self._browser, page.url)

    def is_paid(self, page: Page) -> bool | None:
        answer = self._browser.get(f"{page.url}/status", timeout=SECONDS)
        return answer.json().get("state") in {"paid", "needs_review"} if answer.ok else None

    def cancel(self, page: Page) -> bool:
        form = _fields(self.look(page).text)
        path = f"{page.url.removeprefix(self._url)}/cancellation"
        return self._post(path, {"csrf_token": form.get("csrf_token", "")}).status_code == 303

    def leave(self, page: Page) -> None:
        if page.url and self.is_paid(page) is False:
            self.cancel(page)

    def _checkout_form(self) -> dict[str, str]:
        return _fields(_get(self._browser, f"{self._url}/checkout").text)

    def _fill_basket(self) -> None:
        for slug in dict.fromkeys(re.findall(r'href="/products/([^"?#]+)"', _get(self._browser, self._url).text)):
            if self._post("/basket/items", {"product": slug, "quantity": "1"}).status_code == 303:
                return
        raise ShopError("nothing is in stock: add stock, or start with a new sample shop")

    def _post(self, path: str, form: dict[str, str]) -> requests.Response:
        try:
            return self._browser.post(f"{self._url}{path}", data=form, timeout=SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise ShopError(f"no answer from {path} ({type(error).__name__})") from error


def _get(browser: requests.Session, url: str) -> Page:
    try:
        answer = browser.get(url, timeout=SECONDS)
    except requests.RequestException as error:
        raise ShopError(f"no answer from {url} ({type(error).__name__})") from error
    return Page(answer.url, answer.status_code, unescape(answer.text))


def _fields(page: str) -> dict[str, str]:
    """Return the hidden fields of a page's forms by name, and the HTML as `#page`."""
    fields = {"#page": page}
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and value and 'type="hidden"' in tag:
            fields.setdefault(name[1], value[1])
    return fields
