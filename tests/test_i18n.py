"""Times as people read them (row 94)."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask
from flask_babel import force_locale

from shop.views.i18n import clock, iso, moment
from stage import network
from tests.conftest import OrderFactory

NOON = datetime(2026, 11, 26, 12, 0, 0, 123456, tzinfo=UTC)
ZONES = [
    ("UTC", "12:00 UTC"),
    ("Europe/Berlin", "13:00 CET"),
    ("America/New_York", "07:00 EST"),
    ("Asia/Riyadh", "15:00 UTC+3"),
    ("Asia/Amman", "15:00 UTC+3"),
    ("Asia/Kolkata", "17:30 IST"),
    ("Asia/Kathmandu", "17:45 UTC+5:45"),
    ("America/Sao_Paulo", "09:00 UTC-3"),
    ("Africa/Cairo", "14:00 EET"),
    ("Etc/GMT+3", "09:00 UTC-3"),
]


@pytest.mark.sqlite
@pytest.mark.parametrize(("zone", "expected"), ZONES)
def test_row_94_a_time_carries_its_zone(new_app: Callable[..., Flask], zone: str, expected: str) -> None:
    with new_app(SHOP_TIMEZONE=zone).app_context():
        assert clock(NOON) == expected
        with force_locale("en"):
            assert moment(NOON) == f"26 Nov 2026, {expected}"
        with force_locale("ar"):
            assert f"\u2066{expected}\u2069" in moment(NOON)
        assert iso(NOON) == "2026-11-26T12:00:00+00:00"


@pytest.mark.sqlite
def test_row_94_in_summer_it_is_the_summers(new_app: Callable[..., Flask]) -> None:
    with new_app(SHOP_TIMEZONE="Europe/Berlin").app_context():
        assert clock(NOON.replace(month=7)) == "14:00 CEST"


def test_row_94_wherever_a_page_or_a_mail_shows_a_time(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    page = app.test_client().get(f"/orders/{waiting.token}").text
    assert re.search(r"reserved until <time datetime=\"[\d:T+-]+\"><bdi dir=\"ltr\">\d\d:\d\d UTC</bdi></time>", page)
    for file in (Path(app.root_path) / "templates").rglob("*.*"):
        for shown in re.findall(r"\w+_at ?\|(\w+)|_until ?\|(\w+)", file.read_text(encoding="utf-8")):
            assert set(shown) & {"clock", "moment", "iso", "day"}, file.name


@pytest.mark.parametrize(
    ("variable", "zone"), [("Asia/Riyadh", "Asia/Riyadh"), (":Europe/Berlin", "Europe/Berlin"), ("CET-1CEST", "UTC")]
)
def test_row_94_the_demo_takes_the_machines_zone(monkeypatch: pytest.MonkeyPatch, variable: str, zone: str) -> None:
    monkeypatch.setenv("TZ", variable)
    assert network.time_zone() == zone


def test_row_94_or_what_the_system_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.setattr("stage.network.os.path.realpath", lambda _: "/usr/share/zoneinfo/Asia/Amman")
    assert network.time_zone() == "Asia/Amman"
    monkeypatch.setattr("stage.network.os.path.realpath", lambda _: "/etc/localtime")
    assert network.time_zone() == "UTC"
