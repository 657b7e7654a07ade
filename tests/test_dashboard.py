"""The merchant's pages: who sees them, lists of orders and their filters, an order with its timeline."""

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import amwal
from models import Delivery, GatewayCall, Order, OutboxMessage, Payment, Shop, Staff, now
from shop import orders, payments, privacy, refunds, reports, timeline, worker
from shop.attention import flag
from shop.db import db, write
from shop.order_lists import OrderList, Stage
from shop.states import CUSTOMER, TRANSITIONS, Actor, AttentionKind, By, DeliveryState, OrderState, OutboxKind
from tests.conftest import CheckingClient, OrderFactory, rows, set_stock, sign_in
from tests.pages import Page, heading
from tests.test_worker import let_time_pass, mails

SIGNED_OUT = {
    *("/dashboard/sign-in", "/dashboard/sign-out", "/dashboard/forgotten", "/dashboard/new-password/<token>"),
}
"""What of the dashboard answers without a session. Signing out without one does nothing."""


def paths(app: Flask) -> Iterator[tuple[str, str]]:
    """Every address of the dashboard, with each of its methods."""
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/dashboard/") and rule.rule not in SIGNED_OUT:
            path = re.sub("<int[^>]*>", "1", rule.rule.replace("<number>", "A-1001"))
            assert "<" not in path, path
            yield from ((path, method) for method in sorted((rule.methods or set()) & {"GET", "POST"}))


def press(client: CheckingClient, path: str, page: str, **fields: str) -> Any:
    """Press a button of a page."""
    return client.post(path, data=fields | {"csrf_token": client.csrf_token(page)})


def numbers(page: str, section: str = "list") -> list[str]:
    """The numbers of the orders in a section of the page."""
    part = page.partition(f'aria-labelledby="{section}"')[2].partition("</section>")[0]
    return re.findall(r'href="/dashboard/orders/(A-\d+)"', part)


# --- Who sees them ---------------------------------------------------------------------------------------------------


def test_signed_out_every_page_and_every_form_refuses(app: Flask, client: CheckingClient, order: OrderFactory) -> None:
    waiting = order.awaiting()
    checked = 0
    for path, method in paths(app):
        token = {"csrf_token": client.csrf_token("/dashboard/sign-in")}
        answer = client.open(path, method=method, data=token if method == "POST" else None)
        assert answer.status_code == 303, (path, method)
        assert answer.headers["Location"].startswith("/dashboard/sign-in"), (path, method)
        assert "sara@example.com" not in answer.text
        checked += 1
    assert checked >= 10
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT


def test_pages_are_kept_by_no_cache_and_in_no_index(app: Flask, desk: CheckingClient, order: OrderFactory) -> None:
    order.awaiting()
    for path in ["/dashboard/sign-in", *(path for path, method in paths(app) if method == "GET")]:
        answer = desk.get(path)
        assert answer.headers["Cache-Control"] == "no-store", path
        assert answer.headers["X-Robots-Tag"] == "noindex", path


def test_the_dashboard_begins_with_today(desk: CheckingClient) -> None:
    assert desk.get("/dashboard").headers["Location"].endswith("/dashboard/")
    assert heading(desk.get("/dashboard/").text) == "Today"
    page = desk.get("/dashboard/orders").text
    assert "No order yet. The first one appears here as soon as it is placed." in page


def test_row_16_without_a_database_a_page_says_so_in_plain_words(
    app: Flask, desk: CheckingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment at which somebody was found to be signed in."""

    def fail(*_: Any) -> None:
        raise OperationalError("SELECT", {}, Exception("the server is gone"))

    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    monkeypatch.setattr("shop.views.dashboard.attention.count_open", fail)
    missing = "/dashboard/orders/A-9999"  # an error page that fails itself
    for path in ("/dashboard/", "/dashboard/orders", "/dashboard/account", missing):
        answer = desk.get(path)
        assert answer.status_code == (500 if path == missing else 503), path
        assert "the server is gone" not in answer.text
        assert "Traceback" not in answer.text


# --- Today -----------------------------------------------------------------------------------------------------------


def figures(page: str) -> dict[str, str]:
    """The figures of the first page, by the addresses that they lead to."""
    found = re.findall(r'<a href="([^"]*)"><strong>(?:<bdi dir="ltr">)?([^<]*)', page)
    found += re.findall(r'<dt><a href="([^"]*)">[^<]*</a></dt>\s*<dd><bdi [^>]*>([^<]*)', page)
    return {address.replace("&amp;", "&"): figure for address, figure in found}


def test_each_figure_leads_to_exactly_its_rows(
    desk: CheckingClient, order: OrderFactory, every_stage: dict[str, Order], staff: int
) -> None:
    refunds.record(every_stage["refunded"].payments[0].id, 1250, "", "by hand", staff)
    long_ago = order.awaiting()
    order.pay(long_ago)
    with write() as session:
        at = now() - timedelta(days=10)
        session.execute(update(Payment).filter_by(order_id=long_ago.id).values(received_at=at))
    shown = figures(desk.get("/dashboard/").text)
    counts = {address: figure for address, figure in shown.items() if "stage=" in address}
    assert len(counts) == 3
    for address, figure in counts.items():
        assert len(numbers(desk.get(address).text)) == int(figure), address
    assert shown["/dashboard/attention"] == "1"
    today = reports.today()
    takings = [(1, "$37.50", 4), (7, "$37.50", 4), (30, "$50.00", 5)]  # of 12.50 each, and one sent back
    for days, sum_, orders_ in takings:
        address = f"/dashboard/orders?paid-from={today - timedelta(days=days - 1)}"
        assert shown[address] == sum_
        assert len(numbers(desk.get(address).text)) == orders_


def test_what_runs_out_and_what_is_wrong_is_said(desk: CheckingClient, order: OrderFactory) -> None:
    page = desk.get("/dashboard/").text
    assert "The worker isn't running." in page
    assert "Open." in page
    set_stock("brass-dallah", 2)
    set_stock("stoneware-cup", 0)
    order.pay(order.awaiting("finjan-set"))
    worker.tick()
    page = desk.get("/dashboard/").text
    part = page.partition('id="stock"')[2].partition("</section>")[0]
    assert part.index("Stoneware Cup") < part.index("Brass Dallah")
    assert "The worker is running." in page
    assert "received after" in page
    with write() as session:
        for _ in range(3):
            session.add(GatewayCall(started_at=now(), milliseconds=1, outcome="KeyRejected"))
    assert "Closed: Amwal rejects the API key." in desk.get("/dashboard/").text


# --- Closing the checkout --------------------------------------------------------------------------------------------


def test_the_merchant_closes_the_checkout_and_opens_it_again(
    desk: CheckingClient, order: OrderFactory, client: CheckingClient
) -> None:
    waiting, page = order.awaiting(), "/dashboard/settings"
    assert press(desk, f"{page}/closed", page, why=" \u200b").status_code == 422
    assert press(desk, f"{page}/closed", page, why="Back on <b>Monday</b>.").status_code == 303
    client.fill_basket()
    closed = client.get("/checkout")
    assert closed.status_code == 503
    assert "Back on &lt;b&gt;Monday&lt;/b&gt;." in closed.text
    assert "Back on &lt;b&gt;Monday&lt;/b&gt;." in client.get("/basket").text
    assert 'href="/checkout"' not in client.get("/basket").text
    assert "You have closed the checkout." in desk.get("/dashboard/orders").text
    assert order.pay(waiting) == "accepted", "whoever has an order can still pay it"
    assert press(desk, f"{page}/open", page).status_code == 303
    assert client.get("/checkout").status_code == 200
    assert "You have closed the checkout." not in desk.get("/dashboard/orders").text


def test_row_24_staff_open_the_checkout_that_a_rejected_key_has_closed(desk: CheckingClient, staff: int) -> None:
    with write() as session:
        for _ in range(3):
            session.add(GatewayCall(started_at=now(), milliseconds=1, outcome="KeyRejected"))
    assert "The checkout is closed: Amwal rejects the API key." in desk.get("/dashboard/orders").text
    page = "/dashboard/settings"
    assert press(desk, f"{page}/open", page).status_code == 303
    assert rows(GatewayCall)[-1].detail == f"by staff:{staff}"
    assert "The checkout is closed" not in desk.get("/dashboard/orders").text


def test_what_is_not_there_is_said_within_the_dashboard(desk: CheckingClient) -> None:
    for number in ("A-9999", "A-1000", "9999", "x", "A-99999999999999999999"):
        missing = desk.get(f"/dashboard/orders/{number}")
        assert missing.status_code == 404
        assert 'href="/dashboard/staff"' in missing.text, "with its navigation"


# --- Lists of orders -------------------------------------------------------------------------------------------------


@pytest.fixture
def every_stage(order: OrderFactory) -> dict[str, Order]:
    """An order in each stage."""
    made = {name: order.awaiting() for name in ("to-hand-over", "on-its-way", "cancelled", "review", "refunded")}
    made["unpaid"], made["placed"], made["expired"] = order.awaiting(), order.placed(), order.expired()
    for name in ("cancelled", "review"):
        orders.cancel(made[name].id, CUSTOMER)
    for name in ("to-hand-over", "on-its-way", "review", "refunded"):
        order.pay(made[name])
    with write() as session:
        session.execute(update(Delivery).filter_by(order_id=made["on-its-way"].id).values(state=DeliveryState.SHIPPED))
    return made


def refund(order: Order, staff: int) -> None:
    """Mark an order refunded."""
    with write() as session:
        by = By(Actor.STAFF, staff)
        orders.transition(session, orders.lock(session, order.id), OrderState.REFUNDED, by)


def test_each_stage_lists_its_orders(desk: CheckingClient, every_stage: dict[str, Order], staff: int) -> None:
    refund(every_stage["refunded"], staff)
    listed = {stage: numbers(desk.get(f"/dashboard/orders?stage={stage.value}").text) for stage in Stage}
    expected = {stage: [every_stage[stage.value].number] for stage in Stage if stage is not Stage.UNPAID}
    unpaid = [every_stage["placed"].number, every_stage["unpaid"].number]
    assert listed == expected | {Stage.UNPAID: unpaid}
    assert [OrderList(stage=stage).count() for stage in Stage] == [1, 1, 1, 2, 1, 1, 1]
    assert len(numbers(desk.get("/dashboard/orders").text)) == len(every_stage)


def test_what_waits_for_staff_stands_above_the_list_the_oldest_first(
    desk: CheckingClient, order: OrderFactory, every_stage: dict[str, Order]
) -> None:
    later = order.awaiting()
    order.pay(later)
    page = desk.get("/dashboard/orders").text
    assert numbers(page, "review") == [every_stage["review"].number]
    waiting = [every_stage[name].number for name in ("to-hand-over", "refunded")]
    assert numbers(page, "to-hand-over") == [*waiting, later.number]
    assert page.index('id="review"') < page.index('id="to-hand-over"') < page.index('id="list"')
    assert 'id="to-hand-over"' not in desk.get("/dashboard/orders?stage=unpaid").text


@pytest.mark.parametrize(
    "query",
    [
        "{number}",
        "a-{id}",
        " {number} ",
        "{id}",
        "{invoice}",
        "Sara Had",
        "sara",
        "SARA",
        "sara@exa",
        "sara@example.com",
    ],
)
def test_an_order_is_found_by_number_invoice_name_and_address(
    desk: CheckingClient, order: OrderFactory, query: str
) -> None:
    wanted = order.awaiting()
    order.awaiting(name="Nobody Else", email="nobody@example.com")
    text = query.format(number=wanted.number, id=wanted.number[2:], invoice=wanted.invoice.gateway_id.upper())
    assert numbers(desk.get("/dashboard/orders", query_string={"q": text}).text) == [wanted.number]


@pytest.mark.parametrize("query", ["احمد", "أَحمَد", "أحمد الق"])
def test_an_arabic_name_is_found_however_it_is_written(desk: CheckingClient, order: OrderFactory, query: str) -> None:
    wanted = order.placed(name="أحمد القحطاني")
    order.placed()
    assert numbers(desk.get("/dashboard/orders", query_string={"q": query}).text) == [wanted.number]


@pytest.mark.parametrize("query", ["%", "_", "ara", "A-9", "'", "0" * 30, "9" * 9, "A-0001"])
def test_what_is_not_there_is_not_found(desk: CheckingClient, order: OrderFactory, query: str) -> None:
    order.placed()
    page = desk.get("/dashboard/orders", query_string={"q": query}).text
    assert "No order matches. Remove a filter to see more." in page


def test_filters_are_chips_that_can_be_taken_away(desk: CheckingClient, order: OrderFactory) -> None:
    order.placed()
    address = "/dashboard/orders?q=sara&stage=unpaid&from=2020-01-01&to=2999-12-31"
    page = desk.get(address).text
    chips = page.partition('class="chips"')[2].partition("</ul>")[0]
    assert re.findall(r"<bdi>(.*?)</bdi>", chips) == [
        *("sara", "Waiting for payment", "from 1 Jan 2020", "until 31 Dec 2999"),
    ]
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]*)"', chips)]
    assert links[1] == "/dashboard/orders?q=sara&from=2020-01-01&to=2999-12-31"
    assert len({*links}) == 4
    for link in links:
        assert desk.get(link).text.partition('class="chips"')[2].partition("</ul>")[0].count("<bdi>") == 3


@pytest.mark.parametrize("args", ["stage=nonsense", "from=yesterday&to=2026-13-01", "after=x", "after=1.2.3", "q=%20"])
def test_a_filter_that_cannot_be_read_is_left_out(desk: CheckingClient, order: OrderFactory, args: str) -> None:
    waiting = order.placed()
    assert numbers(desk.get(f"/dashboard/orders?{args}").text) == [waiting.number]


@pytest.mark.parametrize("zone", ["Asia/Riyadh", "America/New_York"])
def test_days_are_the_shops_own(new_app: Any, order: OrderFactory, zone: str) -> None:
    placed = order.placed()
    with write() as session:
        at = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)  # in Riyadh the second of March, in New York the first
        session.get_one(Order, placed.id).placed_at = at
    day = date(2026, 3, 2) if zone == "Asia/Riyadh" else date(2026, 3, 1)
    one = timedelta(days=1)
    with new_app(SHOP_TIMEZONE=zone).app_context():
        found = [OrderList(since=a, until=b).count_all() for a, b in ((day, day), (day + one, None), (None, day - one))]
        assert found == [1, 0, 0]
        assert [one.id for one in OrderList(since=day, until=day).page().rows] == [placed.id]


@pytest.mark.parametrize("args", ["", "stage=to-hand-over", "stage=unpaid", "q=sara", "from=2020-01-01"])
def test_pages_continue_exactly(desk: CheckingClient, order: OrderFactory, args: str) -> None:
    set_stock("stoneware-cup", 100)
    made = [order.awaiting() for _ in range(7)]
    if args == "stage=to-hand-over":
        for one in made:
            order.pay(one)
    wanted = OrderList.from_args(dict([args.split("=")]) if args else {})
    seen, after = [], ""
    for _ in range(4):
        page = wanted.page(after, size=2)
        seen += [one.id for one in page.rows]
        after = page.next_after or ""
    assert after == ""
    ids = [one.id for one in made]
    assert seen == (ids if args == "stage=to-hand-over" else ids[::-1])


def test_a_long_list_has_a_next_page(desk: CheckingClient, order: OrderFactory) -> None:
    set_stock("stoneware-cup", 100)
    made = [order.placed().number for _ in range(27)]
    first = desk.get("/dashboard/orders?q=sara").text
    assert numbers(first) == made[:1:-1]
    [link] = re.findall(r'href="(/dashboard/orders\?[^"]*after=[^"]*)"', first)
    second = desk.get(link.replace("&amp;", "&")).text
    assert numbers(second) == made[1::-1]
    assert "Next page" not in second


def test_a_count_stops_at_a_thousand(
    desk: CheckingClient, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        order.pay(order.awaiting())
    assert re.search(r'class="count"><bdi dir="ltr">3</bdi>', desk.get("/dashboard/orders").text)
    monkeypatch.setattr("shop.order_lists.MOST_COUNTED", 2)
    monkeypatch.setattr("shop.views.dashboard.orders.MOST_COUNTED", 2)
    assert re.search(r'class="count"><bdi dir="ltr">2\+</bdi>', desk.get("/dashboard/orders").text)


LISTS = [
    *(OrderList(stage=stage) for stage in Stage),
    *(
        OrderList(query=query)
        for query in ("A-1001", "sara", "sara@", "65448ddef4924a5dd1b241a9", "an-id-of-another-form")
    ),
    OrderList(),
    OrderList(since=date(2020, 1, 1)),
    OrderList(since=date(2020, 1, 1), until=date(2999, 1, 1)),
    OrderList("sara", Stage.UNPAID),
    OrderList(paid_since=date(2020, 1, 1)),
]


@pytest.mark.parametrize("wanted", LISTS, ids=lambda wanted: "&".join(wanted.args.values()) or "all")
def test_every_list_uses_an_index(app: Flask, order: OrderFactory, wanted: OrderList) -> None:
    """With few rows PostgreSQL would read all of a table, so it is told not to where it can."""
    order.awaiting()
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(db.engine, "before_cursor_execute", note)
    wanted.page("1.1" if len(wanted.args) else "1")
    wanted.count()
    event.remove(db.engine, "before_cursor_execute", note)
    lists = [one for one in statements if "FROM orders" in one[0]]
    assert len(lists) == 2
    with db.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))
        for statement, parameters in lists:
            plan = explain(connection, statement, parameters)
            if "LIMIT" in statement and not wanted.args:
                continue  # all orders are read along their primary key, a page of them
            assert not re.search(r"SCAN orders(?! USING)|Seq Scan on orders|SCAN delivery(?! USING)", plan), plan


def explain(connection: Any, statement: str, parameters: Any) -> str:
    """How the database would answer a statement."""
    word = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{word} {statement}", parameters))


# --- For a spreadsheet -----------------------------------------------------------------------------------------------


def test_the_list_can_be_downloaded_with_its_filters(
    desk: CheckingClient, order: OrderFactory, every_stage: dict[str, Order]
) -> None:
    order.placed(name="=cmd()", email="evil@example.com")
    answer = desk.get("/dashboard/orders/export.csv?stage=unpaid")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == "attachment; filename=orders.csv"
    assert answer.data.startswith("\ufeff".encode())
    lines = list(csv.DictReader(io.StringIO(answer.data.decode("utf-8-sig"))))
    assert [one["order"] for one in lines[:2]] == [every_stage["unpaid"].number, every_stage["placed"].number]
    assert lines[2]["name"] == "'=cmd()"
    every = list(csv.DictReader(io.StringIO(desk.get("/dashboard/orders/export.csv").data.decode("utf-8-sig"))))
    assert len(every) == len(every_stage) + 1
    for one in rows(Order):
        assert one.token not in answer.text
        assert one.key not in answer.text


def test_a_download_begins_before_all_of_it_was_read(
    desk: CheckingClient, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a million orders, no more than a piece is in memory."""
    monkeypatch.setattr("shop.spreadsheets.CHUNK", 1)
    for _ in range(3):
        order.placed()
    read: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *args: read.append(args[2]))
    answer = desk.get("/dashboard/orders/export.csv", buffered=False)
    lines = iter(answer.response)
    assert [next(lines), next(lines)[:6]] == ["\ufeff".encode(), b"order,"]
    assert not [one for one in read if "FROM orders" in one]
    assert sum(1 for _ in lines) == 3
    answer.close()


# --- An order --------------------------------------------------------------------------------------------------------


def open_order(desk: CheckingClient, order: Order) -> str:
    """The page of an order."""
    answer = desk.get(f"/dashboard/orders/{order.number}")
    assert answer.status_code == 200
    return answer.text


def test_an_order_shows_what_handing_it_over_takes(desk: CheckingClient, order: OrderFactory) -> None:
    made = order.awaiting("brass-dallah", 2, phone="00966 (50) 123-4567 ext. 12", note="Ring twice.\nThen wait.")
    order.pay(made)
    assert "The customer collects it." in open_order(desk, made)
    with write() as session:
        session.get_one(Order, made.id).is_collected = False
    page = open_order(desk, made)
    assert heading(page) == f"Order {made.number}"
    for text_ in ("Brass Dallah", "× 2", "$128.00", "12 Olive Street", "Sara Haddad", "Ring twice.\nThen wait."):
        assert text_ in page
    links = [link["href"] for link in Page(page).all("a")]
    assert f"mailto:sara@example.com?subject=Your%20order%20{made.number}" in links
    assert "tel:+966501234567" in links
    assert "https://wa.me/966501234567" in links
    assert made.invoice.gateway_id in page
    assert "6545360496c8b48eeab3837e" in page, "the payment session, by which Amwal finds the payment"


@pytest.mark.parametrize(("phone", "dialled"), [("050 123 4567", "0501234567"), ("٠٥٠١٢٣٤٥٦٧", "0501234567")])
def test_a_number_without_its_country_is_dialled_but_not_written_to(
    desk: CheckingClient, order: OrderFactory, phone: str, dialled: str
) -> None:
    page = open_order(desk, order.placed(phone=phone))
    assert f'href="tel:{dialled}"' in page
    assert "wa.me" not in page


def test_an_order_without_contact_data_says_so(desk: CheckingClient, order: OrderFactory) -> None:
    made = order.awaiting()
    orders.cancel(made.id, CUSTOMER)
    privacy.forget("sara@example.com")
    page = open_order(desk, made)
    assert "There are no contact data: none were given, or they were erased." in page
    assert "mailto:" not in page


def told(order: Order) -> list[tuple[str, str, str]]:
    """Who, what and details of an order's timeline."""
    return [(str(act.who), str(act.what), act.detail) for act in timeline.of(order)]


def test_the_timeline_tells_a_sale_from_the_order_to_the_mails(app: Flask, order: OrderFactory, desk: Any) -> None:
    made = order.awaiting()
    order.pay(made)
    order.pay(made)
    order.pay(made, invoiceId="another")
    worker.tick()
    acts = told(order.again(made))
    assert [what for _, what, _ in acts if "E-mail" not in what and "ms" not in what] == [
        "Order placed, goods reserved",
        "Payment page and QR code shown",
        "Callback answered 200: Payment stored",
        "Paid",
        "Callback answered 200: Repetition, stored already",
        "Callback answered 409: Names another invoice",
        "Needs attention: A callback's invoice doesn't match its secret",
    ]
    assert acts[0][0] == "Customer"
    assert re.fullmatch(r"Invoice asked for, and received after \d+ ms", acts[1][1])
    assert ("Amwal", "Callback answered 409: Names another invoice", "the secret belongs to another invoice") in acts
    sent = [what for who, what, _ in acts if what.startswith("E-mail sent") and who == "Shop"]
    assert len(sent) == 3, "pay here, receipt, and the merchant's own"
    page = open_order(desk, made)
    assert [what in page.replace("&#39;", "'").replace("&#34;", '"') for _, what, _ in acts] == [True] * len(acts)


def test_the_timeline_tells_what_went_wrong(app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    made = order.placed()
    with write() as session:
        flag(session, AttentionKind.POSSIBLY_PAID, made.number, "seen by nobody", made.id)
        session.execute(text("UPDATE attention SET closed_at = :at, resolution = 'was nothing'"), {"at": now()})
    with monkeypatch.context() as broken:
        broken.setattr("amwal.Client.create_invoice", _no_gateway)
        payments.request_invoice(made.id)
    order.run_out(made)
    orders.expire(made.id)
    acts = told(order.again(made))
    assert ("Shop", "Invoice asked for, without success", "nobody answers") in acts
    assert ("Shop", "Reservation expired, goods returned to stock", "") in acts
    assert any(what.startswith("Settled: Possibly paid") and detail == "was nothing" for _, what, detail in acts)


def _no_gateway(*_: Any, **__: Any) -> None:
    raise amwal.Unavailable("nobody answers")


def test_staff_write_notes_that_customers_do_not_see(desk: CheckingClient, order: OrderFactory) -> None:
    made = order.awaiting()
    page = f"/dashboard/orders/{made.number}"
    assert press(desk, f"{page}/notes", page, text="<b>Called</b>\nshe comes on Monday").status_code == 303
    shown = open_order(desk, made)
    assert "&lt;b&gt;Called&lt;/b&gt;\nshe comes on Monday" in shown
    assert ("Omar", "Note", "<b>Called</b>\nshe comes on Monday") in told(order.again(made))
    assert "Monday" not in desk.get(f"{made.path}?key={made.key}", follow_redirects=True).text
    empty = press(desk, f"{page}/notes", page, text=" \u200b\n")
    assert empty.status_code == 422
    assert "Enter a note." in empty.text
    long = press(desk, f"{page}/notes", page, text="x" * 2001)
    assert long.status_code == 422
    assert "x" * 2001 in long.text, "what was typed is kept"


def test_staff_cancel_an_unpaid_order_and_the_history_says_who(desk: CheckingClient, order: OrderFactory) -> None:
    made = order.awaiting()
    page = f"/dashboard/orders/{made.number}"
    assert "Cancel this order" in desk.get(page).text
    assert press(desk, f"{page}/cancellation", page).status_code == 303
    assert order.again(made).state is OrderState.CANCELLED
    assert ("Omar", "Cancelled, goods returned to stock", "") in told(order.again(made))
    again = press(desk, f"{page}/cancellation", page)
    assert "This order can no longer be cancelled." in desk.follow(again).text


def test_no_button_is_offered_that_would_be_refused(
    desk: CheckingClient, order: OrderFactory, every_stage: dict[str, Order], staff: int
) -> None:
    refund(every_stage["refunded"], staff)
    seen = set()
    for made in every_stage.values():
        page = open_order(desk, made)
        state = order.again(made).state
        allowed = Actor.STAFF in TRANSITIONS[state].get(OrderState.CANCELLED, ())
        assert ("/cancellation" in page) == allowed, state
        seen.add(state)
    assert seen == set(OrderState)


# --- The merchant's e-mail -------------------------------------------------------------------------------------------


def test_the_merchant_gets_one_mail_for_a_paid_order(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    made = order.awaiting("brass-dallah", 2)
    for _ in range(3):
        order.pay(made)
    worker.tick()
    worker.tick()
    message = mails(tmp_path)[f"mail-paid-order-{made.id}.eml"]
    assert message["To"] == "merchant@example.com"
    assert message["Subject"] == f"Order {made.number} is paid: $128.00"
    body = message.get_content()
    assert "2 × Brass Dallah: $128.00\nPick up at the shop: Free\nTotal: $128.00\n\n" in body
    assert "The customer collects it." in body
    assert f"http://127.0.0.1:9/dashboard/orders/{made.number}\n" in body
    assert made.token not in body
    assert made.key not in body
    assert "sara" not in body.lower(), "whose order it is, the dashboard tells those who are signed in"


def test_it_is_queued_with_the_payment_or_not_at_all(app: Flask, order: OrderFactory) -> None:
    made = order.awaiting()

    def fail(session: Session, _context: Any, _instances: Any) -> None:
        if any(isinstance(one, Delivery) for one in session.new):
            raise ZeroDivisionError

    event.listen(Session, "before_flush", fail)
    try:
        with pytest.raises(ZeroDivisionError):
            order.pay(made)
    finally:
        event.remove(Session, "before_flush", fail)
    assert not rows(OutboxMessage, kind=OutboxKind.MAIL_PAID_ORDER)
    order.pay(made)
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_PAID_ORDER)) == 1


def test_the_merchant_turns_these_mails_off_and_on(
    desk: CheckingClient, order: OrderFactory, tmp_path: Path, app: Flask
) -> None:
    page = "/dashboard/settings"
    assert "merchant@example.com" in desk.get(page).text
    assert press(desk, page, page).status_code == 303
    assert not db.session.scalars(select(Shop.mails_paid_orders)).one()
    assert "checked" not in desk.get(page).text
    made = order.awaiting()
    order.pay(made)
    worker.tick()
    assert f"mail-receipt-{made.id}.eml" in mails(tmp_path)
    assert f"mail-paid-order-{made.id}.eml" not in mails(tmp_path)
    press(desk, page, page, mails_paid_orders="y")
    assert "checked" in desk.get(page).text
    order.pay(order.awaiting())
    worker.tick()
    assert len([name for name in mails(tmp_path) if name.startswith("mail-paid-order")]) == 1


def test_it_is_tried_again_also_for_an_order_without_an_address(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An order from a till has no address. Its receipt is nobody's, and the merchant's e-mail must still arrive."""
    made = order.awaiting(name="", email="")
    order.pay(made)
    with monkeypatch.context() as broken:
        broken.setattr("shop.mail.Path.write_bytes", _disk_full)
        worker.tick()
    [message] = rows(OutboxMessage, kind=OutboxKind.MAIL_PAID_ORDER)
    assert message.done_at is None
    let_time_pass()
    worker.tick()
    assert list(mails(tmp_path)) == [f"mail-paid-order-{made.id}.eml"]


def _disk_full(*_: Any) -> None:
    raise OSError("no space left on device")


def test_without_an_address_nothing_is_mailed_and_the_page_says_so(new_app: Any) -> None:
    app = new_app(MERCHANT_EMAIL="")
    with app.app_context():
        with write() as session:
            person = Staff(email="omar@example.com", name="Omar", password_hash="-")
            session.add(person)
        client = app.test_client()
        sign_in(app, client, person.id)
        assert "MERCHANT_EMAIL is not set" in client.get("/dashboard/settings").text
