"""The merchant's account."""

import email
import email.policy
import html
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from sandbox import account
from sandbox.delivery import DeliveryWorker, Sending
from sandbox.records import Delivery, DeliveryState, NewInvoice
from sandbox.store import Store
from sandbox.trouble import BUTTONS

MakeInvoice = Callable[..., dict[str, Any]]
Eventually = Callable[[Callable[[], object]], None]
SETTINGS = {"api_key": "test-key", "callback_url": "http://127.0.0.1:9/callback", "callbacks_on": "on"}
HERE_ONLY = ("account", "trouble", "api")


def routes(client: FlaskClient) -> Iterator[tuple[str, str]]:
    """Yield method and path of all routes that only this machine may use."""
    adapter = client.application.url_map.bind("")
    values = {"project_id": "0" * 24, "delivery_id": 1}
    for rule in client.application.url_map.iter_rules():
        if rule.endpoint.split(".")[0] in HERE_ONLY:
            path = adapter.build(rule.endpoint, {name: values[name] for name in rule.arguments})
            yield from ((method, path) for method in rule.methods or () if method != "OPTIONS")


def delivery_of(store: Store, invoice_id: str) -> Delivery:
    """Return the invoice's only delivery."""
    [delivery] = store.deliveries_of([invoice_id])
    return delivery


def test_it_shows_what_the_shops_settings_need(client: FlaskClient, store: Store, shop: Any) -> None:
    page = client.get("/").text
    for part in (f"http://localhost/projects/{store.project().id}", "test-key", shop.callback_url):
        assert part in page


def test_it_shows_invoices_newest_first(client: FlaskClient, store: Store) -> None:
    for number in range(52):
        store.add_invoice(NewInvoice(amount=Decimal(5), header=f"Order {number:02}"))
    page = client.get("/").text
    assert page.index("Order 51") < page.index("Order 02")
    assert "Order 01" not in page
    assert "Order 01" in client.get("/?before=3").text


@pytest.mark.parametrize("before", ["-1", "x", "", "99999999999999999999999"])
def test_an_invalid_page_is_no_error(client: FlaskClient, before: str) -> None:
    assert client.get(f"/?before={before}").status_code == 200


def test_it_shows_each_attempt_with_its_answer(
    client: FlaskClient, invoice: MakeInvoice, shop: Any, worker: DeliveryWorker, eventually: Callable[..., None]
) -> None:
    shop.answers = [503, 200]
    shop.reply = b"<b>the shop's answer</b>"
    data = invoice()
    assert "New" in client.get("/").text
    client.post(f"/en/invoice/{data['invoiceId']}/payment")
    assert "Callback waiting" in client.get("/").text
    worker.start()
    eventually(lambda: "Callback delivered" in client.get("/").text)
    page = client.get("/").text
    for part in ("PAID", "503", "200", "2 of 30 attempts", "&lt;b&gt;the shop", data["secret"]):
        assert part in page


@pytest.mark.parametrize(
    "options",
    [
        {"environ_base": {"REMOTE_ADDR": "192.168.7.20"}},
        {"environ_base": {"REMOTE_ADDR": "192.168.7.20"}, "base_url": "http://192.168.7.7:8001"},
        {"base_url": "http://rebound.example:8001"},
        {"headers": {"X-Forwarded-For": "203.0.113.9"}},
        {"headers": {"Forwarded": "for=203.0.113.9"}},
        {"headers": {"Host": ""}},
        {"headers": {"Host": "["}},
        {"headers": {"Host": "[::1"}},
        {"headers": {"Host": "localhost.evil.example"}},
    ],
)
def test_another_machine_is_refused_with_an_explanation(client: FlaskClient, options: dict[str, Any]) -> None:
    page = client.get("/", **options)
    assert page.status_code == 403
    assert "only available on the machine that runs the sandbox" in page.text
    assert "test-key" not in page.text
    for method, path in routes(client):
        assert client.open(path, method=method, **options).status_code == 403, (method, path)


@pytest.mark.parametrize(
    "options",
    [
        {"environ_base": {"REMOTE_ADDR": "::1"}, "base_url": "http://[::1]:8001"},
        {"environ_base": {"REMOTE_ADDR": "::ffff:127.0.0.1"}, "base_url": "http://127.0.0.1:8001"},
        {"environ_base": {"REMOTE_ADDR": "192.168.7.7"}, "base_url": "http://192.168.7.7:8001"},
    ],
)
def test_this_machine_is_allowed(client: FlaskClient, options: dict[str, Any]) -> None:
    assert client.get("/", **options).status_code == 200


def test_changes_are_post_only(client: FlaskClient) -> None:
    methods = {(path, method) for method, path in routes(client) if path != "/" and not path.startswith("/projects/")}
    assert methods == {(path, "POST") for path in ("/settings", "/clock", "/deliveries/1/attempt", "/trouble")}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:81"])
def test_a_form_of_another_site_changes_nothing(
    client: FlaskClient, store: Store, invoice: MakeInvoice, origin: str
) -> None:
    store.pay(invoice()["invoiceId"])
    before = (store.project(), store.waiting_deliveries(9), store.planned_troubles(), store.clock_goal)
    fields = {**SETTINGS, "seconds": 60, "case": "slow", "invoice": "next"}
    for method, path in routes(client):
        if method == "POST":
            reply = client.post(path, data=fields, headers={"Origin": origin})
            assert reply.status_code == 403
            assert "from another site" in reply.text
    assert before == (store.project(), store.waiting_deliveries(9), store.planned_troubles(), store.clock_goal)


def test_settings_survive_a_restart_and_apply_to_the_next_request_and_callback(
    *,
    client: FlaskClient,
    store: Store,
    invoice: MakeInvoice,
    put: Any,
    shop: Any,
    database: Path,
    eventually: Eventually,
) -> None:
    invoice_id = invoice()["invoiceId"]
    settings = {"api_key": " new-key ", "callback_url": shop.callback_url + "?from=sandbox", "failure_mails_on": "on"}
    reply = client.post("/settings", data=settings | {"callbacks_on": "on"}, headers={"Origin": "http://localhost"})
    assert (reply.status_code, reply.location) == (303, "/#project")
    assert put({"amount": 5, "header": "Order"}).status_code == 401
    new = {"Authorization": "Bearer new-key"}
    assert put({"amount": 5, "header": "Order"}, headers=new).status_code == 200

    again = Store(database)
    project = again.project()
    assert (project.api_key, project.callback_url) == ("new-key", settings["callback_url"])
    assert project.callbacks_on
    assert project.failure_mails_on
    again.pay(invoice_id)
    worker = DeliveryWorker(again)
    worker.start()
    eventually(lambda: shop.paths == ["/amwal/callback?from=sandbox"])
    worker.stop()
    again.close()


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("api_key", ""),
        ("api_key", "   "),
        ("api_key", "two words"),
        ("api_key", "a\x00b"),
        ("api_key", "ключ"),
        ("callback_url", "shop.example/callback"),
        ("callback_url", "ftp://shop.example/"),
        ("callback_url", "javascript:alert(1)"),
        ("callback_url", "http://"),
        ("callback_url", "http://["),
        ("callback_url", "http://shop.example:99999/"),
        ("callback_url", "http://shop.example/a b"),
        ("callback_url", "http://shop.example/\nx"),
    ],
)
def test_an_invalid_setting_is_reported_at_its_field_and_none_is_saved(
    client: FlaskClient, store: Store, field: str, typed: str
) -> None:
    before = store.project()
    other = {"api_key": "other-key", "callback_url": "http://other.example/", "failure_mails_on": "on"}
    reply = client.post("/settings", data={**other, field: typed})
    assert reply.status_code == 422
    assert f'aria-describedby="{field}-error"' in reply.text
    assert reply.text.count('class="error"') == 1
    assert '<details class="change" open>' in reply.text
    for name, value in ({**other, field: typed.strip()}).items():
        if name != "failure_mails_on":
            assert re.search(rf'name="{name}" value="{re.escape(html.escape(value))}', reply.text)
    assert store.project() == before


def test_the_callback_url_may_be_empty(client: FlaskClient, store: Store) -> None:
    client.post("/settings", data={**SETTINGS, "callback_url": ""})
    assert store.project().callback_url == ""
    assert not store.project().sends_callbacks


def test_switching_callbacks_off_stops_new_ones_and_pauses_waiting_ones(
    *,
    client: FlaskClient,
    store: Store,
    invoice: MakeInvoice,
    shop: Any,
    worker: DeliveryWorker,
    eventually: Eventually,
) -> None:
    waiting, untold = invoice()["invoiceId"], invoice()["invoiceId"]
    store.pay(waiting)
    off = {"api_key": "test-key", "callback_url": shop.callback_url}
    client.post("/settings", data=off)
    worker.start()
    store.pay(untold)
    page = client.get("/").text
    for part in ("Callback paused", "Callbacks are off", "New payments trigger no callback"):
        assert part in page
    assert "Send now" not in page
    paused = delivery_of(store, waiting)
    client.post(f"/deliveries/{paused.id}/attempt")
    assert delivery_of(store, waiting) == paused
    assert shop.heard == []
    client.post("/settings", data={**off, "callbacks_on": "on"})
    eventually(lambda: delivery_of(store, waiting).state is DeliveryState.DELIVERED)
    assert store.deliveries_of([untold]) == []


def test_send_now_makes_the_next_attempt_at_once(
    client: FlaskClient, store: Store, invoice: MakeInvoice, shop: Any
) -> None:
    worker = DeliveryWorker(store)
    worker.start()
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id, tell_after=3600)
    delivery = delivery_of(store, invoice_id)
    assert f'action="/deliveries/{delivery.id}/attempt"' in client.get("/").text
    reply = client.post(f"/deliveries/{delivery.id}/attempt")
    assert (reply.status_code, reply.location) == (303, f"/#invoice-{invoice_id}")
    assert f'id="invoice-{invoice_id}"' in client.get("/").text
    assert delivery_of(store, invoice_id).state is DeliveryState.DELIVERED
    client.post(f"/deliveries/{delivery.id}/attempt")
    worker.stop()
    assert len(shop.heard) == 1


def test_send_now_works_after_the_last_retry(
    *,
    client: FlaskClient,
    store: Store,
    invoice: MakeInvoice,
    shop: Any,
    worker: DeliveryWorker,
    eventually: Eventually,
) -> None:
    shop.answers = [*([500] * 31), 200]
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    worker.start()
    eventually(lambda: delivery_of(store, invoice_id).state is DeliveryState.GIVEN_UP)
    given_up = delivery_of(store, invoice_id)
    client.post(f"/deliveries/{given_up.id}/attempt")
    assert delivery_of(store, invoice_id).state is DeliveryState.GIVEN_UP  # failed again, without further retries
    page = client.get("/").text
    assert "Callback given up" in page
    assert "31 attempts" in page
    client.post(f"/deliveries/{given_up.id}/attempt")
    assert delivery_of(store, invoice_id).state is DeliveryState.DELIVERED
    assert len(shop.heard) == 32


@pytest.mark.parametrize("number", ["0", "7", str(2**63 - 1), str(2**63), "9" * 30, "x", "-1"])
def test_a_delivery_that_does_not_exist_is_a_404(client: FlaskClient, number: str) -> None:
    assert client.post(f"/deliveries/{number}/attempt").status_code == 404


def test_the_page_of_the_list_is_kept_when_a_button_is_pressed(
    client: FlaskClient, store: Store, invoice: MakeInvoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "WAIT_SECONDS", 0)
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    [action] = re.findall('action="(/deliveries/[^"]+)"', client.get("/?show=paid&before=9&else=1").text)
    assert client.post(html.unescape(action)).location == f"/?show=paid&before=9#invoice-{invoice_id}"


def test_only_paid_invoices_can_be_listed_with_their_ids_to_copy(client: FlaskClient, store: Store) -> None:
    made = [store.add_invoice(NewInvoice(amount=Decimal(5), header=f"Order {number:03}")) for number in range(110)]
    paid = [invoice.id for invoice in made if invoice.number % 2]
    for invoice_id in paid:
        store.pay(invoice_id)
    store.pay(made[109].id, confirm_after=60)
    assert "<textarea" not in client.get("/").text
    page = client.get("/?show=paid").text
    ids = re.search("<textarea[^>]*>([^<]*)</textarea>", page)
    assert ids
    assert ids[1].split("\n") == paid[::-1]
    assert page.count("PAID") == 50
    assert "Order 108" in page
    assert "Order 107" not in page
    assert made[109].id not in page  # still being confirmed
    [older] = re.findall('href="([^"]*before=[^"]*)"', page)
    page = client.get(html.unescape(older)).text
    assert page.count("PAID") == 5
    assert "Order 000" in page


def test_an_unconfirmed_payment_is_not_shown_as_paid(client: FlaskClient, store: Store, invoice: MakeInvoice) -> None:
    store.pay(invoice()["invoiceId"], confirm_after=60)
    page = client.get("/").text
    assert "Confirming" in page
    assert "PAID" not in page
    assert "Send now" not in page
    assert 'value="duplicate"' not in page


def test_fault_cases_have_buttons_where_they_apply_and_say_what_a_shop_must_do(
    client: FlaskClient, store: Store, invoice: MakeInvoice
) -> None:
    assert re.findall('name="case" value="([^"]+)"', client.get("/").text) == ["slow"]
    invoice_id = invoice()["invoiceId"]
    page = client.get("/").text
    assert set(re.findall('name="case" value="([^"]+)"', page)) == {case.name for case in BUTTONS}
    for case in BUTTONS:
        assert html.escape(f"A shop must {case.must}.", quote=False).replace("'", "&#39;") in page
    store.pay(invoice_id)
    assert re.findall('name="case" value="([^"]+)"', client.get("/").text) == ["slow", "duplicate", "forged"]


def test_the_buttons_start_their_fault_cases(
    client: FlaskClient, store: Store, invoice: MakeInvoice, shop: Any
) -> None:
    reply = client.post("/trouble", data={"case": "slow", "invoice": "next"}, headers={"Origin": "http://localhost"})
    assert (reply.status_code, reply.location) == (303, "/#invoice-next")
    page = client.get("/").text
    assert 'id="invoice-next"' in page
    assert "Planned for the shop's next request:" in page
    store.take_trouble()
    shop.answers = [404]
    invoice_id = invoice()["invoiceId"]
    reply = client.post("/trouble", data={"case": "forged", "invoice": invoice_id})
    assert (reply.status_code, reply.location) == (303, f"/#invoice-{invoice_id}")
    page = client.get("/").text
    for part in ("Callback sent once", '<span class="pill warning">Forged</span>', "answered 404", "New"):
        assert part in page


def test_refused_requests_are_shown_with_the_reason(client: FlaskClient, put: Any) -> None:
    put({"amount": 5, "header": "Order"})
    assert "Failed requests" not in client.get("/").text
    put({"amount": "5", "header": "<i>Order</i>"})
    put("", headers={})
    page = client.get("/").text
    assert "Failed requests" in page
    for part in ("422", "amount must be a JSON number.", "&lt;i&gt;Order", "401", "The API key is missing or wrong."):
        assert part in page


def test_each_failed_attempt_leaves_one_email_without_the_secret(
    store: Store, invoice: MakeInvoice, shop: Any, tmp_path: Path, eventually: Eventually
) -> None:
    shop.answers = [503]
    shop.reply = b"the shop's answer"
    store.keep_settings(failure_mails_on=True)
    data = invoice()
    store.pay(data["invoiceId"])
    worker = DeliveryWorker(store, Sending(4_000_000, tmp_path / "mail"))
    worker.start()
    eventually(lambda: delivery_of(store, data["invoiceId"]).state is DeliveryState.GIVEN_UP)
    worker.stop()
    files = sorted((tmp_path / "mail").iterdir())
    assert len(files) == 30
    for number, file in enumerate(files, 1):
        assert file.suffix == ".eml"
        assert data["secret"].encode() not in file.read_bytes()
        message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        assert message.defects == []
        assert message["Subject"] == f"Callback attempt {number} failed for invoice {data['invoiceId']}"
        assert message["Date"].datetime
        text = message.get_content()
        for part in (data["invoiceId"], shop.callback_url, "Answer: HTTP 503", "no real money moved"):
            assert part in text
        assert ("The next attempt follows at" in text) is (number < 30)
        assert ("This was the last attempt." in text) is (number == 30)


@pytest.mark.parametrize(("switch", "answers"), [(False, [503, 200]), (True, [200])])
def test_no_email_is_written_with_the_switch_off_or_without_a_failure(
    *,
    store: Store,
    invoice: MakeInvoice,
    shop: Any,
    tmp_path: Path,
    eventually: Eventually,
    switch: bool,
    answers: list[int],
) -> None:
    shop.answers = answers
    store.keep_settings(failure_mails_on=switch)
    invoice_id = invoice()["invoiceId"]
    store.pay(invoice_id)
    worker = DeliveryWorker(store, Sending(4_000_000, tmp_path / "mail"))
    worker.start()
    eventually(lambda: delivery_of(store, invoice_id).state is DeliveryState.DELIVERED)
    worker.stop()
    assert not (tmp_path / "mail").exists()
