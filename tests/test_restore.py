"""Restoring a backup (rows 93, 100): no payment is forgotten, no number given twice, nobody asked to pay again."""

import email
import email.policy
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, has_app_context
from sqlalchemy import update

from models import Attention, Heartbeat, Order, OutboxMessage, Payment, Shop, now
from shop import orders, payments, privacy, reconcile, worker
from shop.config import settings
from shop.db import db, journal_mode, sqlite_library, write
from shop.limits import UNLIMITED
from shop.ops import audit, doctor, health, restore
from shop.states import CUSTOMER, AttentionKind, CallbackOutcome, OrderState
from tests.children import free_port, wait_for
from tests.conftest import CheckingClient, OrderFactory, Serve, attention, rows
from tests.pages import heading
from tests.postgres import Server

MakeApp = Callable[..., Flask]


def command(app: Flask, *args: str) -> tuple[int, str]:
    """Run a command; its exit code and what it says."""
    result = app.test_cli_runner().invoke(args=list(args))
    return result.exit_code, result.output


def forget_connections(app: Flask) -> None:
    """Close what this process has open, of the test's own context and of others."""
    if has_app_context():
        for one in db.session:
            db.session.refresh(one)  # the test goes on reading it
        db.session.expunge_all()
        db.session.rollback()
    with app.app_context():
        db.session.remove()
        for one in db.engines.values():
            one.dispose()


@pytest.fixture
def put_back(app: Flask, new_app: MakeApp, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Flask]:
    """Back up now; what it gives restores that, and gives the shop on the restored database."""
    file = tmp_path / "backup"
    code, said = command(app, "backup", str(file))
    assert code == 0
    assert f"flask --app app restore {file}" in said
    assert "flask compare" in said

    def put_back() -> Flask:
        forget_connections(app)
        address = app.extensions["settings"].database_url
        if not address.startswith("sqlite"):
            server: Server = request.getfixturevalue("postgres")
            server.execute("CREATE DATABASE restored")
            request.addfinalizer(lambda: server.execute("DROP DATABASE restored WITH (FORCE)"))
            address = server.url("restored")
        restored = new_app(DATABASE_URL=address, PUBLIC_URL=f"http://127.0.0.1:{free_port()}")
        request.addfinalizer(lambda: forget_connections(restored))
        with restored.app_context():
            code, said = command(restored, "restore", str(file))
            assert code == 0, said
            assert "flask --app app compare FILE --all COUNT" in said
        return restored

    return put_back


def test_rows_93_and_100_a_restore_drill(  # noqa: PLR0915  (a story)
    app: Flask, order: OrderFactory, request: pytest.FixtureRequest, tmp_path: Path, gateway: Any
) -> None:
    waiting, unpaid, placed = order.awaiting(), order.awaiting(), order.placed()
    run_out = order.expired()
    put_back: Callable[[], Flask] = request.getfixturevalue("put_back")

    # The shop goes on: one that was open is paid, one gets its invoice and is paid, one is new and paid.
    payments.request_invoice(placed.id)
    new = order.awaiting()
    messages = [order.callback(one) for one in (waiting, placed, new)]
    for one in (waiting, placed, new):
        assert order.pay(one) is CallbackOutcome.ACCEPTED
    known = {one.id: (one.number, one.token, one.key) for one in (waiting, unpaid, placed, run_out, new)}
    paid_list = [order.again(one).invoice.gateway_id for one in (waiting, placed, new)]

    restored = put_back()
    with restored.app_context():
        client = restored.test_client()
        assert isinstance(client, CheckingClient)
        order = OrderFactory(gateway)

        # Customers come again: nobody is asked to pay, to ask for another invoice, or to reserve again.
        for one in (waiting, unpaid, placed, run_out):
            number, token, key = known[one.id]
            page = client.get(f"/orders/{token}?key={key}", follow_redirects=True).text
            assert heading(page) == "Waiting for confirmation", number
            assert "/invoice" not in page, number
            assert "/reservation" not in page
            cancelled = client.get(f"/orders/{token}?returned=cancel").text
            assert heading(cancelled) == "Waiting for confirmation"
        payments.request_invoice(placed.id)
        assert order.again(placed).invoice is None
        assert not orders.resume(run_out.id, UNLIMITED)
        lost = client.get(f"/orders/{known[new.id][1]}")
        assert lost.status_code == 404
        assert "please don&#39;t pay again" in lost.text
        worker.tick()
        assert not rows(OutboxMessage, kind="mail_pay_here", attempts=1) or not list(tmp_path.glob("mail/mail-pay*"))

        # Callbacks come again: what is known is paid, the others are told with the invoices that they name.
        statuses = [client.post("/amwal/callback", json=message).status_code for message in messages]
        assert statuses == [200, 404, 404]
        assert order.again(waiting).state is OrderState.PAID
        told = attention(AttentionKind.UNKNOWN_SECRET)
        assert told is not None
        assert told.detail == f"last from 127.0.0.1, for invoice {paid_list[2]}"
        page = client.get(f"/orders/{known[waiting.id][1]}").text
        assert heading(page) == "Paid. Thank you"

        # No number is given twice.
        again = order.placed()
        assert again.id >= new.id + 1000
        assert again.number.endswith("000")

        # All say so until somebody has compared.
        beat()
        [reason] = client.get("/statusz").get_json()["problems"]
        assert "compare with the gateway since" in reason
        assert client.get("/readyz").status_code == 200
        assert not audit.violations()
        assert [str(one) for one in audit.run() if one.count and "restored backups" in str(one)]
        assert [one.level for one in doctor.check_restore(None)] == ["FAIL"]  # type: ignore[arg-type]
        file = tmp_path / "paid.csv"
        file.write_text("invoice;amount\n" + "".join(f'"{one}";12.50\n' for one in paid_list))
        code, said = command(restored, "compare", str(file))
        assert code == 1
        assert said.splitlines() == [
            "Invoice ids: 3. Lines without one: 1.",
            f"unknown here  {paid_list[1]}",
            f"unknown here  {paid_list[2]}",
            "1 paid here, 0 unpaid here, 2 unknown here.",
        ]
        assert health.uncompared_since()
        assert command(restored, "compare", str(file), "--all", "3")[0] == 1

        # It ended: what is missing is told one by one, and the others can be paid.
        assert {item.subject for item in rows(Attention, kind=AttentionKind.PAID_UNKNOWN)} == set(paid_list[1:])
        assert not health.uncompared_since()
        assert rows(Attention, kind=AttentionKind.RESTORED)[0].resolution.startswith("compared: 1 paid, 0 unpaid")
        assert client.get("/statusz").status_code == 200
        assert heading(client.get(f"/orders/{known[unpaid.id][1]}").text).startswith("Pay $")
        payments.request_invoice(placed.id)
        assert order.again(placed).invoice is not None
        assert orders.resume(run_out.id, UNLIMITED)
        assert not audit.violations()


def beat() -> None:
    """A worker is alive."""
    with write() as session:
        session.merge(Heartbeat(name="worker", at=now()))


def test_row_100_what_the_list_has_and_the_shop_has_not_is_told_and_stays_in_doubt(
    app: Flask, client: CheckingClient, order: OrderFactory, tmp_path: Path
) -> None:
    waiting, other = order.awaiting(), order.awaiting()
    restore.mark_in_place()
    invoice = order.again(waiting).invoice
    assert invoice is not None
    file = tmp_path / "list.txt"
    file.write_text(f"\ufeffPaid\u200b invoices of November:\r\n\u200e{invoice.gateway_id}\u200f, {'a' * 24} and so on")
    code, said = command(app, "compare", str(file), "--all", "2")
    assert code == 1
    assert f"unpaid here   {waiting.number}  awaiting_payment  12.50 USD" in said
    assert f"unknown here  {'a' * 24}" in said
    item = attention(AttentionKind.PAID_UNCONFIRMED)
    assert item is not None
    assert (item.subject, item.order_id) == (waiting.number, waiting.id)
    assert heading(client.get(f"/orders/{waiting.token}").text) == "Waiting for confirmation"
    assert heading(client.get(f"/orders/{other.token}").text).startswith("Pay $")
    assert order.pay(waiting) is CallbackOutcome.ACCEPTED


def test_row_100_orders_in_doubt_have_one_item_and_get_no_pay_here_mail(
    app: Flask, order: OrderFactory, tmp_path: Path
) -> None:
    for _ in range(3):
        order.awaiting()
    restore.mark_in_place()
    with write() as session:
        long_ago = now() - timedelta(hours=1)
        session.execute(update(Shop).values(restored_at=long_ago))
        session.execute(update(Order).values(returned_at=long_ago))
    worker.tick()
    assert not rows(Attention, kind=AttentionKind.POSSIBLY_PAID)
    assert len(rows(Attention, kind=AttentionKind.RESTORED)) == 1
    assert not list((tmp_path / "mail").glob("mail-pay-here*"))


def test_row_100_a_second_restore_is_compared_again(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    first = order.awaiting()
    file = tmp_path / "list.txt"
    file.write_text("b" * 24)
    numbers = []
    for known in "12":
        restore.mark_in_place()
        assert order.again(first).is_in_doubt
        numbers.append(rows(Shop)[0].next_order_id)
        command(app, "compare", str(file), "--all", known)
        assert not order.again(first).is_in_doubt
        file.write_text(f"{'b' * 24}, {'c' * 24}")
    assert numbers[1] == numbers[0] + 1000
    said = [item.resolution for item in rows(Attention, kind=AttentionKind.RESTORED)]
    assert said == [f"compared: 0 paid, 0 unpaid here, {unknown} unknown here" for unknown in (1, 2)]


@pytest.mark.parametrize("content", ["", "nothing to see here, 123"])
def test_row_100_a_list_without_any_invoice_ends_the_doubt_only_where_none_was_paid(
    app: Flask, order: OrderFactory, tmp_path: Path, content: str
) -> None:
    waiting = order.awaiting()
    restore.mark_in_place()
    file = tmp_path / "list.txt"
    file.write_text(content)
    for refused in ([], ["--all", "1"]):
        code, output = command(app, "compare", str(file), *refused)
        assert (code, "nvoice id" in output) == (1, True)
        assert health.uncompared_since()
    assert command(app, "compare", str(file), "--all", "0")[0] == 0
    assert not health.uncompared_since()
    assert not order.again(waiting).is_in_doubt


def test_row_100_the_comparison_says_what_to_do_and_repeats_no_key(
    app: Flask, order: OrderFactory, tmp_path: Path
) -> None:
    """As when the whole page of the account is copied: the project's id is no invoice's."""
    waiting = order.awaiting()
    restore.mark_in_place()
    project, key = settings.amwal_project_url, settings.amwal_api_key
    invoice = order.again(waiting).invoice
    assert invoice
    file = tmp_path / "list.txt"
    file.write_text(f"Project {project}\nKey {key}\n{invoice.gateway_id}\n{'a' * 24}\n")
    code, said = command(app, "compare", str(file), "--all", "3")
    assert (code, "Invoice ids in it: 2, not 3" in said) == (1, True), said
    assert key not in said
    code, said = command(app, "compare", str(file), "--all", "2")
    assert code == 1
    assert f"USD  {invoice.gateway_id}\n" in said
    assert f"unknown here  {'a' * 24}\n" in said
    assert "The comparison is complete. What differs is flagged" in said
    assert "comparison is complete" not in command(app, "compare", str(file))[1]


@pytest.mark.parametrize("restored", [True, False])
def test_row_100_the_mail_about_a_restore_promises_nothing(
    app: Flask, order: OrderFactory, tmp_path: Path, *, restored: bool
) -> None:
    order.pay(order.awaiting(), secret="forged")
    if restored:
        restore.mark_in_place()
    worker.tick()
    [file] = tmp_path.glob("mail/mail-digest-*.eml")
    said = email.message_from_bytes(file.read_bytes(), policy=email.policy.default).get_content()
    assert ("A backup was restored" in said, "No payment is lost" in said) == (restored, not restored)


FORMS: list[Callable[[str], str]] = [
    *(lambda one: one.upper(), lambda one: f"invoice_{one}", lambda one: f"inv-{one}-paid", lambda one: f"{one}paid"),
    *(lambda one: f"https://amwal.exchange/pay/{one}?x=1", lambda one: f'"{one}";12.50', lambda one: f"<b>{one}</b>"),
    lambda one: f"{one[:12]}\u200b{one[12:]}",
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", FORMS)
def test_row_100_ids_are_found_however_they_are_written(
    app: Flask, order: OrderFactory, tmp_path: Path, form: Callable[[str], str], encoding: str
) -> None:
    paid, other = order.awaiting(), order.awaiting()
    invoice = order.again(paid).invoice
    assert invoice is not None
    restore.mark_in_place()
    file = tmp_path / "list.txt"
    file.write_text(f"Invoice\n{form(invoice.gateway_id)}\n", encoding=encoding)
    code, said = command(app, "compare", str(file), "--all", "1")
    assert (code, f"unpaid here   {paid.number}" in said) == (1, True), said
    assert order.again(paid).returned_at
    assert not order.again(other).is_in_doubt


@pytest.mark.parametrize(
    "form", [lambda one: f"{one[:10]}…{one[-4:]}", lambda one: f"{one[:-1]}", lambda one: f"{one}0"]
)
def test_row_100_an_id_that_cannot_be_read_keeps_the_doubt_and_its_line_is_shown(
    app: Flask, order: OrderFactory, tmp_path: Path, form: Callable[[str], str]
) -> None:
    paid, also = order.awaiting(), order.awaiting()
    ids = [one.invoice.gateway_id for one in (order.again(paid), order.again(also)) if one.invoice]
    restore.mark_in_place()
    file = tmp_path / "list.txt"
    file.write_text(f"{ids[0]}\n{form(ids[1])}\n")
    code, said = command(app, "compare", str(file), "--all", "2")
    assert code == 1
    assert said == f"Error: Invoice ids in it: 1, not 2. Lines without one: 1\n  {form(ids[1])}\n"
    assert order.again(paid).is_in_doubt
    assert order.again(also).is_in_doubt
    assert health.uncompared_since()


def test_row_100_orders_in_doubt_stay_as_they_are_until_somebody_has_compared(
    app: Flask, client: CheckingClient, order: OrderFactory
) -> None:
    """Of a backup as old as this, all reservations have run out, and contact data would be due for erasure."""
    waiting, run_out = order.awaiting(), order.expired()
    with write() as session:
        session.execute(update(Order).values(reserved_until=now() - timedelta(days=40)))
    restore.mark_in_place()
    worker.tick()
    privacy.tidy()
    _, left = privacy.forget(waiting.email)
    assert {one.id for one in left} == {waiting.id, run_out.id}
    assert not orders.cancel(waiting.id, CUSTOMER)
    assert not orders.expire(waiting.id)
    for one, state in ((waiting, OrderState.AWAITING_PAYMENT), (run_out, OrderState.EXPIRED)):
        again = order.again(one)
        assert (again.state, again.email, again.is_in_doubt) == (state, one.email, True)
    reconcile.end_comparison(reconcile.compare([]))
    worker.tick()
    privacy.tidy()
    for one in (waiting, run_out):
        assert (order.again(one).state, order.again(one).email) == (OrderState.CANCELLED, "")


# --- Refusals --------------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for what a reading connection leaves there."""
    there = [path for path in folder.iterdir() if path.is_file() and path.suffix not in (".db-wal", ".db-shm")]
    return {path.name: path.read_bytes() for path in there}


@pytest.mark.sqlite
def test_row_100_a_running_shop_is_not_replaced(app: Flask, serve: Serve, tmp_path: Path, new_app: MakeApp) -> None:
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    assert command(app, "backup", str(tmp_path / "b"))[0] == 0
    serve(port, "--no-worker", PUBLIC_URL=here, DATABASE_URL=app.extensions["settings"].database_url)
    wait_for(f"{here}/healthz")
    other = new_app(PUBLIC_URL=here)
    with other.app_context():
        code, said = command(other, "restore", str(tmp_path / "b"))
    assert (code, f"something answers at {here}" in said) == (1, True)


@pytest.mark.sqlite
def test_row_100_nor_a_database_that_any_program_has_open(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    """A web server that answers nobody any more, whose worker is stopped long since."""
    if journal_mode() != "wal":
        pytest.skip("without a write-ahead log, SQLite itself refuses to write to a file that was moved")
    assert command(app, "backup", str(tmp_path / "b"))[0] == 0
    order.pay(order.awaiting())
    forget_connections(app)
    with closing(sqlite_library().connect(tmp_path / "shop.db")) as web:
        web.execute("SELECT count(*) FROM payment").fetchone()
        code, said = command(app, "restore", str(tmp_path / "b"))
        assert (code, f"a program has {tmp_path / 'shop.db'} open" in said) == (1, True)
        assert not list(tmp_path.glob("*before-restore*"))
    assert command(app, "restore", str(tmp_path / "b"))[0] == 0


def left_running(database: Path, copy: Path) -> None:
    """Copy a database as a killed shop leaves it: what was committed last stands in its log alone."""
    with closing(sqlite_library().connect(database)) as running:
        running.execute("UPDATE orders SET note = 'in the log'")
        running.commit()
        for suffix in ("", "-wal", "-journal"):
            if (log := database.with_name(database.name + suffix)).exists():
                shutil.copyfile(log, copy.with_name(copy.name + suffix))


@pytest.mark.sqlite
def test_row_100_a_database_with_its_log_is_restored_with_what_stands_there(
    app: Flask, order: OrderFactory, tmp_path: Path
) -> None:
    order.placed()
    file = tmp_path / "stopped.db"
    left_running(tmp_path / "shop.db", file)
    forget_connections(app)
    code, said = command(app, "restore", str(file))
    assert code == 0, said
    forget_connections(app)
    assert [one.note for one in rows(Order)] == ["in the log"]


@pytest.mark.sqlite
def test_row_100_a_restore_is_undone_by_restoring_what_it_moved_away(
    app: Flask, order: OrderFactory, tmp_path: Path
) -> None:
    assert command(app, "backup", str(tmp_path / "b"))[0] == 0
    order.pay(order.awaiting())
    left_running(tmp_path / "shop.db", tmp_path / "killed.db")
    forget_connections(app)
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            (tmp_path / f"killed.db{suffix}").replace(tmp_path / f"shop.db{suffix}")
    assert command(app, "restore", str(tmp_path / "b"))[0] == 0
    [aside] = tmp_path.glob("shop-before-restore-*")
    forget_connections(app)
    code, said = command(app, "restore", str(aside))
    assert code == 0, said
    forget_connections(app)
    assert [one.note for one in rows(Order)] == ["in the log"]
    assert len(rows(Payment)) == 1


@pytest.mark.sqlite
def test_row_100_nor_one_whose_worker_is_alive(app: Flask, tmp_path: Path) -> None:
    assert command(app, "backup", str(tmp_path / "b"))[0] == 0
    beat()
    code, said = command(app, "restore", str(tmp_path / "b"))
    assert (code, "a worker is running" in said) == (1, True)


def other_program(file: Path) -> None:
    """A database of something else."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE notes (text)")
        connection.commit()


def later_version(file: Path) -> None:
    """A backup of a later version."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '4343eef67865'")
        connection.commit()


def cut(file: Path) -> None:
    """A copy that was cut short."""
    file.write_bytes(file.read_bytes()[:20000])


def damage(file: Path) -> None:
    """A page of nonsense."""
    content = file.read_bytes()
    file.write_bytes(content[:8192] + os.urandom(8192) + content[16384:])


def change(statement: str) -> Callable[[Path], None]:
    """A database in which something is missing or different."""

    def run(file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(statement)
            connection.commit()

    return run


def pipe(file: Path) -> None:
    """What waits for somebody to write."""
    file.unlink()
    os.mkfifo(file)


BAD = [
    (change("DELETE FROM alembic_version"), "is no backup of a shop"),
    (change("DELETE FROM shop"), "is no backup of a shop"),
    (change("DROP TABLE shop"), "is no backup of a shop"),
    (pipe, "is not a file"),
    (lambda file: file.unlink() or file.mkdir(), "is not a file"),
    (lambda file: file.unlink() or file.symlink_to("shop.db"), "is the database itself"),
    (lambda file: file.write_bytes(b""), "is no backup of a shop"),
    (lambda file: file.write_bytes(b"x" * 5000), "is no backup of a shop"),
    (lambda file: file.unlink() or other_program(file), "is no backup of a shop"),
    (later_version, "was made by a later version"),
    (cut, "damaged"),
    (damage, "damaged"),
    (lambda file: file.unlink(), "No such file"),
]


@pytest.mark.sqlite
@pytest.mark.parametrize(("spoil", "said"), BAD)
def test_row_100_what_is_no_good_backup_replaces_nothing(
    app: Flask, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    file = tmp_path / "backup.db"
    assert command(app, "backup", str(file))[0] == 0
    spoil(file)
    forget_connections(app)
    before = files(tmp_path)
    code, output = command(app, "restore", str(file))
    assert code == 1
    assert said in output
    assert output.count("\n") == 1
    forget_connections(app)
    assert files(tmp_path).keys() == before.keys()
    assert files(tmp_path)["shop.db"] == before["shop.db"]


def test_row_100_it_wants_a_file_or_the_mark(app: Flask) -> None:
    for args in (["restore"], ["restore", "--mark", "backup.db"]):
        code, said = command(app, *args)
        assert (code, "or --mark" in said) == (2, True)
    code, said = command(app, "restore", "--mark")
    assert code == 0, said
    assert health.uncompared_since()


@pytest.mark.sqlite
def test_row_100_a_misspelt_database_is_neither_marked_nor_made(app: Flask, new_app: MakeApp, tmp_path: Path) -> None:
    assert command(app, "backup", str(tmp_path / "b"))[0] == 0
    for where, args in (("other.db", ["--mark"]), ("nowhere/shop.db", [str(tmp_path / "b")])):
        other = new_app(DATABASE_URL=f"sqlite:///{tmp_path / where}")
        with other.app_context():
            code, said = command(other, "restore", *args)
        assert (code, str((tmp_path / where).parent) in said, said.count("\n")) == (1, True, 1), said
        assert not (tmp_path / where).exists()


@pytest.mark.sqlite
def test_row_100_nor_is_a_backup_in_another_currency(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    order.placed()
    forget_connections(app)
    assert command(app, "backup", str(tmp_path / "b"))[0] == 0
    change("UPDATE shop SET currency = 'KWD', exponent = 3")(tmp_path / "b")
    forget_connections(app)
    app.extensions.pop("currency_checked", None)
    code, said = command(app, "restore", str(tmp_path / "b"))
    assert (code, "Set SHOP_CURRENCY=KWD" in said) == (2, True), said
    assert len(rows(Order)) == 1


@pytest.mark.postgres
def test_row_100_a_postgresql_database_must_be_empty(app: Flask, tmp_path: Path) -> None:
    assert command(app, "backup", str(tmp_path / "b"))[0] == 0
    code, said = command(app, "restore", str(tmp_path / "b"))
    assert (code, "the database is not empty" in said) == (1, True)
    assert not health.uncompared_since()


@pytest.mark.sqlite
@pytest.mark.parametrize("step", ["mark", "_move_aside", "rename"])
def test_row_100_broken_off_anywhere_no_unmarked_backup_is_in_place(
    app: Flask, order: OrderFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Either the present database is there, perhaps under its new name, or the restored one is marked."""
    assert command(app, "backup", str(tmp_path / "backup.db"))[0] == 0
    paid = order.awaiting()
    order.pay(paid)
    forget_connections(app)
    where = Path if step == "rename" else restore
    whole = getattr(where, step)

    def killed(*args: Any) -> Any:
        result = whole(*args)
        if step != "rename" or args[0].name.endswith(".part"):
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as broken:
        broken.setattr(where, step, killed)
        command(app, "restore", str(tmp_path / "backup.db"))
    forget_connections(app)
    kept = [tmp_path / "shop.db", *tmp_path.glob("shop-before-restore-*.db")]
    found = [file for file in kept if file.exists()]
    assert found
    states = set()
    for file in found:
        with closing(sqlite3.connect(file)) as connection:
            marked = connection.execute("SELECT restored_at FROM shop").fetchone()[0] is not None
            payments_there = connection.execute("SELECT count(*) FROM payment").fetchone()[0]
        states.add((marked, payments_there))
    assert (False, 1) in states, "the present database is kept"
    assert (False, 0) not in states, "no unmarked backup stands anywhere"


@pytest.mark.sqlite
def test_row_100_the_former_database_is_kept_beside_it(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    assert command(app, "backup", str(tmp_path / "backup.db"))[0] == 0
    order.pay(order.awaiting())
    forget_connections(app)
    code, said = command(app, "restore", str(tmp_path / "backup.db"))
    assert code == 0
    [aside] = tmp_path.glob("shop-before-restore-*.db")
    assert f"The former database is kept as {aside}." in said
    assert (tmp_path / "shop.db").stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(aside)) as connection:
        assert connection.execute("SELECT count(*) FROM payment").fetchone()[0] == 1
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone()[0] == 0
