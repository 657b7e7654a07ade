"""The merchant's API: PUT to the project URL."""

import base64
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from sandbox.store import Store

Put = Callable[..., Any]


def test_the_reply_has_the_documented_shape(put: Put) -> None:
    reply = put({"amount": 5, "header": "Order A-1042"})
    assert reply.status_code == 200
    assert reply.mimetype == "application/json"
    body = reply.get_json()
    assert set(body) == {"data", "err"}
    assert body["err"] == 0
    data = body["data"]
    assert set(data) == {"invoiceId", "url", "QR", "secret", "status"}
    assert re.fullmatch("[0-9a-f]{24}", data["invoiceId"])
    assert data["url"] == f"http://192.168.7.7:8001/en/invoice/{data['invoiceId']}"
    assert UUID(data["secret"]).version == 4
    assert str(UUID(data["secret"])) == data["secret"]
    assert data["status"] == 1
    assert isinstance(data["status"], int)


def test_the_qr_code_is_a_png_in_a_data_uri(put: Put) -> None:
    qr = put({"amount": 5, "header": "Order"}).get_json()["data"]["QR"]
    kind, _, picture = qr.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(picture, validate=True).startswith(b"\x89PNG\r\n\x1a\n")


def test_all_documented_fields_are_kept(put: Put, store: Store) -> None:
    fields = {
        "amount": 12.5,
        "header": "طلب",
        "description": "Two cups",
        "successUrl": "https://shop.example/orders/1?returned=success",
        "cancelUrl": "http://127.0.0.1:8000/orders/1?returned=cancel",
    }
    invoice = store.invoice(put(fields).get_json()["data"]["invoiceId"])
    assert invoice
    assert (invoice.header, invoice.description) == (fields["header"], fields["description"])
    assert (invoice.success_url, invoice.cancel_url) == (fields["successUrl"], fields["cancelUrl"])
    assert invoice.paid_at is None


def test_every_invoice_has_its_own_id_and_secret(put: Put) -> None:
    replies = [put({"amount": 5, "header": "Order"}).get_json()["data"] for _ in range(3)]
    assert len({reply["invoiceId"] for reply in replies}) == len({reply["secret"] for reply in replies}) == 3


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("47.20", "47.20"),
        ("0.1", "0.1"),
        ("5", "5"),
        ("1e3", "1000"),
        ("0.000000000000000001", "0.000000000000000001"),
        ("123456789012345.123456", "123456789012345.123456"),
    ],
)
def test_the_amount_stays_exact(put: Put, store: Store, client: FlaskClient, sent: str, kept: str) -> None:
    data = put(f'{{"amount": {sent}, "header": "Order"}}').get_json()["data"]
    invoice = store.invoice(data["invoiceId"])
    assert invoice
    assert f"{invoice.amount:f}" == kept
    assert f"{Decimal(kept):,f}" in client.get(f"/en/invoice/{data['invoiceId']}").text


@pytest.mark.parametrize(
    "amount",
    ["0", "-1", "-0.0", '"5"', "true", "null", "[5]", "1e15", "1e-19", "1e999999", "1e-999999", "9" * 5000],
)
def test_an_amount_out_of_range_is_refused(put: Put, amount: str) -> None:
    assert_refused(put(f'{{"amount": {amount}, "header": "Order"}}'), 422)


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "1e99999999999999999999999", "05", "٥"])
def test_an_amount_that_is_no_json_is_refused(put: Put, amount: str) -> None:
    assert_refused(put(f'{{"amount": {amount}, "header": "Order"}}'), 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": 5},
        {"header": "Order"},
        {"amount": 5, "header": ""},
        {"amount": 5, "header": "  "},
        {"amount": 5, "header": 7},
        {"amount": 5, "header": None},
        {"amount": 5, "header": "nul \x00"},
        {"amount": 5, "header": "lone surrogate \ud800"},
        {"amount": 5, "header": "Order", "description": 7},
        {"amount": 5, "header": "Order", "successUrl": "/orders/1"},
        {"amount": 5, "header": "Order", "successUrl": "javascript:alert(1)"},
        {"amount": 5, "header": "Order", "successUrl": "http://"},
        {"amount": 5, "header": "Order", "successUrl": "http://[oops"},
        {"amount": 5, "header": "Order", "cancelUrl": "https://shop.example/a b"},
        {"amount": 5, "header": "Order", "cancelUrl": "https://shop.example/\n"},
        {"amount": 5, "header": "Order", "cancelUrl": {"href": "https://shop.example"}},
    ],
)
def test_a_missing_or_wrong_field_is_refused(put: Put, fields: dict[str, Any]) -> None:
    assert_refused(put(fields), 422)


PUBLISHED = {"amount": 5, "header": "Order", "description": "A short description", "successUrl": "", "cancelUrl": ""}
"""The fields that the documentation's own example sends."""


def test_row_109_the_published_example_works_as_it_stands(put: Put, store: Store, client: FlaskClient) -> None:
    data = put(PUBLISHED).get_json()["data"]
    invoice = store.invoice(data["invoiceId"])
    assert invoice
    assert (invoice.success_url, invoice.cancel_url) == ("", "")
    page = client.get(f"/en/invoice/{data['invoiceId']}")
    assert page.status_code == 200
    assert 'href=""' not in page.text
    paid = client.post(f"/en/invoice/{data['invoiceId']}/payment", follow_redirects=True)
    assert paid.status_code == 200
    assert 'href=""' not in paid.text


@pytest.mark.parametrize("field", ["description", "successUrl", "cancelUrl"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_row_109_an_empty_optional_field_is_an_absent_one(put: Put, field: str, empty: str) -> None:
    assert put({"amount": 5, "header": "Order", field: empty}).status_code == 200


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '"text"', "null", b"\xff\xfe{}", b'{"amount": 5, "header": "\xff"}', "[" * 60_000],
)
def test_a_body_that_is_no_json_object_is_refused(put: Put, body: str | bytes) -> None:
    assert_refused(put(body), 400)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "test-key"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer other-key"},
        {"Authorization": "Bearer ключ".encode().decode("latin-1")},
        {"Authorization": "Basic dGVzdC1rZXk6"},
    ],
)
def test_a_missing_or_wrong_key_is_refused(put: Put, headers: dict[str, str]) -> None:
    reply = put({"amount": 5, "header": "Order"}, headers=headers)
    assert_refused(reply, 401)
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


def test_another_project_is_refused(client: FlaskClient) -> None:
    headers = {"Authorization": "Bearer test-key"}
    assert_refused(client.put("/projects/" + "0" * 24, json={"amount": 5, "header": "Order"}, headers=headers), 404)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_the_project_url_takes_put_only(client: FlaskClient, store: Store, method: str) -> None:
    reply = client.open(f"/projects/{store.project().id}", method=method)
    assert reply.status_code == 405
    assert reply.headers["Allow"] == "PUT"


def test_a_huge_body_is_refused(put: Put) -> None:
    assert_refused(put({"amount": 5, "header": "x" * 70_000}), 413)


@pytest.mark.parametrize(
    "options",
    [
        {"environ_base": {"REMOTE_ADDR": "192.168.7.20"}},
        {"base_url": "http://shop.example"},
        {"headers": {"Authorization": "Bearer test-key", "X-Forwarded-For": "203.0.113.9"}},
    ],
)
def test_another_machine_is_refused(put: Put, options: dict[str, Any]) -> None:
    assert_refused(put({"amount": 5, "header": "Order"}, **options), 403)


def test_the_machines_own_address_on_the_network_is_accepted(put: Put) -> None:
    here = {"environ_base": {"REMOTE_ADDR": "192.168.7.7"}, "base_url": "http://192.168.7.7:8001"}
    assert put({"amount": 5, "header": "Order"}, **here).status_code == 200


def assert_refused(reply: Any, status: int) -> None:
    assert reply.status_code == status
    body = json.loads(reply.text)
    assert set(body) == {"data", "err", "message"}
    assert body["data"] is None
    assert body["err"] != 0
    assert body["message"]
