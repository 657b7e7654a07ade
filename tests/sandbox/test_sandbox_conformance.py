"""The conformance run: good shops pass, faults are found, interrupted runs resume."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import requests
import waitress
from flask import Flask, current_app, request
from werkzeug.serving import BaseWSGIServer, make_server

from sandbox import web
from sandbox.app import create_app, store_of
from sandbox.conformance import judges
from sandbox.conformance.command import DUKKAN
from sandbox.conformance.judges import ALL
from sandbox.conformance.run import Run, Verdict
from sandbox.conformance.shops import AnyShop, Dukkan, ShopError, forms
from sandbox.trouble import replies
from tests.children import ROOT, Child, Start, free_ports
from tests.conftest import find_program
from tests.sandbox.conftest import Shop
from tests.sandbox.little_shop import create_shop

pytestmark = pytest.mark.slow

SETTINGS = ("AMWAL_PROJECT_URL", "AMWAL_API_KEY", "AMWAL_PAYMENT_ORIGINS")


def conform(start: Start, tmp_path: Path, gateway: int, callback_url: str, *options: str) -> Child:
    """Start a run with its own folder."""
    command = ("-m", "sandbox", "conformance", "--listen", str(gateway), "--callback-url", callback_url)
    files = ("--folder", str(tmp_path / "kept"), "--junit", str(tmp_path / "junit.xml"))
    return start(*command, *files, *options, log=tmp_path / "run.log")


def settings(tmp_path: Path) -> dict[str, str]:
    """Return the settings that a run prints for the shop."""
    for _ in range(100):
        said = (tmp_path / "run.log").read_text()
        found = dict(re.findall(r"^  ([A-Z_]+)=(\S+)$", said, re.MULTILINE))
        if "Waiting for the shop" in said:
            return found
        time.sleep(0.1)
    raise AssertionError(said)


def verdicts(tmp_path: Path) -> dict[str, str]:
    """Return the verdicts in the JUnit file by check."""
    found = {}
    for case in ElementTree.parse(tmp_path / "junit.xml").iter("testcase"):
        kind = case[0].tag
        if kind == "system-out":
            kind = str(case[0].text).partition(":")[0]
        found[str(case.get("name"))] = kind
    assert list(found) == list(ALL)
    return found


def start_dukkan(start: Start, tmp_path: Path, port: int) -> None:
    """Start this shop with the settings that the run printed."""
    environment = settings(tmp_path) | {"MAIL_URL": str(tmp_path / "mail")}
    flask = ("-m", "flask", "--app", "app")
    assert start(*flask, "sample-shop", log=tmp_path / "setup.log", env=environment).wait(60) == 0
    start(*flask, "serve", "--port", str(port), log=tmp_path / "shop.log", env=environment)


@pytest.mark.slow(seconds=50)
def test_this_shop_passes(start: Start, tmp_path: Path) -> None:
    gateway, port = free_ports(2)
    run = conform(start, tmp_path, gateway, f"http://127.0.0.1:{port}/amwal/callback", "--dukkan", "--late", "0")
    start_dukkan(start, tmp_path, port)
    assert run.wait(170) == 0, (tmp_path / "run.log").read_text()
    assert set(verdicts(tmp_path).values()) == {"passed"}
    assert f"{len(ALL)} passed, 0 answer only, 0 failed, 0 not run" in (tmp_path / "run.log").read_text()


# --- A little shop that breaks one rule at a time -----------------------------------------------------------------

FAULTS = {
    "float": {"request"},
    "shows the secret": {"secret"},
    "believes the browser": {"success-url", "cancel-url"},
    "pays by GET": {"wrong-method"},
    "takes any secret": {"forged", "malformed", "early", "guesses"},
    "ignores the id": {"other-invoice"},
    "pays the named order": {"other-invoice"},
    "pays once": {"duplicate", "second-session", "concurrent", "missing-ids", "after-cancel"},
    "stores copies": {"duplicate", "concurrent", "missing-ids", "after-cancel"},
    "delivers always": {"duplicate", "concurrent", "second-session", "after-cancel", "missing-ids"},
    "forgets late money": {"after-cancel"},
    "needs the ids": {"missing-ids"},
    "blocks guessers": {"guesses"},
    "hammers": {"refuse", "401", "429", "500"},
    "trusts": {
        *("err", "wrong-type", "javascript-url", "foreign-host", "svg-qr", "secret-in-url", "repeated-id"),
    },
    "waits in the lock": {"slow", "early"},
    "no deadline": {"drip"},
    "crashes": {"malformed", "html", "missing-field", "reset", "err", "refuse"},
    "needs a QR": {"no-qr"},
    "follows redirects": {"redirect"},
    "no cap": {"huge", "bomb"},
    "offers no retry": {"refuse", "html"},
    "replaces the invoice": {"refuse", "after-cancel"},
    "mixes orders up": {"refuse"},
    "reopens what is cancelled": {"after-cancel"},
    "stores more for what is paid": {"forged"},
    "repeats later": {"401"},
    "keeps it in a cookie": {"secret"},
    "keeps it in a session": {"secret"},
    "thanks with it": {"secret"},
    "cancels what is paid": {"cancel-url"},
    "believes the payment page": {"success-url", "cancel-url"},
    "has sessions once": {"missing-ids"},
    "knows every field": {"missing-ids"},
    "takes pictures from anywhere": {"svg-qr"},
    "escapes nothing": {"javascript-url"},
}
QUICK = {
    "request",
    "link",
    "secret",
    "success-url",
    "wrong-method",
    "cancel-url",
    "good",
    "duplicate",
    "second-session",
}
QUICK |= {"after-cancel", "forged", "other-invoice", "malformed", "oversized", "missing-ids"}
"""Cases that are run for every fault, to see that only the right ones fail."""


@pytest.fixture
def little_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[set[str]], Run]]:
    """Start a sandbox and a little shop with the given faults; return a run for it."""
    monkeypatch.setattr(replies, "DRIP_SECONDS", 14)
    monkeypatch.setattr(judges, "WAIT_SECONDS", 10)
    monkeypatch.setattr("sandbox.conformance.run.PAID_SECONDS", 2)  # this shop stores at once
    monkeypatch.setattr("sandbox.conformance.run.BACKGROUND_SECONDS", 2)
    monkeypatch.setattr(judges, "RACES", 1)
    monkeypatch.setattr("sandbox.conformance.run.LINGER_SECONDS", 0.5)
    monkeypatch.setattr("sandbox.conformance.run.SECOND_LOOK_SECONDS", 0.05)
    servers: list[Any] = []
    with ExitStack() as contexts:

        def make(faults: set[str]) -> Run:
            gateway, port = free_ports(2)
            app = create_app(
                database=tmp_path / "sandbox.db",
                callback_url=f"http://127.0.0.1:{port}/callback",
                public_url=f"http://127.0.0.1:{gateway}",
            )
            project = store_of(app).project()
            project_url = f"http://127.0.0.1:{gateway}/projects/{project.id}"
            shop = make_server(
                "127.0.0.1", port, create_shop(port, project_url, project.api_key, faults), threaded=True
            )
            servers.extend([waitress.create_server(app, port=gateway, host="127.0.0.1", threads=16), shop])
            for serve in (servers[-2].run, shop.serve_forever):
                threading.Thread(target=serve, daemon=True).start()
            contexts.enter_context(app.app_context())
            any_shop = AnyShop(paid_text="PAID", **commands(f"http://127.0.0.1:{port}"))
            return Run(any_shop, callback_url=project.callback_url, late_minutes=0, folder=tmp_path)

        yield make
    for server in servers:
        (server.shutdown if isinstance(server, BaseWSGIServer) else server.close)()


def commands(shop: str) -> dict[str, Any]:
    """Return the commands that use a little shop at this address."""
    curl = f"{find_program('curl')} -sf"
    return {
        "command": f"{curl} -o /dev/null -w %{{redirect_url}} -X POST {shop}/orders",
        "retry_command": f"sh -c '{curl} -o /dev/null -X POST $0/invoice'",
        "cancel_command": f"sh -c '{curl} -o /dev/null -X POST $0/cancellation'",
        "payments": f"{curl} {shop}/count/payments",
        "deliveries": f"{curl} {shop}/count/deliveries",
    }


def failed(run: Run, names: Iterable[str]) -> dict[str, str]:
    """Run cases; return what the failed ones saw."""
    results = [run.do(ALL[name]) for name in names]
    assert {result.name: result.seen for result in results if result.verdict is Verdict.NOT_RUN} == {}
    return {result.name: result.seen for result in results if result.verdict is Verdict.FAILED}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found(little_shop: Callable[[set[str]], Run], fault: str) -> None:
    run = little_shop({fault})
    found = failed(run, [name for name in ALL if name in QUICK | FAULTS[fault]])
    assert set(found) == FAULTS[fault], found


def test_row_110_a_command_that_prints_no_page_fails_the_cases_that_need_one(
    little_shop: Callable[[set[str]], Run],
) -> None:
    run = little_shop(set())
    assert isinstance(run.shop, AnyShop)
    run.shop.command = run.shop.command.replace("-w %{redirect_url}", "")
    assert set(failed(run, ["link", "secret", "err", "html", "svg-qr"])) == {"link", "secret", "err", "html", "svg-qr"}


def test_row_111_what_is_delivered_again_later_is_found(little_shop: Callable[[set[str]], Run]) -> None:
    run = little_shop({"delivers again later"})
    assert failed(run, ["good", "duplicate"]) == {}
    time.sleep(3)
    run.count()
    assert run.came_later == ["deliveries: 2 more, some time after the callback"]


def test_what_the_shop_prints_is_searched_for_every_secret(little_shop: Callable[[set[str]], Run]) -> None:
    run = little_shop(set())
    assert failed(run, ["wrong-method", "good"]) == {}
    spared, paid = sorted(web.store().invoices(before=10**9, limit=9), key=lambda one: one.secret not in run.sent)
    run.log.write_text(f"GET /callback?secret={spared.secret}")
    assert judges.logged(run) is None  # the run has sent that in an address
    run.log.write_text(f"new invoice: {paid.secret}")
    found = judges.logged(run)
    assert found is not None
    assert (found.name, found.verdict) == ("secret", Verdict.FAILED)
    assert paid.id in found.seen
    assert paid.secret not in found.seen


def test_row_112_a_shop_that_asks_in_the_background_passes(
    little_shop: Callable[[set[str]], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.conformance.run.BACKGROUND_SECONDS", 10)
    run = little_shop({"asks in the background"})
    run.place_late()
    assert failed(run, ["link", "secret", "good", "refuse", "429", "err", "html", "svg-qr", "javascript-url"]) == {}


def test_row_110_the_payment_page_is_not_the_page_of_the_order(little_shop: Callable[[set[str]], Run]) -> None:
    run = little_shop(set())
    assert isinstance(run.shop, AnyShop)
    invoice = run.unpaid().invoice
    run.shop.command = f"echo {current_app.config['PUBLIC_URL']}/en/invoice/{invoice.id}"
    assert "is the gateway's page" in failed(run, ["good"])["good"]


def test_row_111_without_counts_a_right_answer_is_called_that_and_no_more(
    little_shop: Callable[[set[str]], Run],
) -> None:
    run = little_shop({"delivers always", "stores copies"})
    assert isinstance(run.shop, AnyShop)
    run.shop.payments = run.shop.deliveries = ""
    names = ("good", "duplicate", "concurrent", "second-session", "after-cancel", "early")
    assert [run.do(ALL[name]).verdict for name in names] == [Verdict.ANSWER_ONLY] * len(names)


def test_row_111_a_200_that_comes_before_the_payment_is_stored_is_found(
    little_shop: Callable[[set[str]], Run],
) -> None:
    run = little_shop({"stores later"})
    assert failed(run, ["good"]) == {"good": "the payment was stored only after the answer"}


def test_row_112_late_requests_of_earlier_orders_are_told_apart(little_shop: Callable[[set[str]], Run]) -> None:
    run = little_shop({"repeats later"})
    names = ("500", "err", "svg-qr", "no-qr", "429", "secret-in-url")
    assert failed(run, names) == {}
    repeated = [one for one in web.store().requests() if one.body in web.store().spared and not one.trouble]
    assert len(repeated) >= len(names)  # there were some


def test_row_112_a_shop_whose_requests_are_all_the_same_is_judged_too(little_shop: Callable[[set[str]], Run]) -> None:
    run = little_shop({"same requests", "trusts"})
    assert set(failed(run, ["good", "err", "svg-qr", "no-qr", "success-url"])) == {"err", "svg-qr"}


def test_row_112_a_checkout_form_is_filled_in_as_it_asks() -> None:
    [language, form] = forms(
        """<form action="/language"><button name="lang" value="ar">ar</button></form>
        <form action="/checkout"><input type="hidden" name="checkout_key" value="k">
        <input name="name" required><input type="email" name="email" required><input name="note">
        <input name="vat" required value="JO 1"><textarea name="wishes" required></textarea>
        <select name="country" required><option value="">Choose</option><option value="JO">Jordan</option>
        <option value="SA">Saudi Arabia</option></select>
        <select name="hour"><option value="9">9</option><option value="10" selected>10</option></select>
        <input type="radio" name="delivery" value="1"><input type="radio" name="delivery" value="2" checked>
        <input type="checkbox" name="terms" required><input type="checkbox" name="news"></form>"""
    )
    assert (language.action, form.action) == ("/language", "/checkout")
    text = "Conformance run"
    assert form.fields == {
        **{"checkout_key": "k", "name": text, "email": "conformance@example.com", "vat": "JO 1", "wishes": text},
        **{"country": "JO", "hour": "10", "delivery": "2", "terms": "on"},
    }


def refused(options: list[str]) -> tuple[int, str]:
    """Start a run that can't go on; return its exit code and what it said."""
    command = [sys.executable, "-m", "sandbox", "conformance", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--place", "'open"], "No closing quotation"),
        (["--payments", " "], "must be a command"),
        (["--callback-url", "http://127.0.0.1:99999/"], "must start with http://"),
        (["--junit", "/nowhere/junit.xml"], "there is no folder /nowhere"),
        (["--late", "nan"], "not a valid integer"),
        (["--start", "sh -c 'exit 3'"], "The shop has stopped"),
        (["--start", "/nowhere/shop"], "Can't start the shop"),
        (["--folder", "/dev/null/run"], "Can't use the folder"),
        ([], "printed no whole number"),
    ],
)
def test_what_can_not_be_run_is_refused_in_words(tmp_path: Path, shop: Shop, options: list[str], said: str) -> None:
    gateway, nobody = free_ports(2)
    url = f"http://127.0.0.1:{nobody}/callback" if "--start" in options else shop.callback_url
    usual = ["--listen", str(gateway), "--callback-url", url, "--place", "true", "--folder", str(tmp_path)]
    code, output = refused([*usual, "--payments", "echo 7 9", *options])
    assert said in output
    assert code in {1, 2}
    assert "Traceback" not in output


def test_a_shop_that_runs_already_is_not_started_again(tmp_path: Path, shop: Shop) -> None:
    [gateway] = free_ports(1)
    usual = [
        "--listen",
        str(gateway),
        "--callback-url",
        shop.callback_url,
        "--place",
        "true",
        "--folder",
        str(tmp_path),
    ]
    code, output = refused([*usual, "--start", f"touch {tmp_path / 'started'}"])
    assert code == 1
    assert "answers at" in output
    assert not (tmp_path / "started").exists()


def test_two_runs_do_not_use_one_folder(start: Start, tmp_path: Path) -> None:
    one, other, nobody = free_ports(3)
    url = f"http://127.0.0.1:{nobody}/callback"
    conform(start, tmp_path, one, url, "--place", "true")
    assert settings(tmp_path)
    usual = ["--listen", str(other), "--callback-url", url, "--place", "true", "--folder", str(tmp_path / "kept")]
    assert refused(usual)[0] == 1
    assert "Another run uses the folder" in refused([*usual, "--fresh"])[1]


def test_a_new_run_of_a_dukkan_starts_with_a_new_database(start: Start, tmp_path: Path) -> None:
    [gateway] = free_ports(1)
    database, program = tmp_path / "kept" / DUKKAN, tmp_path / "dukkan.sh"
    program.write_text('#!/bin/sh\necho "$DATABASE_URL" >> "$0.log"\nls "$(dirname "$0")/kept" >> "$0.log"\n')
    program.chmod(0o755)
    database.parent.mkdir()
    database.write_text("the last run's")
    (database.parent / "conformance.lock").touch()
    (database.parent / f"{DUKKAN}-notes").touch()
    options = ["--listen", str(gateway), "--callback-url", "http://127.0.0.1:9/callback", "--dukkan"]
    code, output = refused([*options, "--folder", str(tmp_path / "kept"), "--start", str(program)])
    assert code == 1, output
    said = (tmp_path / "dukkan.sh.log").read_text().split()
    assert said[0] == f"sqlite:///{database}"
    assert DUKKAN not in said[1:]
    assert f"{DUKKAN}-notes" in said


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    for name in ("sandbox.sqlite3", "results.json", "shop.log"):
        (tmp_path / name).write_text("mine")
    code, output = refused(["--dukkan", "--callback-url", "http://127.0.0.1:9/", "--folder", str(tmp_path), "--fresh"])
    assert code == 1
    assert "holds other files" in output
    assert {file.read_text() for file in tmp_path.iterdir()} == {"mine"}


def test_what_a_dukkan_says_when_it_refuses_an_order_is_repeated() -> None:
    app, [port] = Flask("full"), free_ports(1)

    @app.route("/checkout", methods=["GET", "POST"])
    def checkout() -> tuple[str, int]:
        if request.method == "GET":
            return "<form><input type=hidden name=checkout_key value=1></form>", 200
        return '<h1>Checkout</h1><div class="notice" role="alert"><svg/><div>Too many\n orders.</div></div>', 422

    server = make_server("127.0.0.1", port, app)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(ShopError, match=r"answered with HTTP 422. Too many orders\.$"):
        Dukkan(f"http://127.0.0.1:{port}").place()
    server.shutdown()


@pytest.mark.parametrize(
    "kept", ["", "5", "[1", '{"run": 1}', '{"run": ["other", "", 0], "passed": {"good": ["", ""]}}']
)
def test_results_that_are_damaged_or_of_another_run_do_not_count(
    little_shop: Callable[[set[str]], Run], tmp_path: Path, kept: str
) -> None:
    (tmp_path / "results.json").write_text(kept)
    run = little_shop(set())
    assert run.results == {}
    assert failed(run, ["good"]) == {}


@pytest.mark.long
def test_a_bad_shop_fails_with_an_exit_code(start: Start, tmp_path: Path) -> None:
    gateway, port = free_ports(2)
    options = ("--place", commands(f"http://127.0.0.1:{port}")["command"], "--paid-text", "PAID")
    run = conform(start, tmp_path, gateway, f"http://127.0.0.1:{port}/callback", *options)
    given = settings(tmp_path)
    faults = set(FAULTS) - {"no deadline", "waits in the lock", "blocks guessers"}  # slow
    little_shop = ("-m", "tests.sandbox.little_shop", str(port))
    start(*little_shop, given["AMWAL_PROJECT_URL"], given["AMWAL_API_KEY"], *faults, log=tmp_path / "shop.log")
    assert run.wait(170) == 1, (tmp_path / "run.log").read_text()
    wrong = {name for name, verdict in verdicts(tmp_path).items() if verdict == "failure"}
    assert len(wrong) >= 12
    said = (tmp_path / "run.log").read_text()
    for name in wrong:
        assert f"a shop must {ALL[name].must}" in said
        assert ALL[name].why in said
        assert f"(docs/any-language.md#rule-{ALL[name].rule})" in said


@pytest.mark.long
def test_an_interrupted_run_resumes(start: Start, tmp_path: Path) -> None:
    gateway, port = free_ports(2)
    arguments = (gateway, f"http://127.0.0.1:{port}/amwal/callback", "--dukkan", "--late", "0")
    first = conform(start, tmp_path, *arguments)
    start_dukkan(start, tmp_path, port)
    given = settings(tmp_path)
    for _ in range(300):
        if "missing-ids" in (tmp_path / "run.log").read_text():
            break
        time.sleep(0.05)
    first.kill()
    first.wait()
    done = re.findall(r"^\[ *\d+/\d+\] passed +(\S+)", (tmp_path / "run.log").read_text(), re.MULTILINE)
    assert "concurrent" in done
    second = conform(start, tmp_path, *arguments)
    assert settings(tmp_path) == given
    assert second.wait(170) == 0, (tmp_path / "run.log").read_text()
    said = (tmp_path / "run.log").read_text()
    again = re.findall(r"^\[ *\d+/\d+\] passed +(\S+)", said, re.MULTILINE)
    assert "concurrent" not in again
    assert not set(done) & set(again) - {done[-1]}
    assert f"{len(ALL)} passed" in said


def test_without_a_shop_nothing_passes_and_the_settings_stay(start: Start, tmp_path: Path) -> None:
    gateway, port = free_ports(2)
    run = conform(start, tmp_path, gateway, f"http://127.0.0.1:{port}/callback", "--dukkan")
    given = settings(tmp_path)
    assert set(given) >= set(SETTINGS)
    answer = requests.put(given["AMWAL_PROJECT_URL"], json={}, timeout=5)
    assert answer.status_code == 401  # the gateway is running and has its API key
    assert run.poll() is None
