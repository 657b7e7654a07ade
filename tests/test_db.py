"""The two ways to the database, and the migrations that make it."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from alembic.script import ScriptDirectory
from flask import Flask, before_render_template
from flask_migrate import downgrade, upgrade
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

import models
from models import Attention, Basket, Category, Heartbeat, now
from shop import attention, payments
from shop.db import Base, db, engine, has_wal_reset_fix, in_write, journal_mode, sqlite_library, write
from shop.states import AttentionKind
from tests.conftest import CheckingClient, OrderFactory


def test_a_stray_write_on_the_reading_way_raises(app: Flask) -> None:
    with pytest.raises(DBAPIError, match=r"read-?only"):
        db.session.execute(text("DELETE FROM basket"))


def test_write_is_never_nested(app: Flask) -> None:
    with write(), pytest.raises(RuntimeError, match="never nested"), write():
        pass
    assert not in_write()


def test_a_failed_block_leaves_nothing(app: Flask) -> None:
    def fail_in_the_middle() -> None:
        with write() as session:
            session.add(Heartbeat(name="nobody", at=now()))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert db.session.get(Heartbeat, "nobody") is None


def test_an_error_repeats_nothing_that_was_to_be_stored(app: Flask) -> None:
    with pytest.raises(IntegrityError) as caught, write() as session:
        session.add(Category(slug="beans", name={"en": "the customer's own words"}))
    assert "own words" not in str(caught.value)


def test_what_was_written_is_read_at_once(app: Flask) -> None:
    before = db.session.scalars(select(Category)).all()
    with write() as session:
        session.get_one(Category, before[0].id).position = 77
    assert db.session.get_one(Category, before[0].id).position == 77


@pytest.mark.sqlite
def test_a_write_takes_its_lock_at_the_start(app: Flask, tmp_path: Path) -> None:
    with write() as session:
        session.scalar(select(Category.id))
        library = sqlite_library()  # the same one: two libraries in one process do not see each other's locks
        other = library.connect(tmp_path / "shop.db", timeout=0, isolation_level=None)
        with pytest.raises(library.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


@pytest.mark.sqlite
def test_sqlite_is_set_up_to_keep_what_it_acknowledged(app: Flask) -> None:
    with engine().connect() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragma["foreign_keys"] == 1
    assert pragma["journal_mode"] == journal_mode()
    assert pragma["synchronous"] == (2 if journal_mode() == "wal" else 3)


FIXED = [(3, 44, 6), (3, 50, 7), (3, 51, 3), (3, 53, 4)]
BROKEN = [(3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 50, 6), (3, 51, 2)]


@pytest.mark.parametrize(("version", "fixed"), [*((v, True) for v in FIXED), *((v, False) for v in BROKEN)])
def test_write_ahead_logging_only_where_it_is_safe(version: tuple[int, ...], fixed: bool) -> None:
    assert has_wal_reset_fix(version) is fixed
    assert journal_mode(SimpleNamespace(sqlite_version_info=version)) == ("wal" if fixed else "delete")  # type: ignore[arg-type]


def test_times_come_back_aware_and_naive_ones_are_refused(app: Flask) -> None:
    with write() as session:
        session.add(Heartbeat(name="clock", at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
    assert db.session.get_one(Heartbeat, "clock").at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with pytest.raises(Exception, match="naive"), write() as session:
        session.add(Heartbeat(name="naive", at=datetime(2026, 1, 2)))  # noqa: DTZ001


def test_an_enum_that_grows_refuses_what_it_does_not_know_and_reads_it_as_text(app: Flask) -> None:
    """As during a rolling upgrade, when the next version has written a word of its own."""
    with write() as session:
        attention.flag(session, AttentionKind.PAID_TWICE, "A-1001")
        with pytest.raises(StatementError, match="paid_thrice"):
            attention.flag(session, "paid_thrice", "A-1002")  # type: ignore[arg-type]
        session.execute(text("UPDATE attention SET kind = 'paid_thrice'"))
    [item] = db.session.scalars(select(Attention)).all()
    assert (item.kind, item.kind.value, str(item.kind.label)) == ("paid_thrice", "paid_thrice", "paid_thrice")
    assert not isinstance(item.kind, AttentionKind)


def test_two_changes_at_once_both_count(app: Flask) -> None:
    with write() as session:
        basket = Basket()
        session.add(basket)

    def bump() -> None:
        with app.app_context(), write() as session:
            session.get_one(Basket, basket.id, with_for_update=True).version += 1

    threads = [threading.Thread(target=bump) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    db.session.expire_all()
    assert db.session.get_one(Basket, basket.id).version == 20


def test_no_transaction_is_open_during_http_or_rendering(
    app: Flask, client: CheckingClient, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    put = requests.Session.put

    def watched_put(*args: Any, **kwargs: Any) -> requests.Response:
        seen.append("inside" if in_write() else "http")
        return put(*args, **kwargs)

    def watched_rendering(_app: Flask, **_: Any) -> None:
        seen.append("inside" if in_write() else "rendering")

    monkeypatch.setattr(requests.Session, "put", watched_put)
    with before_render_template.connected_to(watched_rendering, app):
        client.fill_basket()
        client.follow(client.post("/checkout", data=client.checkout_form()))
    assert {"http", "rendering"} == set(seen)


# --- Migrations ------------------------------------------------------------------------------------------------------


def fill_every_table(order: OrderFactory) -> None:
    """Bring rows into every table, by the shop's own rules where they can."""
    paid, cancelled = order.awaiting(), order.awaiting()
    order.pay(paid)
    payments.accept_callback(b"nonsense", "127.0.0.1")
    order.pay(paid, paymentSessionId="second")
    with write() as session:
        staff = models.Staff(email="m@example.com", name="Maha", password_hash="-")
        basket = Basket(items=[models.BasketItem(product_id=1, quantity=2)])
        session.add_all([staff, basket, Heartbeat(name="worker", at=now())])
        session.flush()
        session.add(models.OrderNote(order_id=cancelled.id, staff_id=staff.id, text="called"))
        session.add(models.StaffSession(staff_id=staff.id, token_digest="0" * 64))
        session.add(models.ProductPicture(product_id=1, digest="0" * 64, width=400, height=400, content=b"RIFF"))
        session.add(models.Refund(payment_id=1, amount=100, staff_id=staff.id))


def count_rows() -> dict[str, int]:
    """Rows by table."""
    with engine().connect() as connection:
        tables = Base.metadata.sorted_tables
        return {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def test_the_migrations_make_what_the_models_say(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["db", "check"])
    assert result.exit_code == 0, result.output


def contents() -> dict[str, list[Any]]:
    """All rows by table."""
    with engine().connect() as connection:
        tables = Base.metadata.sorted_tables
        return {one.name: list(connection.execute(select(one).order_by(*one.primary_key))) for one in tables}


def test_row_62_no_row_is_lost_in_any_migration(app: Flask, order: OrderFactory) -> None:
    fill_every_table(order)
    before = count_rows()
    assert all(before.values()), f"a table without rows proves nothing: {before}"
    revisions = ScriptDirectory(str(Path(app.root_path) / "migrations")).walk_revisions()
    for revision in [one for one in revisions if one.down_revision]:  # the first one makes the tables
        downgrade(revision=str(revision.down_revision))
        upgrade(revision=revision.revision)
    upgrade()
    assert count_rows() == before


MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", "{head}"


def upgrade():
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for name in {tables}:
        with op.batch_alter_table(name, recreate="always" if on_sqlite else "never") as table:
            table.add_column(sa.Column("gift", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade():
    for name in {tables}:
        with op.batch_alter_table(name) as table:
            table.drop_column("gift")
"""


def migrate_once_more(app: Flask, folder: Path, migration: str, **values: Any) -> Path:
    """Run a migration on top of all that there are. Gives the folder in which they stand with it."""
    source, copy = Path(app.root_path) / "migrations", folder / "migrations"
    (copy / "versions").mkdir(parents=True)
    for path in (*source.glob("*.*"), *source.glob("versions/*.py")):
        (copy / path.relative_to(source)).write_bytes(path.read_bytes())
    head = ScriptDirectory(str(source)).get_current_head()
    (copy / "versions" / "9999_more.py").write_text(migration.format(head=head, **values))
    upgrade(directory=str(copy))
    return copy


def test_row_62_rebuilding_every_table_keeps_every_row(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    """SQLite changes a table by copy and drop, which with foreign keys on would take every child row along."""
    fill_every_table(order)
    before = contents()
    assert all(before.values()), f"a table without rows proves nothing: {count_rows()}"
    folder = migrate_once_more(app, tmp_path, MIGRATION, tables=list(before))
    for name in before:
        assert "gift" in {column["name"] for column in inspect(engine()).get_columns(name)}
    assert contents() == before
    if engine().dialect.name == "sqlite":
        with engine().connect() as connection:
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    downgrade(directory=str(folder), revision="-1")
    assert contents() == before
