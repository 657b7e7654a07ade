"""Two shops and two sandboxes on one machine, used from the same browser."""

import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import requests

from sandbox.conformance.shops import Dukkan
from tests.children import Start, free_port, start_demo

pytestmark = pytest.mark.slow


def query(database: Path, statement: str) -> list[tuple[object, ...]]:
    """Query the database of a running program."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def test_each_has_its_own_basket_orders_invoices_and_callbacks(tmp_path: Path, start: Start) -> None:
    folders, port = [tmp_path / "one", tmp_path / "two"], free_port()
    demos = [start_demo(start, folder, port) for folder in folders]  # the second one takes what ports are left
    shops = [Dukkan(shop) for _, shop, _ in demos]
    jar = shops[0]._browser.cookies  # like a browser, which sends a host's cookies to all of its ports
    shops[1]._browser.cookies = jar
    units = [1, 2]
    for shop, pieces in zip(shops, units, strict=True):  # both baskets are filled before either is bought
        for _ in range(pieces):
            shop._fill_basket()
    pages = [shop.place() for shop in shops]
    for shop, page, folder, pieces in zip(shops, pages, folders, units, strict=True):
        assert shop._browser.cookies is jar
        bought = query(folder / "shop.db", "SELECT sum(quantity) FROM order_line WHERE product_id IS NOT NULL")
        assert bought == [(pieces,)]
        link = re.search(r'href="(http://[^"]+/en/invoice/[0-9a-f]{24})"', page.text)
        assert link
        assert requests.post(f"{link[1]}/payment", timeout=10).ok
        for _ in range(100):
            if shop.is_paid(page):
                break
            time.sleep(0.1)
        assert shop.is_paid(page)
    for folder in folders:
        assert query(folder / "shop.db", "SELECT state FROM orders") == [("paid",)]
        assert query(folder / "shop.db", "SELECT outcome FROM callback_attempt") == [("accepted",)]
        assert query(folder / "sandbox.db", "SELECT count(*) FROM invoices") == [(1,)]
    for stage, _, _ in demos:
        stage.send_signal(signal.SIGTERM)
    assert [stage.wait(30) for stage, _, _ in demos] == [0, 0]
