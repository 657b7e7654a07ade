"""Row 60: a clock that is a day off, or steps, undoes no payment."""

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo

import pytest
from flask import Flask

import models
from shop import orders, payments, worker
from shop.limits import UNLIMITED
from shop.states import CUSTOMER, CallbackOutcome, OrderState
from tests.conftest import CheckingClient, OrderFactory, stock_of

DAY = timedelta(days=1)


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Set the shop's clock to that much from the true time."""

    def step(by: timedelta) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + by

        monkeypatch.setattr(models, "datetime", Clock)

    return step


STEPS = [(DAY, -DAY), (-DAY, DAY), (-DAY, -DAY), (DAY, DAY), (365 * DAY, timedelta(0))]


@pytest.mark.parametrize(("before", "after"), STEPS, ids=str)
def test_row_60_a_paid_order_stays_paid_whatever_the_clock_says(
    app: Flask, order: OrderFactory, step: Callable[[timedelta], None], before: timedelta, after: timedelta
) -> None:
    step(before)
    paid, stock = order.awaiting(), stock_of("stoneware-cup")
    assert order.pay(paid) is CallbackOutcome.ACCEPTED
    for by in (after, before, after * 40):
        step(by)
        worker.tick()
        assert not orders.expire(paid.id)
        assert not orders.cancel(paid.id, CUSTOMER)
        assert not orders.resume(paid.id, UNLIMITED)
        orders.record_return(paid.id)
        payments.request_invoice(paid.id)
        assert order.pay(paid) is CallbackOutcome.DUPLICATE
        now = order.again(paid)
        assert (now.state, len(now.payments), stock_of("stoneware-cup")) == (OrderState.PAID, 1, stock)


@pytest.mark.parametrize(("before", "after"), STEPS, ids=str)
def test_row_60_an_order_that_the_clock_gave_up_is_still_paid(
    order: OrderFactory, client: CheckingClient, step: Callable[[timedelta], None], before: timedelta, after: timedelta
) -> None:
    """At worst its goods are let go too early, and are taken again when the money comes."""
    step(before)
    waiting = order.awaiting()
    step(after)
    worker.tick()
    page = client.get(f"/orders/{waiting.token}?key={waiting.key}")
    assert page.status_code == 200
    order.pay(waiting)
    assert order.again(waiting).state is OrderState.PAID
    assert stock_of("stoneware-cup") >= 0
