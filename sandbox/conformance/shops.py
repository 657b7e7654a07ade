"""How an order is placed in the shop that is put to the test, and what its customer then sees."""

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
"""For one page. More than the slowest trouble takes, so that a shop that hangs is seen to hang."""


class ShopError(Exception):
    """No order could be placed, for a reason that isn't the shop's answer; the text says why."""


@dataclass(frozen=True)
class Page:
    """What the customer sees after placing an order. `url` is "" and `status` None where nobody told."""

    url: str = ""
    status: int | None = None
    text: str = ""


class Shop(Protocol):
    """A shop, as a customer uses it."""

    def place(self) -> Page:
        """Place one order."""

    def look(self, page: Page) -> Page:
        """Look at an order's page once more."""

    def is_paid(self, page: Page) -> bool | None:
        """Return whether the order's page says that it is paid; None if that can't be told."""

    def cancel(self, page: Page) -> bool:
        """Cancel the order as its customer can; False if that can't be done from here."""

    def leave(self, page: Page) -> None:
        """Be done with an order. A shop may limit how many unpaid ones a customer has, so cancel it if it is unpaid."""


class Told:
    """A shop of which is known only what is told: by a command, or by the person who places the orders."""

    def __init__(self, command: str | None, paid_text: str) -> None:
        """`command` places an order and prints its page's address; without one, a person is asked. `paid_text` is
        what that page shows of a paid order, and of no other."""
        self._command = command
        self._paid_text = paid_text

    def place(self) -> Page:
        if self._command is None:
            click.echo("Place an order for anything in your shop.")
            url = click.prompt("Address of the page that the customer sees now (Enter if unknown)", default="")
        else:
            try:
                ran = subprocess.run(
                    shlex.split(self._command), capture_output=True, text=True, timeout=SECONDS, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ShopError(f"the command did not place an order ({type(error).__name__})") from error
            url = (re.findall(r"https?://\S+", ran.stdout) or [""])[-1]
            if ran.returncode:
                last = (ran.stderr.strip().splitlines() or ["no word"])[-1]
                return Page(status=500, text=f"the command ended with {ran.returncode}: {last}")
        return _get(requests.Session(), url) if url else Page()

    def look(self, page: Page) -> Page:
        return _get(requests.Session(), page.url) if page.url else page

    def is_paid(self, page: Page) -> bool | None:
        return self._paid_text in self.look(page).text if self._paid_text and page.url else None

    def cancel(self, page: Page) -> bool:
        if self._command is not None:
            return False
        return click.confirm("Cancel that order in your shop, as its customer can. Done?")

    def leave(self, page: Page) -> None:
        pass


class Dukkan:
    """A Dukkan, or a fork of it: orders are placed by its own forms."""

    def __init__(self, url: str) -> None:
        """`url` is the shop's origin."""
        self._url = url
        self._browser = requests.Session()
        self._browser.trust_env = False
        self._browser.headers["Origin"] = url

    def place(self) -> Page:
        form = self._checkout_form()
        if "checkout_key" not in form:  # a cancelled order has brought its basket back; otherwise there is none
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
            raise ShopError(f"the checkout was answered with HTTP {answer.status_code}")
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
        raise ShopError("nothing is in stock: fill the shop up, or give it a fresh sample shop")

    def _post(self, path: str, form: dict[str, str]) -> requests.Response:
        try:
            return self._browser.post(f"{self._url}{path}", data=form, timeout=SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise ShopError(f"{path} gave no answer ({type(error).__name__})") from error


def _get(browser: requests.Session, url: str) -> Page:
    try:
        answer = browser.get(url, timeout=SECONDS)
    except requests.RequestException as error:
        raise ShopError(f"{url} gave no answer ({type(error).__name__})") from error
    return Page(answer.url, answer.status_code, unescape(answer.text))


def _fields(page: str) -> dict[str, str]:
    """Return the hidden fields of a page's forms by name, and the page itself as `#page`."""
    fields = {"#page": page}
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and value and 'type="hidden"' in tag:
            fields.setdefault(name[1], value[1])
    return fields
