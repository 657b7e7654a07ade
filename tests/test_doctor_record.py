"""`flask doctor --record FILE`: what the gateway's reply looks like, without any value of it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

import amwal
from models import now
from shop.ops import doctor_record
from shop.ops.doctor_record import Heard
from shop.ops.probe import Answer, Case
from tests import test_doctor
from tests.children import free_port
from tests.conftest import API_KEY, sandbox_in
from tests.test_amwal import DATA, PNG
from tests.test_doctor import CANARIES, Stub, about, report

stub = test_doctor.stub
at_stub = test_doctor.at_stub
URL = "web address at an origin of AMWAL_PAYMENT_ORIGINS, 57 characters"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    """A sandbox of the test's own."""
    (tmp_path / "gateway").mkdir()
    with sandbox_in(tmp_path / "gateway") as store:
        yield store


@pytest.fixture
def record(new_app: Callable[..., Flask], store: Any, tmp_path: Path) -> Callable[..., Any]:
    """Run the doctor at the sandbox, with a planned trouble. Gives what is in the file."""

    def record(trouble: str = "") -> Any:
        if trouble:
            store.plan_trouble(trouble)
        file = tmp_path / "reply.json"
        _, lines = report(new_app(AMWAL_PROJECT_URL=store.project_url), "--create-test-invoice", "--record", str(file))
        first, *_, last = about("API key", lines)
        assert (first[0], last[0]) == ("note", "ok")
        assert str(file) in first[1]
        assert str(file) in last[1]
        assert file.stat().st_mode & 0o077 == 0
        return json.loads(file.read_text())

    return record


def test_the_sandboxs_reply_is_kept_without_its_values(record: Any, store: Any, tmp_path: Path) -> None:
    found = record()
    [invoice] = store.invoices(before=10**9, limit=9)
    picture = found["body"]["data"].pop("QR")
    assert picture.startswith("data URI of PNG, ")
    assert picture.endswith(" bytes")
    assert found == {
        "gateway": "sandbox",
        "date": f"{now():%Y-%m-%d}",
        "status": 200,
        "content-type": "application/json",
        "body": {
            "data": {"invoiceId": "24 hex digits", "secret": "UUID", "status": "number 1", "url": URL},
            "err": "number 0",
        },
    }
    text = (tmp_path / "reply.json").read_text()
    for value in (API_KEY, invoice.id, invoice.secret, store.project().id, "/en/invoice", "iVBORw0KGgo"):
        assert value[:8] not in text


JSON, HTML = "application/json", "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("trouble", "status", "content_type", "body"),
    [
        ("401", 401, JSON, {"data": "null", "err": "number 401", "message": "text of N characters"}),
        ("500", 500, JSON, {"data": "null", "err": "number 500", "message": "text of N characters"}),
        ("html", 200, HTML, "HTML, N bytes"),
        ("redirect", 307, HTML, "not read"),
        ("huge", 200, JSON, "not read"),
    ],
)
def test_of_a_refusal_or_a_bad_reply_the_shape_is_kept_too(  # noqa: PLR0917  (fixtures)
    record: Any, store: Any, trouble: str, status: int, content_type: str, body: object
) -> None:
    for _ in range(amwal.RETRIES if trouble == "500" else 0):
        store.plan_trouble(trouble)
    found = record(trouble)
    without_size = json.loads(re.sub(r"\d+ (?=characters|bytes)", "N ", json.dumps(found["body"])))
    assert (found["status"], found["content-type"], without_size) == (status, content_type, body)


def test_at_a_real_gateway_it_says_first_what_it_does(at_stub: Flask, stub: Stub, tmp_path: Path) -> None:
    stub.reply(status="new", more=None)
    file = tmp_path / "reply.json"
    _, lines = report(at_stub, "--create-test-invoice", "--record", str(file))
    texts = [text for _, text in about("API key", lines)]
    assert "creating a real invoice" in texts[0]
    assert str(file) in texts[1]
    found = json.loads(file.read_text())
    assert (found["gateway"], found["body"]["data"]["status"]) == (f"{stub.url}/", "text of 3 characters")


def test_of_an_err_its_number_is_kept(record: Any) -> None:
    found = record("err")
    assert (found["body"]["err"], found["body"]["data"]["url"]) == ("number 7", URL)


def shape(app: Flask, message: object, content_type: str = "") -> dict[str, Any]:
    """The shape of a reply."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    case = Case(app.extensions["settings"], Answer(200, ""))
    return doctor_record.shape(case, Heard(200, content_type, body))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("", "text of 0 characters"),
        ("two words", "text of 9 characters"),
        ("سر", "text of 2 characters, not all printable ASCII"),
        ("1234", "4 digits"),
        (1234, "whole number of 4 digits"),
        (-5, "whole number of 1 digits"),
        (0.5, "number with a fraction"),
        (False, "false"),
        ([1.5, "x"], ["list of 2", "number with a fraction"]),
        ([], ["list of 0"]),
        (str(DATA["QR"]).partition(",")[2], f"base64 of PNG, without a prefix, {len(PNG)} bytes"),
        ("data:image/png;base64,!", "data URI, image/png, 23 characters"),
        ("data:secret/value,!", "data URI, another, 19 characters"),
        ("https://amwal.exchange", "web address at another origin, 22 characters"),
        ("https://user:word@amwal.exchange/", "web address at another origin, 33 characters"),
    ],
)
def test_a_value_is_told_by_its_kind(app: Flask, value: object, found: object) -> None:
    assert shape(app, {"url": value})["body"] == {"url": found}


@pytest.mark.parametrize(
    ("body", "found"), [(b"", "nothing"), (b"<HTML>", "HTML, 6 bytes"), (b"[" * 9999, "no JSON, 9999 bytes")]
)
def test_a_body_that_is_no_json(app: Flask, body: bytes, found: str) -> None:
    assert shape(app, body)["body"] == found


def test_what_is_nested_too_deeply_or_too_much_is_left_out(app: Flask) -> None:
    lists: object = []
    for _ in range(20):
        lists = [lists]
    assert json.dumps(shape(app, lists)["body"]).count("list of") == doctor_record.DEPTH
    assert len(shape(app, {str(number): 1 for number in range(1000)})["body"]) == doctor_record.FIELDS


def test_only_the_documented_names_are_kept(new_app: Callable[..., Flask]) -> None:
    app, secret, key = new_app(**CANARIES), str(DATA["secret"]), CANARIES["AMWAL_API_KEY"]
    data = {
        "invoiceId": "sessionvalue",
        "AhmadKhalil": 1,
        f"is-{secret}": {"canary": 2},
        key: 3,
        "url": f"https://{secret}.example/",
        "secret": secret,
        "message": f"Bearer {key}",
    }
    found = shape(app, data, f"text/{key[:10]}")
    assert found["content-type"] == "another"
    assert [*found["body"]] == ["invoiceId", "field 2", "field 3", "field 4", "url", "secret", "message"]
    for value in ("sessionvalue", "Ahmad", secret[:8], "anary", "example", key[:6]):
        assert value not in json.dumps(found)


# --- The file --------------------------------------------------------------------------------------------------------


def run(app: Flask, *options: str) -> Result:
    """Run the command."""
    with app.app_context():
        return app.test_cli_runner().invoke(args=["doctor", *options])


@pytest.mark.parametrize(
    ("name", "why"), [("there", "exists already"), ("no/folder", "No such file"), ("there/below", "Not a directory")]
)
def test_a_bad_file_is_refused_before_the_invoice_is_created(
    at_stub: Flask, stub: Stub, tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "there").write_text("mine")
    result = run(at_stub, "--create-test-invoice", "--record", str(tmp_path / name))
    assert result.exit_code == 2
    assert why in result.output
    assert not stub.requests
    assert (tmp_path / "there").read_text() == "mine"


def test_the_terminal_is_no_file(at_stub: Flask, stub: Stub) -> None:
    assert "name a file" in run(at_stub, "--create-test-invoice", "--record", "-").output
    assert not stub.requests


def test_without_a_reply_or_an_invoice_nothing_is_written(
    at_stub: Flask, stub: Stub, new_app: Callable[..., Flask], tmp_path: Path
) -> None:
    file = tmp_path / "reply.json"
    assert f"not tried, and {file} was not written" in run(at_stub, "--record", str(file)).output
    assert not [request for request in stub.requests if request[0] == "PUT"]
    case = Case(at_stub.extensions["settings"], Answer(200, ""), record=file)
    [finding] = doctor_record.write(case, Heard())
    assert finding.level == "skip"
    run(new_app(AMWAL_PROJECT_URL=f"http://127.0.0.1:{free_port()}/p"), "--create-test-invoice", "--record", str(file))
    assert not file.exists()
    assert not [*tmp_path.glob("*.part"), *tmp_path.glob(".*.part")]


def test_a_file_that_can_no_longer_be_written_is_a_failure(at_stub: Flask, tmp_path: Path) -> None:
    (tmp_path / "reply.json").touch()
    case = Case(at_stub.extensions["settings"], Answer(200, ""), record=tmp_path / "reply.json")
    [finding] = doctor_record.write(case, Heard(200, "", b"{}"))
    assert finding.level == "FAIL"
