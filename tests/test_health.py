"""The probes (rows 67, 81, 108, 114, 115): what routes traffic asks one thing, what raises alarms another."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text, update
from sqlalchemy.exc import OperationalError

from models import Attention, Heartbeat, OutboxMessage, now
from shop import payments, worker
from shop.db import db, write
from shop.ops import audit, doctor, health
from shop.ops.probe import Case
from shop.ops.probe import ask as ask_url
from shop.states import AttentionKind, OrderState
from tests.conftest import CheckingClient, OrderFactory, rows

HOUR = timedelta(hours=1)


def beat(at: Any, name: str = "worker") -> None:
    """Let something have been done then."""
    with write() as session:
        session.merge(Heartbeat(name=name, at=at))


def ask(client: CheckingClient, path: str) -> tuple[int, list[str]]:
    """Status and problems of a probe, asked by IP address as load balancers do."""
    answer = client.get(path, base_url="http://10.0.0.9")
    return answer.status_code, answer.get_json()["problems"]


def test_row_114_a_silent_worker_takes_no_web_process_off(client: CheckingClient, order: OrderFactory) -> None:
    beat(now() - timedelta(minutes=3))
    assert ask(client, "/readyz") == (200, [])
    status, [problem] = ask(client, "/statusz")
    assert (status, "the worker is not running" in problem) == (503, True)
    waiting = order.awaiting()
    order.pay(waiting)
    assert order.again(waiting).state is OrderState.PAID
    beat(now())
    assert ask(client, "/statusz") == (200, [])


def test_statusz_names_overdue_tasks(client: CheckingClient, order: OrderFactory) -> None:
    beat(now())
    order.awaiting()
    assert ask(client, "/statusz") == (200, [])
    with write() as session:
        session.execute(update(OutboxMessage).values(due_at=now() - timedelta(minutes=6)))
    status, [problem] = ask(client, "/statusz")
    assert status == 503
    assert "overdue since" in problem
    with write() as session:
        session.execute(update(OutboxMessage).values(done_at=now()))
    assert ask(client, "/statusz") == (200, [])


def test_row_108_a_full_disk_is_seen_from_outside_at_the_cost_of_one_write_in_five_seconds(
    app: Flask, client: CheckingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(now())
    begun: list[Any] = []
    full, clock = {"is": True}, SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(health, "time", clock)  # a busy machine may take longer over all this

    def begin(connection: Any) -> None:
        begun.append(connection)
        if full["is"]:
            raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    event.listen(db.engines["write"], "begin", begin)
    for _ in range(20):
        assert ask(client, "/readyz") == (200, [])
        status, [problem] = ask(client, "/statusz")
        assert (status, "takes no writes" in problem) == (503, True)
    assert len(begun) == 1
    full["is"] = False
    clock.monotonic = lambda: 1000.0 + health.WRITE_EVERY
    assert ask(client, "/statusz") == (200, [])
    assert len(begun) == 2


@pytest.mark.parametrize("path", ["/readyz", "/statusz"])
def test_a_database_that_is_too_old_or_away_is_told_by_both(
    app: Flask, client: CheckingClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(now())
    with write() as session:
        session.execute(text("DELETE FROM alembic_version"))
    assert ask(client, path) == (503, ["the database is not up to date: run flask db upgrade"])

    def gone() -> None:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(health, "current_revision", gone)
    assert ask(client, path) == (503, ["the database does not answer"])


def test_row_115_each_older_revision_is_too_old_and_an_unknown_one_is_a_later_versions(app: Flask) -> None:
    scripts = [one.revision for one in health._scripts().walk_revisions()]
    assert [health.is_outdated(one) for one in scripts] == [False] + [True] * (len(scripts) - 1)
    assert health.is_outdated(None)
    assert not health.is_outdated("4343eef67865")


def test_row_115_the_doctor_says_that_a_later_version_has_upgraded(app: Flask) -> None:
    with write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '4343eef67865'"))
    [found] = doctor.check_migrations(None)  # type: ignore[arg-type]
    assert (found.level, "a later one has upgraded it" in found.text) == ("warn", True)


# --- Row 81: times from a clock that was ahead -----------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [timedelta(minutes=1), timedelta(days=1), timedelta(days=400)])
def test_row_81_a_heartbeat_in_the_future_is_no_sign_of_life_and_is_replaced(
    app: Flask, client: CheckingClient, ahead: timedelta
) -> None:
    beat(now() + ahead)
    assert ask(client, "/statusz")[0] == 503
    [found] = doctor.check_worker(None)  # type: ignore[arg-type]
    assert (found.level, "in the future: a clock was wrong" in found.text) == ("FAIL", True)
    assert next(one for one in audit.run() if one.check.text == "silent workers").count == 1
    worker.tick()
    assert ask(client, "/statusz") == (200, [])
    assert rows(Heartbeat, name="worker")[0].at <= now()


def test_row_81_hourly_chores_and_the_digest_go_on(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    beat(now() + timedelta(days=30), "hourly")
    order.pay(order.awaiting(), secret="forged")
    worker.tick()
    assert rows(Heartbeat, name="hourly")[0].at <= now()
    with write() as session:
        session.execute(update(Attention).values(mailed_at=now() + timedelta(days=30)))
        session.add(Attention(kind=AttentionKind.PAID_TWICE, subject="A-1"))
    worker.tick()
    assert len(rows(OutboxMessage, kind="mail_digest")) == 2


def test_row_81_a_lease_in_the_far_future_keeps_nobody_from_asking_for_the_invoice(
    app: Flask, order: OrderFactory
) -> None:
    placed = order.placed()
    with write() as session:
        session.get_one(type(placed), placed.id).invoice_claimed_until = now() + timedelta(days=1)
    payments.request_invoice(placed.id)
    assert order.again(placed).state is OrderState.AWAITING_PAYMENT


# --- Row 77: the currency of the stored prices -----------------------------------------------------------------------


def test_row_77_another_currency_than_that_of_the_stored_prices_is_refused(
    new_app: Callable[..., Flask], app: Flask, order: OrderFactory
) -> None:
    waiting = order.awaiting()
    message = order.callback(waiting)
    other = new_app(SHOP_CURRENCY="KWD")
    with other.app_context():
        for command in (["serve"], ["worker"]):
            result = other.test_cli_runner().invoke(args=command)
            assert result.exit_code == 2, result.output
            assert result.output.startswith(
                "Error: SHOP_CURRENCY is KWD, but the prices in the database are in USD with 2"
            )
            assert "Set SHOP_CURRENCY=USD." in result.output
            assert result.output.count("\n") == 1
        assert other.test_client().post("/amwal/callback", json=message).status_code == 503
        [found] = [one for one in doctor.check_database(case(other)) if one.level == "FAIL"]
        assert (found.text, found.fix) == ("its prices are in USD, and SHOP_CURRENCY is KWD", "set SHOP_CURRENCY=USD")
    assert app.test_client().post("/amwal/callback", json=message).status_code == 200


def case(app: Flask) -> Case:
    """What the doctor knows of a shop."""
    return Case(app.extensions["settings"], ask_url("GET", "http://127.0.0.1:9/"))


def test_row_77_a_shop_without_prices_may_still_choose_and_an_old_one_keeps_what_it_has(
    new_app: Callable[..., Flask], app: Flask
) -> None:
    with write() as session:
        session.execute(text("UPDATE shop SET currency = NULL, exponent = NULL"))
    with new_app(SHOP_CURRENCY="SAR").app_context(), write() as session:
        assert tuple(session.execute(text("SELECT currency, exponent FROM shop")).one()) == ("SAR", 2)
    with write() as session:
        for table in ("stock_movement", "product"):
            session.execute(text(f"DELETE FROM {table}"))
    with new_app(SHOP_CURRENCY="IQD").app_context(), write() as session:
        assert tuple(session.execute(text("SELECT currency, exponent FROM shop")).one()) == ("IQD", 3)
