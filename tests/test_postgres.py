"""PostgreSQL's own behaviour: row locks, lost connections, several processes on one database.

All other tests that have a shop run on PostgreSQL as well: see conftest.
"""

import email
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import requests
from aiosmtpd.controller import Controller
from flask import Flask
from sqlalchemy import Select, make_url, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from models import (
    Attention,
    Basket,
    BasketItem,
    Heartbeat,
    Order,
    OutboxMessage,
    Payment,
    Product,
    StockMovement,
    digest,
    now,
)
from shop import baskets, catalogue, orders, payments, spreadsheets, stock, worker
from shop.db import Base, db, engine, write
from shop.limits import UNLIMITED
from shop.ops import audit, doctor
from shop.outbox import enqueue
from shop.states import AttentionKind, OrderState, OutboxKind
from tests.children import Start, free_port, free_ports, wait_for
from tests.conftest import (
    CONTACT,
    CheckingClient,
    OrderFactory,
    attention,
    filled_form,
    rows,
    set_stock,
    settings_for,
    stock_of,
)
from tests.pages import heading
from tests.postgres import Server
from tests.test_callback import post
from tests.test_db import migrate_once_more
from tests.test_doctor import findings, one, report
from tests.test_worker import Mailbox

pytestmark = pytest.mark.postgres


def name_of(database_url: str) -> str:
    """The name of a database."""
    return str(make_url(database_url).database)


# --- How it is set up ------------------------------------------------------------------------------------------------


def shown(connection: Any, *names: str) -> list[str]:
    """Settings of a connection's session."""
    return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]


def test_the_writer_keeps_what_it_acknowledged_and_waits_for_nothing_for_long(app: Flask) -> None:
    limits = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    with engine().connect() as connection:
        assert shown(connection, *limits) == ["5s", "10s", "10s"]
        assert shown(connection, "transaction_isolation", "synchronous_commit") == ["read committed", "on"]
        assert shown(connection, "timezone") == ["UTC"]
    with db.engine.connect() as connection:
        assert shown(connection, "transaction_read_only", "timezone", "lock_timeout") == ["on", "UTC", "5s"]
        assert shown(connection, "transaction_isolation") == ["read committed"]  # all that a hot standby can


def test_options_in_the_address_are_kept(new_app: Callable[..., Flask], database_url: str) -> None:
    app = new_app(DATABASE_URL=f"{database_url}&options=-c%20work_mem%3D7MB")
    with app.app_context(), engine().connect() as connection:
        assert shown(connection, "work_mem", "lock_timeout") == ["7MB", "5s"]


def test_an_error_does_not_quote_the_row_that_was_refused(app: Flask, order: OrderFactory) -> None:
    placed = order.placed()
    with pytest.raises(IntegrityError) as caught, write() as session:
        session.get_one(Order, placed.id).total = -1
    said = "".join(traceback.format_exception(caught.value))
    assert "ck_orders_" in said
    assert "sara" not in said.lower()


def test_the_secret_is_in_no_row(client: CheckingClient, order: OrderFactory) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)
    assert post(client, message) == 200
    with engine().connect() as connection:
        names = [table.name for table in Base.metadata.sorted_tables]
        stored = [row for name in names for row in connection.scalars(text(f'SELECT "{name}"::text FROM "{name}"'))]
    assert not [row for row in stored if message["secret"] in row]
    assert [row for row in stored if digest(message["secret"]) in row]


# --- Locks -----------------------------------------------------------------------------------------------------------


@contextmanager
def locked(database_url: str, order: Order) -> Iterator[None]:
    """Somebody holds an order's row."""
    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM orders WHERE id = %s FOR UPDATE", [order.id])
        yield
        other.rollback()


def test_row_16_a_lock_held_too_long_is_a_503_that_writes_nothing_and_the_retry_pays(
    client: CheckingClient, order: OrderFactory, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shop.db.LOCK_TIMEOUT", 1)
    waiting, other = order.awaiting(), order.awaiting()
    message = order.callback(waiting)
    with locked(database_url, waiting):
        started = time.monotonic()
        assert post(client, message) == 503
        assert time.monotonic() - started < 3
        assert post(client, order.callback(other)) == 200, "the lock of one order stands in no other's way"
    assert not order.again(waiting).payments
    assert post(client, message) == 200
    assert order.again(waiting).state is OrderState.PAID


def test_row_16_a_customer_who_meets_a_lock_sees_a_page(
    client: CheckingClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shop.db.LOCK_TIMEOUT", 1)
    client.fill_basket()
    address = client.post("/checkout", data=client.checkout_form()).headers["Location"]
    form = {"csrf_token": client.csrf_token(address)}
    with locked(database_url, rows(Order)[0]):
        answer = client.post(f"{address}/cancellation", data=form)
        assert (answer.status_code, heading(answer.text)) == (503, "One moment, please")
    assert client.post(f"{address}/cancellation", data=form).status_code == 303
    assert rows(Order)[0].state is OrderState.CANCELLED


def test_row_16_a_write_that_took_too_long_is_a_503_and_leaves_nothing(
    client: CheckingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shop.db.LOCK_TIMEOUT", 1)
    client.fill_basket()
    form, take = client.checkout_form(), stock.take
    with monkeypatch.context() as patched:
        patched.setattr(stock, "take", lambda *arguments: (time.sleep(2.2), take(*arguments)))
        assert client.post("/checkout", data=form).status_code == 503
    assert not rows(Order)
    assert client.post("/checkout", data=form).status_code == 303


def place_two(order: OrderFactory, *slugs: str) -> Order:
    """An expired order of two products, with its lines in this order."""
    token = None
    for slug in slugs:
        product = catalogue.product(slug)
        assert product
        token = baskets.add(token, product, 1)
    basket = baskets.find(token)
    assert basket
    quote = orders.Quote(basket.token, basket.version, {"pickup": basket.goods})
    placed = orders.place(quote, CONTACT, "pickup", "en", UNLIMITED)
    order.run_out(placed)
    assert orders.expire(placed.id)
    return order.again(placed)


def resume_crossing(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Order], list[BaseException | None]]:
    """Two buyers have the same two products held again at once, which they ordered the other way round."""
    change = stock._change

    def change_slowly(*arguments: Any) -> bool:
        changed = change(*arguments)
        time.sleep(0.3)
        return changed

    pair = ("brass-dallah", "stoneware-cup")
    expired = [place_two(order, *pair), place_two(order, *pair[::-1])]
    start = threading.Barrier(2)

    def resume(one: Order) -> None:
        with app.app_context():
            start.wait()
            orders.resume(one.id, UNLIMITED)

    monkeypatch.setattr(stock, "_change", change_slowly)
    with ThreadPoolExecutor(2) as buyers:
        futures = [buyers.submit(resume, one) for one in expired]
        return expired, [future.exception() for future in futures]


def test_crossing_baskets_do_not_wait_for_each_other(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired, errors = resume_crossing(app, order, monkeypatch)
    assert errors == [None, None]
    assert [order.again(one).state for one in expired] == [OrderState.PLACED] * 2


def test_who_stores_rows_that_point_to_what_is_locked_does_not_wait(app: Flask, order: OrderFactory) -> None:
    """A basket and a note are stored while their product and order are being changed: waiting could be a deadlock."""
    waiting = order.awaiting("brass-dallah")

    def elsewhere() -> None:
        with app.app_context(), write() as session:
            basket = Basket()
            session.add(basket)
            session.flush()
            session.add(BasketItem(basket_id=basket.id, product_id=product.id, quantity=1))
            session.add(Attention(kind=AttentionKind.PAID_TWICE, subject="A-1", order_id=waiting.id))

    with ThreadPoolExecutor(1) as other, write() as session:
        [product] = spreadsheets._lock_products(session, ["brass-dallah"]).values()
        orders.lock(session, waiting.id)
        other.submit(elsewhere).result(timeout=4)  # seconds, of the five that a lock may be waited for
    assert len(rows(BasketItem, product_id=product.id)) == 2


def test_without_the_one_order_of_locks_one_of_them_fails_and_leaves_nothing(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "_product_id", lambda line: line.id)
    expired, errors = resume_crossing(app, order, monkeypatch)
    failed = [error for error in errors if error]
    assert [type(error) for error in failed] == [OperationalError]  # which is answered with a 503
    assert "deadlock" in str(failed[0])
    assert sorted(order.again(one).state for one in expired) == [OrderState.EXPIRED, OrderState.PLACED]
    assert not audit.violations()


def take_all_locks_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every SELECT … FOR UPDATE be a plain SELECT."""
    monkeypatch.setattr(Select, "with_for_update", lambda self, **_: self)


def copies_at_once(app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Statuses of eight copies of a callback."""
    settle = payments.apply_payment

    def settle_slowly(*arguments: Any) -> None:
        time.sleep(0.1)
        settle(*arguments)

    monkeypatch.setattr(payments, "apply_payment", settle_slowly)
    message = order.callback(order.awaiting())
    with ThreadPoolExecutor(8) as crowd:
        return list(crowd.map(lambda _: post(app.test_client(), message), range(8)))  # type: ignore[arg-type]


def test_row_3_copies_at_once_take_turns(app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert copies_at_once(app, order, monkeypatch) == [200] * 8
    assert len(rows(Payment)) == 1


def test_row_3_without_the_lock_they_do_not_and_the_constraint_lets_one_in(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_all_locks_away(monkeypatch)
    assert 503 in copies_at_once(app, order, monkeypatch)
    assert len(rows(Payment)) == 1
    assert not audit.violations()


# --- Several workers -------------------------------------------------------------------------------------------------


def in_parallel(app: Flask, work: Callable[[], object]) -> None:
    """Do the same in four threads, begun at the same moment; what one raises is raised."""
    start = threading.Barrier(4)

    def run(_: int) -> None:
        with app.app_context():
            start.wait()
            work()

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(run, range(4)))


def deliver_by_four(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Four workers, sixty messages: how often each was handled."""
    handled: list[str] = []
    monkeypatch.setitem(worker.HANDLERS, OutboxKind.MAIL_RECEIPT, lambda message: handled.append(message.key))
    with write() as session:
        kind = OutboxKind.MAIL_RECEIPT
        session.add_all(OutboxMessage(key=f"mail_receipt:{number}", kind=kind, payload={}) for number in range(60))

    def deliver_all() -> None:
        while message := worker._lease():
            worker._deliver(message)

    in_parallel(app, deliver_all)
    assert len(rows(OutboxMessage, done_at=None)) == 0
    return Counter(handled)


def test_several_workers_handle_each_message_once(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    handled = deliver_by_four(app, monkeypatch)
    assert len(handled) == handled.total() == 60


def test_without_the_lock_they_handle_some_twice(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    take_all_locks_away(monkeypatch)
    assert deliver_by_four(app, monkeypatch).total() > 60


def test_a_message_that_another_worker_is_taking_is_not_waited_for(
    app: Flask, order: OrderFactory, database_url: str
) -> None:
    order.awaiting(), order.awaiting()
    first, second = rows(OutboxMessage)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM outbox_message WHERE id = %s FOR UPDATE", [first.id])
        message = worker._lease()
        assert message
        assert message.id == second.id
        assert worker._lease() is None
        other.rollback()


def test_workers_that_start_at_once_do_everything_once(app: Flask, order: OrderFactory) -> None:
    late, silent = order.awaiting("brass-dallah"), order.awaiting()
    before = stock_of("brass-dallah")
    order.run_out(late)
    order.pay(silent, secret="forged")
    with write() as session:
        orders.lock(session, silent.id).returned_at = now() - timedelta(minutes=16)
    in_parallel(app, worker.tick)
    assert (order.again(late).state, stock_of("brass-dallah")) == (OrderState.EXPIRED, before + 1)
    item = attention(AttentionKind.POSSIBLY_PAID)
    assert item
    assert item.count == 1
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_DIGEST)) == 1
    assert not audit.violations()


# --- Connections that are cut ----------------------------------------------------------------------------------------


def cut(postgres: Server, database_url: str) -> None:
    """End all connections to a database, as an administrator or a failing network does."""
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name_of(database_url)}'"
    )


def test_row_16_connections_that_were_cut_are_made_anew_before_anybody_notices(
    client: CheckingClient, order: OrderFactory, postgres: Server, database_url: str
) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)
    db.session.remove()
    cut(postgres, database_url)
    assert post(client, message) == 200
    assert client.get("/").status_code == 200
    cut(postgres, database_url)
    assert client.get(f"/orders/{waiting.token}").status_code == 200


def test_row_16_a_connection_cut_in_the_middle_of_a_payment_leaves_nothing_and_the_retry_pays(
    client: CheckingClient,
    order: OrderFactory,
    postgres: Server,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)

    def cut_then_enqueue(*arguments: Any, **more: Any) -> None:
        cut(postgres, database_url)
        enqueue(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(payments, "enqueue", cut_then_enqueue)
        db.session.remove()
        assert post(client, message) == 503
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
    assert not rows(Payment)
    assert post(client, message) == 200
    assert len(rows(Payment)) == 1


def test_a_writer_that_hangs_loses_its_locks(
    client: CheckingClient, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a machine vanishes in the middle: nobody is there to roll back."""
    monkeypatch.setattr("shop.db.LOCK_TIMEOUT", 1)
    waiting = order.awaiting()
    message = order.callback(waiting)
    with engine().connect() as hanging:
        hanging.execute(select(Order).with_for_update())
        assert 200 in [post(client, message) for _ in range(3)]
        hanging.invalidate()


def test_row_16_after_a_restart_of_the_server_web_and_worker_go_on_by_themselves(
    app: Flask, client: CheckingClient, order: OrderFactory, postgres: Server
) -> None:
    waiting = order.awaiting()
    message, page = order.callback(waiting), f"/orders/{waiting.token}"
    client.fill_basket()
    stop = threading.Event()

    def work() -> None:
        with app.app_context():
            worker.work(stop, pause=0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: rows(Heartbeat) and not rows(OutboxMessage, done_at=None))
        db.session.remove()
        postgres.stop()
        assert post(client, message) == 503
        for path in ("/", "/basket", page):
            answer = client.get(path)
            assert (answer.status_code, heading(answer.text)) == (503, "One moment, please")
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json == {"ready": False, "problems": ["the database does not answer"]}
        [found] = findings(app, doctor.check_database)
        assert (found.level, "host and port in DATABASE_URL" in found.fix) == ("FAIL", True)
        postgres.start()
        assert post(client, message) == 200
        assert client.get("/basket").status_code == 200
        wait_until(lambda: not rows(OutboxMessage, done_at=None))
        assert client.get("/readyz").json == {"ready": True, "problems": []}
    finally:
        stop.set()
        thread.join()
        if postgres.process.poll() is not None:
            postgres.start()
    assert rows(Order)[0].state is OrderState.PAID


def wait_until(holds: Callable[[], object]) -> None:
    """Wait for something that another thread or process does."""
    for _ in range(400):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 20 seconds")


# --- Migrations and the doctor ---------------------------------------------------------------------------------------

NO_LIMIT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", "{head}"


def upgrade():
    limits = [op.get_bind().exec_driver_sql(f"SHOW {{name}}_timeout").scalar() for name in ("statement", "lock")]
    op.add_column("orders", sa.Column("limits", sa.String(20), server_default=str(limits), nullable=False))
"""


def test_a_migration_may_take_its_time_but_not_stand_in_everybodys_way(
    app: Flask, order: OrderFactory, tmp_path: Any
) -> None:
    order.placed()
    migrate_once_more(app, tmp_path, NO_LIMIT)
    with engine().connect() as connection:
        assert connection.scalar(text("SELECT limits FROM orders")) == "['0', '5s']"
        assert shown(connection, "statement_timeout") == ["10s"]


def test_the_doctor_names_the_servers_version_and_misses_no_disk(app: Flask) -> None:
    [version] = findings(app, doctor.check_database)
    assert (version.level, version.text[:12]) == ("ok", "PostgreSQL 1")
    [disk] = findings(app, doctor.check_disk)
    assert (disk.level, disk.text) == ("skip", "not checked: PostgreSQL has its own")


def test_the_doctor_misses_tables_in_an_empty_database(new_app: Callable[..., Flask], postgres: Server) -> None:
    with postgres.database("template1") as empty:
        _, lines = report(new_app(DATABASE_URL=empty))
    assert one("migrations", lines)[0] == "FAIL"
    assert "db upgrade" in one("migrations", lines)[1]


def test_the_doctor_does_not_repeat_the_databases_password(new_app: Callable[..., Flask], database_url: str) -> None:
    url = make_url(database_url).set(username="nobody-here", password="canary-of-the-database")
    _, lines = report(new_app(DATABASE_URL=url.render_as_string(hide_password=False)))
    level, said = one("database", lines)
    assert (level, "nobody-here" in said) == ("FAIL", True)
    assert not [line for line in lines if "canary" in line[2]]


# --- Several processes -----------------------------------------------------------------------------------------------


def test_two_web_processes_and_two_workers_share_one_database(
    new_app: Callable[..., Flask], gateway: Any, database_url: str, tmp_path: Any, start: Start
) -> None:
    """Behind a proxy that gives each request to either of them: twelve buyers, each of whom clicks twice, of whom eight
    can have what they want, and every callback four times."""
    mailbox = Mailbox()
    mail = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    mail.start()
    changes = {"DATABASE_URL": database_url, "MAIL_URL": f"smtp://127.0.0.1:{mail.port}", "TRUSTED_PROXIES": "1"}
    settings = settings_for(tmp_path, gateway.project_url, **changes)
    ports = free_ports(2)
    doors = [f"http://127.0.0.1:{port}" for port in ports]
    flask = ("-m", "flask", "--app", "app")
    processes = [start(*flask, "serve", "--no-worker", "--port", str(port), env=settings) for port in ports]
    processes += [start(*flask, "worker", env=settings) for _ in range(2)]
    try:
        with new_app(**changes).app_context(), ThreadPoolExecutor(16) as crowd:
            set_stock("finjan-set", 8)
            for door in doors:
                wait_for(f"{door}/readyz")
            buyers = list(crowd.map(lambda number: fill_basket(number, doors), range(12)))
            twice = [(*buyer, door) for buyer in buyers for door in doors]
            answers = list(crowd.map(lambda sent: sent[0].post(f"{sent[2]}/checkout", sent[1], **ONCE), twice))
            assert Counter(answer.status_code for answer in answers) == {303: 16, 422: 8}
            placed = rows(Order)
            assert {answer.headers["Location"] for answer in answers if answer.status_code == 303} == {
                f"/orders/{order.token}" for order in placed
            }
            assert (len(placed), stock_of("finjan-set")) == (8, 0)

            messages = [OrderFactory(gateway).callback(order) for order in placed]
            sent = [(message, door) for message in messages for door in doors * 2]
            paid = list(crowd.map(lambda one: requests.post(f"{one[1]}/amwal/callback", json=one[0], **BY_PROXY), sent))
            assert Counter(answer.status_code for answer in paid) == {200: 32}
            assert [order.state for order in rows(Order)] == [OrderState.PAID] * 8
            assert Counter(payment.order_id for payment in rows(Payment)) == {order.id: 1 for order in placed}
            wait_until(lambda: not rows(OutboxMessage, done_at=None))
            for product in rows(Product):
                assert product.stock == sum(row.quantity for row in rows(StockMovement, product_id=product.id))
            assert not audit.violations()
    finally:
        for process in processes:
            process.terminate()
        assert [process.wait(20) for process in processes] == [0, 0, 0, 0]
        mail.stop()
    ids = Counter(str(email.message_from_bytes(one.content)["Message-ID"]) for one in mailbox.received)
    assert set(ids.values()) == {1}
    assert len([one for one in ids if one.startswith("<mail_receipt.")]) == 8


ONCE: dict[str, Any] = {"allow_redirects": False, "timeout": 30}
BY_PROXY: dict[str, Any] = {"headers": {"Host": "127.0.0.1:9"}, "timeout": 30}


def fill_basket(number: int, doors: list[str]) -> tuple[requests.Session, dict[str, str]]:
    """A browser with a full basket, and its filled checkout form."""
    here, there = doors if number % 2 else doors[::-1]
    session = requests.Session()
    session.headers.update(BY_PROXY["headers"] | {"X-Forwarded-For": f"192.0.2.{number}"})
    session.post(f"{here}/basket/items", {"product": "finjan-set", "quantity": "1"}, **ONCE).raise_for_status()
    return session, filled_form(session.get(f"{there}/checkout", timeout=30).text)
