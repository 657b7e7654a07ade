"""CSV: orders exported for the accountant, products imported from a spreadsheet."""

import csv
import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from io import StringIO
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, defer, joinedload, selectinload

from models import Category, Invoice, LocalizedText, Order, Payment, Product, Refund, StockMovement
from shop.catalogue import picture, searchable
from shop.config import settings
from shop.db import db, write
from shop.money import to_decimal, to_minor
from shop.states import LineKind, StockReason
from shop.text import plain, several_lines, visible

BOM = "\ufeff"
"""Begins a file for spreadsheets: without it, Excel doesn't read UTF-8."""
CHUNK = 500

# --- Export of orders ------------------------------------------------------------------------------------------------

HEADINGS = (
    *("order", "state", "placed_at", "paid_at", "paid_late"),
    *("goods", "delivery_charge", "total", "tax", "paid", "refunded", "currency"),
    *("items", "delivery", "delivery_state", "tracking", "invoice_id"),
    *("name", "email", "phone", "address", "city", "region", "postcode", "country", "note"),
)
# What a spreadsheet takes for a formula, after characters that it may skip; and what could end the cell.
_RISKY = re.compile(r"[\s\x00-\x1f\u200b-\u200f\u202a-\u202e\ufeff]*[=+\-@＝＋－＠]|\s*[\t\r\n]")


def export_orders(orders: Select[Order]) -> Iterator[str]:
    """Yield orders as lines of CSV: headings, then the oldest order first.

    Amounts are decimals with the currency beside them, times ISO 8601 in UTC. Tokens and keys are not exported.

    Args:
        orders: which, unsorted: see `shop.order_lists.OrderList.select`.
    """
    yield _line(HEADINGS)
    paid = select(func.sum(Payment.amount)).where(Payment.order_id == Order.id).scalar_subquery()
    refunds = select(func.sum(Refund.amount)).join(Payment, Payment.id == Refund.payment_id)
    refunded = refunds.where(Payment.order_id == Order.id).scalar_subquery()
    # State and money in one statement, as of the same moment. Lines never change.
    wanted: Select[Any] = orders.add_columns(func.coalesce(paid, 0), func.coalesce(refunded, 0))
    together = (joinedload(Order.invoice).options(defer(Invoice.qr)), joinedload(Order.delivery))
    wanted = wanted.options(*together, selectinload(Order.lines)).order_by(Order.id).limit(CHUNK)
    found, last = None, 0
    while found is None or len(found) == CHUNK:
        with Session(db.engine) as session:  # a chunk each: a long read would keep SQLite's log from being cleared
            found = session.execute(wanted.where(Order.id > last)).all()
        for order, received, sent_back in found:
            yield _line(map(harmless, _cells(order, received, sent_back)))
            last = order.id


def harmless(cell: str) -> str:
    """Escape a cell that a spreadsheet would run as a formula, with an apostrophe before it."""
    return f"'{cell}" if _RISKY.match(cell) else cell


def _cells(order: Order, paid: int, refunded: int) -> list[str]:
    language = settings.shop_locales[0]
    items = [line for line in order.lines if line.kind is not LineKind.DELIVERY]
    way = [line for line in order.lines if line.kind is LineKind.DELIVERY]
    sums = sum(line.amount for line in items), sum(line.amount for line in way), order.total, order.tax, paid, refunded
    sent = order.delivery
    contact = (order.name, order.email, order.phone, order.address, order.city, order.region, order.postcode)
    return [
        *(order.number, order.state.value, _iso(order.placed_at), _iso(order.paid_at)),
        "yes" if order.paid_late else "no",
        *(f"{to_decimal(minor, order.currency):f}" for minor in sums),
        order.currency,
        "; ".join(f"{line.quantity} × {_text(line.name, language)}" for line in items),
        "; ".join(_text(line.name, language) for line in way),
        *((sent.state.value, sent.tracking) if sent else ("", "")),
        order.invoice.gateway_id if order.invoice else "",
        *(*contact, order.country, order.note),
    ]


def _text(texts: LocalizedText, language: str) -> str:
    return texts.get(language) or next(iter(texts.values()), "")


def _iso(at: datetime | None) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}" if at else ""


def _line(cells: Iterable[str]) -> str:
    line = StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


# --- Import of products ----------------------------------------------------------------------------------------------

TEXTS = ("name", "subtitle", "description", "label")
"""Columns that exist once for each language: `name_en`, `name_ar`, …"""


class BadRows(Exception):
    """A file that can't be imported. Nothing was written; `args` are all its errors, in English, with their lines."""


def import_products(text: str) -> tuple[int, int]:
    """Create and update products from CSV, by slug: all rows, or none.

    Columns: `slug`, `category` (its slug), `price` (`12.50`), `stock` (units for sale from now on; the difference goes
    into the ledger as intake, so importing a file twice changes nothing), `image` (a path in `static/`), `active` (yes
    or no), `name_en` and so on (see `TEXTS`), and `category_en` and so on for the name of a new category. A new product
    needs category, price, image, and a name in the shop's first language. Otherwise an empty or missing cell leaves the
    value unchanged.

    Returns:
        The numbers of products created and updated.

    Raises:
        BadRows: with all errors.
    """
    rows = _read(text)
    faults: list[str] = []
    stock: list[tuple[Product, int]] = []
    seen: set[str] = set()
    with write() as session:
        categories = {one.slug: one for one in session.scalars(select(Category))}
        known = _lock_products(session, [cells["slug"] for _, cells in rows])
        position = session.scalar(select(func.max(Product.position))) or 0
        for line, cells in rows:
            product = known.get(cells["slug"])
            values, wrong = _values(cells, categories, new=product is None)
            wrong += ["slug: an earlier line has the same"] if cells["slug"] in seen else []
            seen.add(cells["slug"])
            faults += [f"line {line}: {one}" for one in wrong]
            if faults:
                continue  # after an error, rows are only checked
            if product is None:
                position += 1
                product = Product(stock=0, position=position, subtitle={}, description={})
                session.add(product)
            stock.append((product, values.pop("stock", product.stock)))
            for name, value in values.items():
                setattr(product, name, (getattr(product, name) or {}) | value if name in TEXTS else value)
            product.search = searchable(product.name, product.subtitle, product.description, product.category.name)
        if faults:
            raise BadRows(*faults)
        session.flush()
        for product, units in stock:
            if units != product.stock:
                booked = StockMovement(product_id=product.id, quantity=units - product.stock, reason=StockReason.INTAKE)
                session.add(booked)
                product.stock = units
    return len(rows) - len(known), len(known)


def _read(text: str) -> list[tuple[int, dict[str, str]]]:
    """Return the rows that aren't empty: the line of each, and its cells by column; surplus cells under ""."""
    languages = settings.shop_locales
    columns = ["slug", "category", "price", "stock", "image", "active"]
    columns += [f"{name}_{language}" for name in (*TEXTS, "category") for language in languages]
    text = text.removeprefix(BOM)
    if "\0" in text:
        raise BadRows("this isn't a CSV file")
    # With a decimal comma, spreadsheets separate the cells by semicolons.
    separator = ";" if ";" in text.partition("\n")[0] else ","
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        names = list(map(plain, next(reader, [])))
        if "slug" not in names or len(set(names)) < len(names) or not set(names) <= set(columns):
            raise BadRows(_heading_error(names, columns))
        line = reader.line_num + 1
        for row in reader:
            cells = dict.fromkeys(columns, "") | {
                name: _clean(name, cell) for name, cell in zip(names, row, strict=False)
            }
            cells[""] = visible("".join(row[len(names) :]))
            if separator == ";" and re.fullmatch(r"\d+,\d+", cells["price"]):
                cells["price"] = cells["price"].replace(",", ".")
            if any(cells.values()):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadRows(f"line {reader.line_num}: {error}") from None
    return rows


def _heading_error(names: list[str], columns: list[str]) -> str:
    said = f"line 1: name the columns here, each once, and slug among them. Columns are {', '.join(columns)}"
    for name in dict.fromkeys(names):
        if name not in columns:
            near = difflib.get_close_matches(name.lower().replace(" ", "_"), columns, 1)
            said += f". {name!r} is none" + (f"; did you mean {near[0]}?" if near else "")
    return said


def _clean(column: str, cell: str) -> str:
    return several_lines(cell) if column.startswith((*TEXTS, "category_")) else plain(cell)


def _lock_products(session: Session, slugs: list[str]) -> dict[str, Product]:
    """Return existing products by slug, locked in id order."""
    ids: list[int] = []
    for start in range(0, len(slugs), CHUNK):
        ids += session.scalars(select(Product.id).where(Product.slug.in_(slugs[start : start + CHUNK])))
    ids.sort()
    found: dict[str, Product] = {}
    for start in range(0, len(ids), CHUNK):
        chunk = select(Product).where(Product.id.in_(ids[start : start + CHUNK])).order_by(Product.id)
        chunk = chunk.options(joinedload(Product.category, innerjoin=True)).with_for_update(of=Product, key_share=True)
        found |= {one.slug: one for one in session.scalars(chunk)}
    return found


def _values(cells: dict[str, str], categories: dict[str, Category], *, new: bool) -> tuple[dict[str, Any], list[str]]:
    """Return a row's values as a product has them, and the errors of the row."""
    languages = settings.shop_locales

    def texts(name: str) -> LocalizedText:
        return {language: cells[f"{name}_{language}"] for language in languages if cells[f"{name}_{language}"]}

    def category(slug: str) -> Category:
        if slug not in categories and texts("category"):
            categories[slug] = Category(slug=_slug(slug), name=texts("category"), position=len(categories))
        if slug not in categories:
            known = ", ".join(categories) or "none yet"
            raise ValueError(f"categories are {known}; a new one needs its name in category_{languages[0]}")
        return categories[slug]

    readers: dict[str, Callable[[str], Any]] = {
        "slug": _slug,
        "category": category,
        "price": _price,
        "stock": _units,
        "image": picture,
        "active": _yes_or_no,
    }
    values: dict[str, Any] = {name: texts(name) for name in TEXTS if texts(name)}
    needed = {"slug", "category", "price", "image", f"name_{languages[0]}"} if new else {"slug"}
    wrong = [f"{column}: it is missing, and the product is new" for column in needed if not cells[column]]
    wrong += ["there are more cells than columns"] if cells[""] else []
    for column, read in readers.items():
        try:
            if cells[column]:
                values[column] = read(cells[column])
        except ValueError as error:
            wrong.append(f"{column}: {error}")
    return values, sorted(wrong)


def _slug(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text) or len(text) > 80:
        raise ValueError("write lower-case letters, digits and single hyphens, such as brass-dallah")
    return text


def _price(text: str) -> int:
    if not (minor := to_minor(text, settings.shop_currency)):
        raise ValueError("write a price above 0")
    return minor


def _units(text: str) -> int:
    if not text.isdecimal() or len(text) > 7:
        raise ValueError("write a whole number from 0 to 9999999")
    return int(text)


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("write yes or no")
    return text == "yes"
