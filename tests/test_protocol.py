"""The protocol as data: docs/amwal.openapi.yaml and docs/vectors agree with docs/protocol.md, sandbox and client."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

import amwal
from sandbox.trouble import CASES, replies
from tests import vectors
from tests.children import ROOT
from tests.conftest import API_KEY, OrderFactory
from tests.sandbox.conftest import Shop

OPENAPI = yaml.safe_load((ROOT / "docs" / "amwal.openapi.yaml").read_text(encoding="utf-8"))
PUT = OPENAPI["paths"]["/"]["put"]
CALLBACK = OPENAPI["webhooks"]["paymentConfirmed"]["post"]
STATUS = re.compile(r"documented|inferred|seen \d{4}-\d\d-\d\d")


def content(place: Any) -> Any:
    """The JSON of a request or response: its schema and its examples."""
    return place["content"]["application/json"]


def check(place: Any, message: Any) -> None:
    """Raise ValidationError if a message isn't as the description says."""
    schema = {"components": OPENAPI["components"]} | content(place)["schema"]
    Draft202012Validator(schema).validate(message)


# --- The description itself ------------------------------------------------------------------------------------------


def test_the_description_is_openapi() -> None:
    schema = json.loads((Path(__file__).parent / "data" / "openapi-3.1.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(OPENAPI)
    for one in OPENAPI["components"]["schemas"].values():
        Draft202012Validator.check_schema(one)


def facts() -> Iterator[tuple[str, Any]]:
    """What must say how we know it: operations, bodies, responses, fields, groups of constraints, examples."""
    for operation in (PUT, CALLBACK):
        yield operation["operationId"], operation
        yield "requestBody", operation["requestBody"]
        yield from operation["responses"].items()
        for place in (operation["requestBody"], *operation["responses"].values()):
            yield from content(place).get("examples", {}).items() if "content" in place else ()
    yield from OPENAPI["components"]["securitySchemes"].items()
    for name, schema in OPENAPI["components"]["schemas"].items():
        yield name, schema
        for field, one in schema.get("properties", {}).items():
            yield f"{name}.{field}", one
            yield from ((f"{name}.{field}", group) for group in one.get("allOf", ()) if "$ref" not in group)
        yield from ((name, group) for group in schema.get("allOf", ()) if "$ref" not in group)


def test_everything_says_how_it_is_known() -> None:
    found = list(facts())
    assert len(found) > 40
    assert [name for name, fact in found if not STATUS.fullmatch(fact.get("x-status", ""))] == []


@pytest.mark.parametrize(
    ("schema", "section"),
    [("InvoiceRequest", "Create an invoice"), ("Invoice", "Create an invoice"), ("Callback", "The callback")],
)
def test_a_field_has_the_status_that_the_page_gives_it(schema: str, section: str) -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8").partition(f"\n## {section}\n")[2]
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| ((?:documented|inferred|seen on)[^|]*?) \|", page, re.MULTILINE))
    for name, field in OPENAPI["components"]["schemas"][schema]["properties"].items():
        assert field["x-status"] == told[name].replace(" on", ""), name


@pytest.mark.parametrize("place", [PUT["requestBody"], PUT["responses"]["200"], CALLBACK["requestBody"]])
def test_its_examples_are_as_it_says(place: Any) -> None:
    for example in content(place)["examples"].values():
        check(place, example["value"])


def test_the_vectors_begin_with_the_documented_examples() -> None:
    for place, name in ((CALLBACK["requestBody"], "callbacks.json"), (PUT["responses"]["200"], "replies.json")):
        first = json.loads(vectors.body(vectors.read(name)["vectors"][0]))
        check(place, first)
        published = content(place)["examples"]["published"]["value"]
        first.get("data", {})["QR"] = published.get("data", {}).get("QR")  # cut in the description
        assert first == published


@pytest.mark.parametrize("name", ["callbacks.json", "replies.json"])
def test_the_vectors_have_names_reasons_and_rules(name: str) -> None:
    found = vectors.read(name)["vectors"]
    assert len({vector["name"] for vector in found}) == len(found) > 30
    assert all(vector["why"] and 1 <= vector["rule"] <= 10 for vector in found)


# --- What goes to and fro --------------------------------------------------------------------------------------------

Put = Callable[..., requests.Response]


@pytest.fixture
def put(gateway: Any) -> Put:
    """Send the documentation's example to the sandbox, or something else."""

    def put(body: str = "", key: str = API_KEY, url: str = gateway.project_url) -> requests.Response:
        example = content(PUT["requestBody"])["examples"]["published"]["value"]
        headers = {"Authorization": f"Bearer {key}"}
        return requests.put(url, data=body or json.dumps(example), headers=headers, timeout=10)

    return put


def conforms(reply: requests.Response) -> bool:
    """Whether a reply is as the description says for its HTTP status."""
    responses = PUT["responses"]
    place = responses.get(str(reply.status_code)) or responses[f"{reply.status_code // 100}XX"]
    try:
        if "content" in place:
            check(place, reply.json())
    except (requests.JSONDecodeError, ValidationError):
        return False
    return True


def test_the_sandbox_replies_as_described(put: Put) -> None:
    reply = put()
    assert reply.json()["err"] == 0
    assert conforms(reply)


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"body": "{"}, 400), ({"key": "wrong"}, 401), ({"url": "projects/0"}, 404), ({"body": '{"amount": 5}'}, 422)],
)
def test_the_sandbox_refuses_as_described(gateway: Any, put: Put, changes: dict[str, str], status: int) -> None:
    if "url" in changes:
        changes = {"url": urljoin(gateway.project_url, f"/{changes['url']}")}
    reply = put(**changes)
    assert reply.status_code == status
    assert conforms(reply)


UNREADABLE = {"drip", "reset", "lost", "redirect", "huge", "bomb"}
BREAKING = {"html", "missing-field", "wrong-type", "javascript-url", "markup-qr", "svg-qr", "remote-qr"}


@pytest.mark.parametrize("case", sorted({name for name, case in CASES.items() if case.at == "put"} - UNREADABLE))
def test_only_what_is_meant_to_breaks_the_description(
    gateway: Any, put: Put, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "SLOW_SECONDS", 0)
    put()  # the earlier invoice that `repeated-id` wants
    gateway.plan_trouble(case)
    assert conforms(put()) == (case not in BREAKING)


@pytest.fixture
def shop(gateway: Any) -> Iterator[Shop]:
    """A shop that gets the sandbox's callbacks."""
    shop = Shop()
    threading.Thread(target=shop.server.serve_forever, args=(0.01,), daemon=True).start()
    gateway.keep_settings(callback_url=shop.callback_url)
    yield shop
    gateway.keep_settings(callback_url="")
    shop.server.shutdown()
    shop.server.server_close()


def test_the_sandbox_calls_back_as_described(gateway: Any, put: Put, shop: Shop) -> None:
    put()
    for case in ("duplicate", "second-session", "missing-ids", "forged", "other-invoice"):
        trouble = {"case": case, "invoice": "last"}
        requests.post(urljoin(gateway.project_url, "/trouble"), json=trouble, timeout=10)
    assert len(shop.heard) >= 6
    for message in shop.heard:
        check(CALLBACK["requestBody"], message)


def test_client_and_shop_ask_as_described(gateway: Any, order: OrderFactory) -> None:
    client = amwal.Client(gateway.project_url, API_KEY, {"http://127.0.0.1:8001"})
    order.awaiting()
    client.create_invoice(amount=Decimal("0.30"), header="Order")
    urls = {"success_url": "https://shop.example/1", "cancel_url": "https://shop.example/2"}
    client.create_invoice(amount=Decimal(5), header="طلب", description="Two cups", **urls)
    for asked in gateway.requests(limit=3):
        check(PUT["requestBody"], json.loads(asked.body))


def test_the_documents_examples_are_as_described() -> None:
    """Those of curl."""
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))
    messages = [json.loads(data) for data in re.findall(r"--data '(\{.*?\})'", pages, re.DOTALL)]
    assert {"amount" in message for message in messages} == {True, False}
    for message in messages:
        check((PUT if "amount" in message else CALLBACK)["requestBody"], message)


GOOD = {"amount": 5, "header": "Order"}
BAD = [{"amount": 5}, {"header": "Order"}, *(GOOD | bad for bad in ({"amount": "5"}, {"amount": 0}, {"header": ""}))]
BAD += [GOOD | {"successUrl": "javascript:alert(1)"}, GOOD | {"description": None}]


@pytest.mark.parametrize("message", BAD)
def test_a_request_that_is_not_as_described(message: dict[str, Any]) -> None:
    check(PUT["requestBody"], GOOD | {"unknown": 1})
    with pytest.raises(ValidationError):
        check(PUT["requestBody"], message)
