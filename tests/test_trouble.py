"""The sandbox's trouble cases against the shop, over HTTP in both directions: what docs/faults.md says must happen."""

import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from click.testing import CliRunner
from flask import Flask
from waitress.server import create_server

import amwal
from models import CallbackAttempt, Delivery, GatewayCall, Order, Payment
from sandbox.__main__ import cli
from sandbox.app import create_app, store_of
from sandbox.delivery import DeliveryWorker, Sending
from sandbox.records import DeliveryState
from sandbox.store import Store
from sandbox.trouble import BUTTONS, CASES, callbacks, replies
from shop import baskets, orders
from shop.db import db
from shop.payments import draw_qr
from shop.states import CUSTOMER, AttentionKind, CallbackOutcome, OrderState
from tests.conftest import API_KEY, CheckingClient, OrderFactory, attention, find_program, rows, set_stock, stock_of

PAYMENT_PAGES = "http://127.0.0.1:8001"  # where the settings of the tests allow payment pages


@pytest.fixture
def sandbox_app(tmp_path: Path) -> Iterator[Flask]:
    """A sandbox of this test's own, over HTTP: cases look for the newest of its invoices."""
    app = create_app(database=tmp_path / "sandbox.db", api_key=API_KEY, public_url=PAYMENT_PAGES)
    server = create_server(app, host="127.0.0.1", port=0, threads=8)
    threading.Thread(target=server.run, daemon=True).start()
    app.config["HERE"] = f"http://127.0.0.1:{server.effective_port}"
    yield app
    server.close()


@pytest.fixture
def store(sandbox_app: Flask) -> Store:
    """Its memory."""
    return store_of(sandbox_app)


@pytest.fixture
def app(sandbox_app: Flask, store: Store, new_app: Callable[..., Flask]) -> Iterator[Flask]:
    """The shop, hearing callbacks over HTTP."""
    listener = socket.create_server(("127.0.0.1", 0))
    here = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = new_app(AMWAL_PROJECT_URL=f"{sandbox_app.config['HERE']}/projects/{store.project().id}", PUBLIC_URL=here)
    server = create_server(app, sockets=[listener], threads=16)
    threading.Thread(target=server.run, daemon=True).start()
    store.keep_settings(callback_url=f"{here}/amwal/callback", callbacks_on=True)
    with app.app_context():
        yield app
    server.close()


@pytest.fixture
def order(app: Flask, store: Store) -> OrderFactory:
    """Orders whose invoices come from this module's sandbox."""
    return OrderFactory(store)


@pytest.fixture
def trigger(sandbox_app: Flask) -> Callable[..., dict[str, Any]]:
    """Start a case by HTTP."""

    def trigger(case: str, invoice: str = "last") -> dict[str, Any]:
        url = f"{sandbox_app.config['HERE']}/trouble"
        answer = requests.post(url, json={"case": case, "invoice": invoice}, timeout=60)
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report

    return trigger


class Outcome(NamedTuple):
    """What the shop makes of an answer: its log's word for it, what is brought before a person, how often it asked."""

    word: str
    kind: AttentionKind | None = None
    requests: int = 1


BAD_REPLY = Outcome("BadReply", AttentionKind.GATEWAY_REPLY)
REFUSED = Outcome("Refused", AttentionKind.GATEWAY_REFUSED)
ROWS_22_TO_33 = {
    "refuse": REFUSED,
    "401": Outcome("KeyRejected", AttentionKind.GATEWAY_REFUSED),
    "429": Outcome("ok", requests=2),
    "500": Outcome("ok", requests=2),
    "err": REFUSED,
    "slow": Outcome("ok"),
    "drip": Outcome("Unavailable"),
    "reset": Outcome("ok", requests=2),
    "lost": Outcome("ok", requests=2),
    "html": BAD_REPLY,
    "missing-field": BAD_REPLY,
    "wrong-type": BAD_REPLY,
    "javascript-url": BAD_REPLY,
    "foreign-host": BAD_REPLY,
    "markup": BAD_REPLY,
    "markup-qr": Outcome("ok"),
    "svg-qr": Outcome("ok"),
    "remote-qr": Outcome("ok"),
    "no-qr": Outcome("ok"),
    "secret-in-url": BAD_REPLY,
    "repeated-id": BAD_REPLY,
    "redirect": REFUSED,
    "huge": BAD_REPLY,
    "bomb": BAD_REPLY,
    "early": Outcome("ok"),
}


def test_every_case_is_tested_here() -> None:
    assert {name for name, case in CASES.items() if case.at == "put"} == set(ROWS_22_TO_33)
    here = globals()
    named = {name.replace("-", "_") for name, case in CASES.items() if case.at == "callback"}
    assert {name for name in named if not any(re.match(f"test_{name}_", test) for test in here)} == set()


@pytest.mark.parametrize("case", ROWS_22_TO_33)
def test_rows_22_to_33_what_the_shop_makes_of_an_odd_answer(  # noqa: PLR0917  (fixtures)
    app: Flask,
    store: Store,
    order: OrderFactory,
    trigger: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    monkeypatch.setattr(replies, "SLOW_SECONDS", 0.5)
    monkeypatch.setattr(replies, "RETRY_AFTER_SECONDS", 1)
    if case == "drip":
        monkeypatch.setattr(amwal, "DEADLINE", 1.5)
    earlier, expected = order.awaiting(), ROWS_22_TO_33[case]
    before = store.requests(limit=1)[0].number
    assert trigger(case, "next")["sent"] == []
    buyer = app.test_client()
    assert isinstance(buyer, CheckingClient)
    buyer.fill_basket()
    address = buyer.post("/checkout", data=buyer.checkout_form()).headers["Location"]
    page = buyer.get(address).text

    asked = store.requests(after=before)
    call = rows(GatewayCall)[-1]
    placed = db.session.get_one(Order, call.order_id)
    assert (call.outcome, len(asked), asked[-1].trouble) == (expected.word, expected.requests, case)
    assert placed.number != earlier.number
    if expected.word == "ok":
        assert placed.state is OrderState.AWAITING_PAYMENT
        assert placed.invoice
        assert f'href="{placed.invoice.url}"' in page
        assert placed.invoice.gateway_id == asked[0].invoice_id
    else:  # the order is kept, its goods are held, and the customer can try again
        assert placed.state is OrderState.PLACED
        assert placed.invoice is None
        assert "/en/invoice/" not in page
        assert f'action="{address}/invoice"' in page
    assert not asked[-1].bait or asked[-1].bait not in page
    for kind in (AttentionKind.GATEWAY_REPLY, AttentionKind.GATEWAY_REFUSED):
        item = attention(kind)
        assert (item is not None) == (kind is expected.kind)
        for one in store.invoices(before=2**63 - 1, limit=3):
            assert one.secret not in page
            assert item is None or one.secret not in item.detail
    if case in ("svg-qr", "no-qr"):  # row 29: the shop draws its own
        assert placed.invoice
        assert placed.invoice.qr == draw_qr(placed.invoice.url)
    if expected.word != "ok":  # trying again, when the gateway is well, gets the invoice
        assert buyer.post(f"{address}/invoice", data={"csrf_token": _token(page)}).status_code == 303
        assert order.again(placed).state is OrderState.AWAITING_PAYMENT


def _token(page: str) -> str:
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert found
    return found[1]


def test_row_5_early_the_repeat_is_taken(
    app: Flask, store: Store, order: OrderFactory, trigger: Callable[..., Any]
) -> None:
    trigger("early", "next")
    early = order.awaiting()
    assert [attempt.outcome for attempt in rows(CallbackAttempt)] == [CallbackOutcome.UNKNOWN_SECRET]
    worker = DeliveryWorker(store, Sending(1000))
    worker.start()
    try:
        _eventually(lambda: order.again(early).state is OrderState.PAID)
    finally:
        worker.stop()
    assert len(rows(Payment)) == 1


def test_good_pays_once_and_says_what_the_shop_answered(
    app: Flask, order: OrderFactory, trigger: Callable[..., Any]
) -> None:
    waiting = order.awaiting()
    report = trigger("good")
    assert (report["ok"], report["sent"][0]["answer"]) == (True, "200")
    assert order.again(waiting).state is OrderState.PAID
    assert trigger("good")["sent"] == []  # it was delivered before


def test_duplicate_changes_nothing(app: Flask, order: OrderFactory, trigger: Callable[..., Any]) -> None:
    waiting = order.awaiting()
    for _ in range(2):
        report = trigger("duplicate")
        assert report["ok"], report
    assert order.again(waiting).state is OrderState.PAID
    assert [attempt.outcome.value for attempt in rows(CallbackAttempt)] == ["accepted", "duplicate", "duplicate"]
    assert len(rows(Payment)) == len(rows(Delivery)) == 1


def test_concurrent_copies_make_one_payment(app: Flask, order: OrderFactory, trigger: Callable[..., Any]) -> None:
    waiting = order.awaiting()
    report = trigger("concurrent")
    assert report["ok"], report
    assert len(report["sent"]) == 10
    assert order.again(waiting).state is OrderState.PAID
    assert len(rows(Payment)) == len(rows(Delivery)) == 1


def test_late_is_paid_while_there_is_stock_and_else_reviewed(
    app: Flask, store: Store, order: OrderFactory, trigger: Callable[..., Any]
) -> None:
    for units, state in ((5, OrderState.PAID), (0, OrderState.NEEDS_REVIEW)):
        waiting = order.awaiting("brass-dallah")
        report = trigger("late")
        assert report["sent"] == []
        [delivery] = store.deliveries_of([order.callback(waiting)["invoiceId"]])
        assert delivery.next_attempt_at
        assert (delivery.next_attempt_at - store.now()).total_seconds() > callbacks.LATE_SECONDS - 10
        order.run_out(waiting)
        assert orders.expire(waiting.id)
        set_stock("brass-dallah", units)
        assert store.attempt_now(delivery.id)
        worker = DeliveryWorker(store)
        worker.start()
        try:
            _eventually(partial(_has_arrived, store, delivery.id))
        finally:
            worker.stop()
        assert order.again(waiting).state is state


def test_after_cancel_goes_before_a_person(app: Flask, order: OrderFactory, trigger: Callable[..., Any]) -> None:
    waiting = order.awaiting()
    assert orders.cancel(waiting.id, CUSTOMER)
    report = trigger("after-cancel")
    assert report["ok"], report
    assert order.again(waiting).state is OrderState.NEEDS_REVIEW
    assert attention(AttentionKind.PAID_CANCELLED)


def test_forged_pays_nothing(app: Flask, order: OrderFactory, trigger: Callable[..., Any]) -> None:
    waiting = order.awaiting()
    report = trigger("forged")
    assert report["ok"], report
    assert [sent["answer"] for sent in report["sent"]] == ["404"]
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
    assert attention(AttentionKind.UNKNOWN_SECRET)


def test_other_invoice_pays_nothing(app: Flask, order: OrderFactory, trigger: Callable[..., Any]) -> None:
    waiting = order.awaiting()
    report = trigger("other-invoice")
    assert [sent["answer"] for sent in report["sent"]] == ["409"]
    assert report["ok"]
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
    assert attention(AttentionKind.OTHER_INVOICE)


def test_second_session_is_stored_beside_the_first(
    app: Flask, order: OrderFactory, trigger: Callable[..., Any]
) -> None:
    waiting = order.awaiting()
    report = trigger("second-session")
    assert report["ok"], report
    assert len(report["sent"]) == 2
    assert len(order.again(waiting).payments) == 2
    assert len(rows(Delivery)) == 1
    assert attention(AttentionKind.PAID_TWICE)


def test_missing_ids_are_paid_all_the_same(app: Flask, order: OrderFactory, trigger: Callable[..., Any]) -> None:
    waiting = order.awaiting()
    report = trigger("missing-ids")
    assert report["ok"], report
    assert order.again(waiting).state is OrderState.PAID
    assert attention(AttentionKind.MISSING_IDS)


def test_malformed_bodies_are_each_refused(app: Flask, order: OrderFactory, trigger: Callable[..., Any]) -> None:
    waiting = order.awaiting()
    report = trigger("malformed")
    assert report["ok"], report
    assert len(report["sent"]) > 10
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT


def test_oversized_is_refused(app: Flask, order: OrderFactory, trigger: Callable[..., Any]) -> None:
    waiting = order.awaiting()
    report = trigger("oversized")
    assert [sent["answer"] for sent in report["sent"]] == ["413"]
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT


def test_never_leaves_the_order_unpaid_whatever_the_customer_says(
    app: Flask, store: Store, order: OrderFactory, trigger: Callable[..., Any]
) -> None:
    waiting = order.awaiting()
    assert trigger("never")["sent"] == []
    assert store.deliveries_of([order.callback(waiting)["invoiceId"]]) == []
    page = app.test_client().get(f"/orders/{waiting.token}?returned=success").text
    assert "Waiting for confirmation" in page
    assert order.again(waiting).state is OrderState.AWAITING_PAYMENT


def test_last_unit_goes_to_one_and_all_payments_are_stored(
    app: Flask, store: Store, order: OrderFactory, trigger: Callable[..., Any]
) -> None:
    set_stock("brass-dallah", 1)
    winner = order.awaiting("brass-dallah")
    with pytest.raises(baskets.WrongQuantity):
        order.placed("brass-dallah")
    other = order.awaiting()
    report = trigger("last-unit")
    assert report["ok"], report
    assert len(report["sent"]) == 2
    assert {order.again(one).state for one in (winner, other)} == {OrderState.PAID}
    assert stock_of("brass-dallah") == 0


# --- A shop that is down ---------------------------------------------------------------------------------------------


def test_a_shop_that_was_down_for_two_days_is_paid_by_a_retry_and_after_four_it_is_given_up(
    app: Flask, store: Store, order: OrderFactory, sandbox_app: Flask
) -> None:
    up = store.project().callback_url
    with socket.create_server(("127.0.0.1", 0)) as closed_later:
        down = f"http://127.0.0.1:{closed_later.getsockname()[1]}/amwal/callback"
    day, worker = 24 * 60 * 60, DeliveryWorker(store)
    worker.start()
    try:
        for days, given_up in ((2, False), (4, True)):
            waiting = order.awaiting()
            invoice_id = order.callback(waiting)["invoiceId"]
            store.keep_settings(callback_url=down)
            store.pay(invoice_id)
            store.move_clock(days * day)
            _eventually(lambda: not store.clock_is_moving)
            store.keep_settings(callback_url=up)
            assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
            store.move_clock(day / 2)  # the next retry
            _eventually(lambda: not store.clock_is_moving)
            [delivery] = store.deliveries_of([invoice_id])
            if given_up:
                assert (delivery.state, delivery.attempts_made) == (DeliveryState.GIVEN_UP, 30)
                assert order.again(waiting).state is OrderState.AWAITING_PAYMENT
                assert "given up" in requests.get(sandbox_app.config["HERE"], timeout=5).text
            else:
                _eventually(partial(_has_arrived, store, delivery.id))
                assert order.again(waiting).state is OrderState.PAID
    finally:
        worker.stop()


# --- How trouble is asked for ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_what_to_do(sandbox_app: Flask, store: Store, order: OrderFactory) -> None:
    order.awaiting()
    url = f"{sandbox_app.config['HERE']}/trouble"
    for asked, status, words in (
        ({"case": "nonsense", "invoice": "last"}, 422, "Choose one of: good"),
        ({"case": "slow", "invoice": "last"}, 422, 'give "next"'),
        ({"case": "forged", "invoice": "next"}, 422, "give its id"),
        ({"case": "forged", "invoice": "f" * 24}, 404, "Unknown invoice"),
        ({}, 422, "Unknown case"),
    ):
        answer = requests.post(url, json=asked, timeout=5)
        assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    assert requests.post(url, data="[", timeout=5).status_code == 422
    assert (
        requests.post(url, json={"case": "slow"}, headers={"Origin": "https://evil.example"}, timeout=5).status_code
        == 403
    )
    store.keep_settings(callbacks_on=False)
    assert requests.post(url, json={"case": "forged", "invoice": "last"}, timeout=5).status_code == 409
    assert store.planned_troubles() == []


def test_the_command_prints_what_a_shop_must_do_and_what_it_answered(sandbox_app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    invoice, here = order.callback(waiting)["invoiceId"], sandbox_app.config["HERE"]
    result = CliRunner().invoke(cli, ["trigger", invoice, "--case", "forged", "--sandbox", here])
    assert result.exit_code == 0, result.output
    assert "Forged: a shop must answer 4xx" in result.output
    assert re.search(r"a guessed secret: 404 in \d+ ms, ok", result.output)
    listed = CliRunner().invoke(cli, ["trigger", "--list"]).output
    assert all(f" {name} " in listed for name in CASES)


def test_the_command_says_so_where_a_shop_does_wrong(sandbox_app: Flask, store: Store, order: OrderFactory) -> None:
    order.awaiting()
    project = store.project()
    store.keep_settings(callback_url=f"{sandbox_app.config['HERE']}/healthz")  # answers 405 to any callback
    try:
        result = CliRunner().invoke(
            cli, ["trigger", "last", "--case", "duplicate", "--sandbox", sandbox_app.config["HERE"]]
        )
    finally:
        store.keep_settings(callback_url=project.callback_url)
    assert result.exit_code == 1
    assert "405" in result.output
    assert "WRONG, expected 200" in result.output


def test_a_script_pays_and_reads_the_outcome(sandbox_app: Flask, store: Store, order: OrderFactory) -> None:
    waiting = order.awaiting()
    pay = ["pay", "last", "--sandbox", sandbox_app.config["HERE"]]
    result = CliRunner().invoke(cli, [*pay, "--json"])
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.output)
    assert (outcome["invoice"], outcome["ok"]) == (order.callback(waiting)["invoiceId"], True)
    assert [sent["answer"] for sent in outcome["sent"]] == ["200"]
    assert order.again(waiting).state is OrderState.PAID
    assert "No callback was sent: it was delivered before" in CliRunner().invoke(cli, pay).output
    triggered = CliRunner().invoke(cli, ["trigger", "last", "--case", "forged", "--json", *pay[2:]])
    assert json.loads(triggered.output)["sent"][0]["answer"] == "404"


def test_paying_works_while_callbacks_are_off(sandbox_app: Flask, store: Store, order: OrderFactory) -> None:
    order.awaiting()
    store.keep_settings(callbacks_on=False)
    try:
        result = CliRunner().invoke(cli, ["pay", "last", "--sandbox", sandbox_app.config["HERE"]])
    finally:
        store.keep_settings(callbacks_on=True)
    assert (result.exit_code, "callbacks are off" in result.output) == (0, True)
    [newest] = store.invoices(before=2**63 - 1, limit=1)
    assert newest.paid_at


def test_the_command_that_repeats_a_wrong_answer_gets_it_again(
    sandbox_app: Flask, store: Store, order: OrderFactory
) -> None:
    order.awaiting()
    project = store.project()
    store.keep_settings(callback_url=f"{sandbox_app.config['HERE']}/healthz")
    try:
        arguments = ["trigger", "last", "--case", "good", "--sandbox", sandbox_app.config["HERE"]]
        result = CliRunner().invoke(cli, arguments)
        found = re.search(r"again: (curl .+)", result.output)
        assert found, result.output
        find_program("curl")
        again = subprocess.run(found[1], shell=True, capture_output=True, text=True, timeout=30, check=False)
    finally:
        store.keep_settings(callback_url=project.callback_url)
    assert "405" in again.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["last", "--case", "forged", "--sandbox", "http://127.0.0.1:9"], "No sandbox answers at http://127.0.0.1:9"),
        (["last"], "an INVOICE and a --case"),
        (["last", "--case", "nonsense"], "nonsense"),
    ],
)
def test_the_command_refuses_in_words(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["trigger", *arguments])
    assert result.exit_code != 0
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_button_does_it_and_leads_back_to_the_account(sandbox_app: Flask, store: Store, order: OrderFactory) -> None:
    waiting = order.awaiting()
    invoice, url = order.callback(waiting)["invoiceId"], f"{sandbox_app.config['HERE']}/trouble"
    answer = requests.post(url, data={"case": "forged", "invoice": invoice}, allow_redirects=False, timeout=5)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/#invoice-{invoice}")
    [delivery] = store.deliveries_of([invoice])
    assert (delivery.trouble, delivery.state) == ("forged", DeliveryState.SENT_ONCE)
    assert json.loads(delivery.body)["secret"] != order.callback(waiting)["secret"]
    assert {case.name for case in BUTTONS} == {"duplicate", "late", "forged", "slow", "last-unit", "never"}


def _has_arrived(store: Store, delivery_id: int) -> bool:
    delivery = store.delivery(delivery_id)
    return delivery is not None and delivery.delivered_at is not None


def _eventually(holds: Callable[[], object]) -> None:
    done = threading.Event()
    for _ in range(500):
        if holds():
            return
        done.wait(0.02)
    raise AssertionError("it didn't happen within 10 seconds")
