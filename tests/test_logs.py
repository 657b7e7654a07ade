"""The log: every line names its request, and nobody can forge one (row 55)."""

import io
import json
import logging
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from flask import Flask

from shop import catalogue, payments, worker
from shop.ops import logs
from tests.children import free_port, wait_for
from tests.conftest import CheckingClient, OrderFactory, Serve

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\w+) \[([\w. -]+)\] ([\w.]+): (.*)")
FORGED = "\r\n2026-11-22T10:00:00.000Z INFO [-] shop.payments: callback accepted: 17"
BREAKS = ["\n", "\r", "\x0b", "\x0c", "\x1b[2K", "\x85", "\u2028", "\u2029", "\x00", "\u202e", "\ud800"]


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What `flask serve` would have written to its error output."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.OneLine())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def lines(written: io.StringIO) -> list[tuple[str, str, str, str]]:
    """Level, request, place and words of each line; of nothing but lines and indented tracebacks."""
    found = []
    for text in written.getvalue().splitlines():
        line = LINE.fullmatch(text)
        assert line or text.startswith("  | "), text
        if line:
            found.append((line[1], line[2], line[3], line[4]))
    return found


@pytest.mark.parametrize("name", BREAKS, ids=ascii)
def test_row_55_a_name_stays_on_its_line(written: io.StringIO, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, root = logging.getLogger("shop.test"), logging.getLogger()
    # Only through the one handler: pytest's reports, which another handler feeds, cannot carry a lone surrogate.
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [one for one in root.handlers if isinstance(one.formatter, logs.OneLine)])
    logger.warning("no invoice for %s", f"Sara{name}{FORGED}")
    [(level, _, place, words)] = lines(written)
    assert (level, place) == ("WARNING", "shop.test")
    assert words.isprintable()
    assert words.startswith("no invoice for Sara\\")


def test_row_55_a_path_and_an_errors_own_words_forge_no_line(
    app: Flask, client: CheckingClient, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(slug: str) -> None:
        raise RuntimeError(f"no such product: {slug}")

    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    monkeypatch.setattr(catalogue, "product", fail)
    assert client.get(f"/products/cup{quote(FORGED)}").status_code == 500
    [(level, _, place, words)] = lines(written)
    assert (level, place) == ("ERROR", "shop.views.errors")
    assert "cup\\r\\n2026-11-22T10" in words
    assert "RuntimeError: no such product: cup\\r" in written.getvalue()


def test_row_55_what_others_say_forges_no_line(
    order: OrderFactory, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(f"451 try again{FORGED}")

    order.awaiting()
    monkeypatch.setattr("shop.worker.mail.send", refuse)
    worker.tick()
    body = json.dumps({"secret": f"s{FORGED}", "invoiceId": FORGED, "paymentSessionId": FORGED}).encode()
    payments.accept_callback(body, f"127.0.0.1{FORGED}")
    said = [words for _, _, place, words in lines(written) if place.startswith("shop.")]
    assert len(said) == 2
    assert "451 try again\\r\\n2026" in said[0]
    assert said[1] == "callback unknown_secret: no invoice of ours has this secret"


def test_every_line_of_a_request_has_the_id_that_its_answer_names(client: CheckingClient, written: io.StringIO) -> None:
    answers = [client.post("/amwal/callback", data=b"x") for _ in range(3)]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)
    assert [request for _, request, place, _ in lines(written) if place == "shop.payments"] == ids
    logging.getLogger("shop.outbox").warning("outside of any request")
    assert lines(written)[-1][1] == "-"


@pytest.mark.parametrize("path", ["/", "/nothing", "/healthz", "/amwal/callback"])
def test_every_answer_names_its_request(client: CheckingClient, path: str) -> None:
    assert client.get(path).headers["X-Request-ID"]
    assert client.get(path, base_url="http://evil.example").headers["X-Request-ID"]


SENT = ["", "short", "a" * 65, "a b c d e f", "id-12345678\x1b[2K", "id;12345678", "ünsinnig-id", "سلام-سلام"]


def test_row_104_an_id_from_outside_stands_beside_our_own_and_only_behind_a_known_proxy(
    new_app: Callable[..., Flask], written: io.StringIO
) -> None:
    def logged(client: Any, sent: str) -> list[str]:
        headers = {"X-Request-ID": sent.encode().decode("latin-1")}
        own = str(client.post("/amwal/callback", data=b"x", headers=headers).headers["X-Request-ID"])
        assert re.fullmatch("[0-9a-f]{16}", own)
        ids = lines(written)[-1][1].split()
        assert ids[0] == own
        return ids[1:]

    alone, behind = new_app().test_client(), new_app(TRUSTED_PROXIES="1").test_client()
    good = "0af7651916cd43dd-8448eb211c80319c"
    assert logged(alone, good) == []
    assert logged(behind, good) == [good]
    for odd in SENT:
        assert logged(behind, odd) == [], odd


def test_the_programs_write_such_lines(serve: Serve, migrated: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    shop = serve(port, PUBLIC_URL=here)
    try:
        wait_for(f"{here}/readyz")
        request_id = requests.post(f"{here}/amwal/callback", data="x", timeout=5).headers["X-Request-ID"]
    finally:
        shop.send_signal(signal.SIGTERM)
        output, _ = shop.communicate(timeout=20)
    [line] = [line for line in output.splitlines() if "callback malformed" in line]
    found = LINE.fullmatch(line)
    assert found
    assert found[2] == request_id
