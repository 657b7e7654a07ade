"""Staff: signing in and out, sessions, guessed passwords, a forgotten one, and who may sign in."""

import json
import os
import re
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from sqlalchemy import update
from werkzeug.test import TestResponse

from models import OutboxMessage, Staff, StaffSession, digest, now
from shop import limits, staff, worker
from shop.db import db, in_write, write
from shop.states import OutboxKind
from shop.views.dashboard.sign_in import browser_name
from tests.children import Start, free_port, wait_for
from tests.conftest import CheckingClient, Serve, rows, settings_for, sign_in
from tests.pages import field
from tests.test_worker import mails

EMAIL, PASSWORD, OTHER = "maha@example.com", "four words are enough", "four other words, please"
SIGN_IN = "/dashboard/sign-in"
HOME, FIRST = "/dashboard/orders", "/dashboard/"
ACCOUNT = "/dashboard/account"


@pytest.fixture
def maha(app: Flask) -> Staff:
    """A member of staff with a password."""
    assert staff.add(EMAIL, "Maha", PASSWORD)
    found = staff.find(EMAIL)
    assert found is not None
    return found


def new_browser(app: Flask) -> CheckingClient:
    """A browser that was never here."""
    client = app.test_client()
    assert isinstance(client, CheckingClient)
    return client


@pytest.fixture
def other(app: Flask) -> CheckingClient:
    """Another browser."""
    return new_browser(app)


def send(
    client: CheckingClient,
    password: str = PASSWORD,
    email: str = EMAIL,
    address: str = "192.0.2.1",
    path: str = SIGN_IN,
) -> TestResponse:
    """Send the form for signing in."""
    data = {"email": email, "password": password, "csrf_token": client.csrf_token(SIGN_IN)}
    return client.post(path, data=data, environ_overrides={"REMOTE_ADDR": address})


def press(client: CheckingClient, path: str, form: str = ACCOUNT, **fields: str) -> TestResponse:
    """Press a button of a page."""
    return client.post(path, data=fields | {"csrf_token": client.csrf_token(form)})


def is_in(client: CheckingClient) -> bool:
    """Whether a browser is signed in."""
    status = client.get(HOME).status_code
    assert status in (200, 303)
    return status == 200


def cookie_of(app: Flask, client: CheckingClient) -> str:
    """The token in a browser's cookie."""
    cookie = client.get_cookie(app.config["STAFF_COOKIE"], "127.0.0.1")
    assert cookie is not None
    return cookie.value


# --- Signing in and out ----------------------------------------------------------------------------------------------


def test_signing_in_leads_to_the_page_that_was_asked_for(client: CheckingClient, maha: Staff) -> None:
    asked = client.get("/dashboard/orders?stage=unpaid")
    assert asked.status_code == 303
    done = send(client, email=" Maha@Example.com ", path=asked.headers["Location"])
    assert done.status_code == 303, done.text
    assert done.headers["Location"] == "/dashboard/orders?stage=unpaid"
    assert is_in(client)


@pytest.mark.parametrize("page", ["//evil.example", "https://evil.example/dashboard/", "/basket", "/dashboard\\evil"])
def test_row_48_signing_in_leads_nowhere_else(client: CheckingClient, maha: Staff, page: str) -> None:
    assert send(client, path=f"{SIGN_IN}?next={page}").headers["Location"] == FIRST


def test_a_wrong_password_and_an_unknown_address_are_told_the_same(client: CheckingClient, maha: Staff) -> None:
    wrong, unknown = send(client, "something else"), send(client, email="nobody@example.com")
    assert wrong.status_code == unknown.status_code == 422
    assert "The e-mail address or the password is wrong." in wrong.text
    texts = [re.sub(r'(value|csrf_token)="[^"]*"', "", one.text) for one in (wrong, unknown)]
    assert texts[0] == texts[1]
    assert field(wrong.text, "email") == EMAIL, "what was typed is kept"
    assert PASSWORD not in wrong.text
    assert not is_in(client)
    assert send(client, "").status_code == 422


def test_the_cookie_is_the_browsers_alone(app: Flask, client: CheckingClient, maha: Staff) -> None:
    answer = send(client)
    [cookie] = [one for one in answer.headers.getlist("Set-Cookie") if one.startswith(app.config["STAFF_COOKIE"])]
    assert app.config["STAFF_COOKIE"] == "dukkan_9_staff"
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=31536000"} <= {part.strip() for part in cookie.split(";")}
    assert rows(StaffSession)[0].token_digest == digest(cookie_of(app, client)), "the token itself is not stored"


def test_over_https_the_cookie_is_secure_and_no_other_host_can_set_it(new_app: Callable[..., Flask]) -> None:
    app = new_app(PUBLIC_URL="https://shop.example")
    with app.app_context():
        staff.add(EMAIL, "Maha", PASSWORD)
        client = new_browser(app)
        data = {"email": EMAIL, "password": PASSWORD, "csrf_token": client.csrf_token(SIGN_IN)}
        answer = client.post(SIGN_IN, data=data, headers={"Referer": "https://shop.example/"})
    [cookie] = [one for one in answer.headers.getlist("Set-Cookie") if "_staff=" in one]
    assert cookie.startswith("__Host-dukkan_https_staff=")
    assert "; Secure;" in cookie


def test_row_51_a_session_is_new_with_each_sign_in(app: Flask, client: CheckingClient, maha: Staff) -> None:
    """A cookie and a form's token that were planted in the browser before are worth nothing after signing in."""
    client.set_cookie(app.config["STAFF_COOKIE"], "planted", domain="127.0.0.1")
    planted = client.csrf_token(SIGN_IN)
    assert send(client).status_code == 303
    first = cookie_of(app, client)
    assert first != "planted"
    with client.session_transaction() as kept:
        assert "csrf_token" not in kept
    refused = client.post("/dashboard/account/sessions", data={"csrf_token": planted})
    assert refused.status_code == 400
    assert is_in(client)
    assert send(client).status_code == 303
    assert cookie_of(app, client) != first


def test_row_51_after_signing_out_the_cookie_opens_nothing(
    app: Flask, client: CheckingClient, other: CheckingClient, maha: Staff
) -> None:
    send(client)
    copied = cookie_of(app, client)
    assert press(client, "/dashboard/sign-out").headers["Location"] == SIGN_IN
    assert not is_in(client)
    other.set_cookie(app.config["STAFF_COOKIE"], copied, domain="127.0.0.1")
    assert other.get(HOME).headers["Location"].startswith(SIGN_IN)
    assert send(client).status_code == 303
    assert not is_in(other), "a new session doesn't revive the old one"


@pytest.mark.parametrize(
    "columns",
    [
        {"revoked_at": now()},
        {"seen_at": now() - staff.IDLE - timedelta(seconds=1)},
        {"created_at": now() - staff.LONGEST - timedelta(seconds=1)},
    ],
    ids=["revoked", "idle", "too long"],
)
def test_row_51_a_session_that_has_ended_is_dead_at_its_next_request(
    desk: CheckingClient, columns: dict[str, Any]
) -> None:
    token = desk.csrf_token(ACCOUNT)
    with write() as session:
        session.execute(update(StaffSession).values(**columns))
    assert not is_in(desk)
    refused = desk.post("/dashboard/settings", data={"csrf_token": token}, headers={"Referer": f"{HOME}?q=x"})
    assert refused.status_code == 303
    assert refused.headers["Location"].startswith(SIGN_IN)


def test_a_session_that_is_used_goes_on(desk: CheckingClient) -> None:
    with write() as session:
        session.execute(update(StaffSession).values(seen_at=now() - staff.IDLE + timedelta(minutes=1)))
    assert is_in(desk)
    assert rows(StaffSession)[0].seen_at > now() - timedelta(minutes=1)


def test_whoever_is_disabled_is_out_at_once(desk: CheckingClient, staff: int) -> None:
    with write() as session:
        session.get_one(Staff, staff).active = False
    assert not is_in(desk)


def test_old_sessions_are_deleted_by_the_worker(desk: CheckingClient) -> None:
    with write() as session:
        session.execute(update(StaffSession).values(seen_at=now() - staff.KNOWN_FOR - timedelta(seconds=1)))
    worker.tick()
    assert not rows(StaffSession)


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox · Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1 Version/18 Safari/605.1", "Safari · macOS"),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537 Chrome/140.0 Mobile Safari/537", "Chrome · Android"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537 Chrome/140.0 Safari/537 Edg/140.0", "Edge · Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) CriOS/140 Mobile Safari/604", "Chrome · iPhone"),
        ("curl/8.0", ""),
        ("", ""),
    ],
)
def test_browsers_are_named_as_people_know_them(user_agent: str, name: str) -> None:
    assert browser_name(user_agent) == name


# --- Row 52: guessing ------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were hashed, which takes no time here."""
    seen: list[str] = []

    def check(_hash: str, password: str) -> bool:
        seen.append(password)
        return password == PASSWORD

    monkeypatch.setattr(staff, "check_password_hash", check)
    return seen


def test_row_52_a_network_tries_ten_times_in_a_quarter_of_an_hour(
    app: Flask, client: CheckingClient, maha: Staff, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = [send(client, f"guess {number}").status_code for number in range(limits.MAX_TRIES + 3)]
    assert statuses == [422] * limits.MAX_TRIES + [429] * 3
    assert len(hashed) == limits.MAX_TRIES, "tries are counted before hashing"
    refused = send(client)
    assert refused.status_code == 429, "even the right one"
    assert "Too many people are signing in. Please try again in a moment." in refused.text
    assert send(client, "wrong", address="192.0.2.2").status_code == 422, "another network"
    later = time.monotonic() + 15 * 60 + 1
    monkeypatch.setattr("shop.limits.time.monotonic", lambda: later)
    assert send(client).status_code == 303


def test_row_52_an_account_is_tried_twenty_times_from_anywhere_and_its_own_browser_still_signs_in(
    app: Flask, client: CheckingClient, other: CheckingClient, maha: Staff, hashed: list[str]
) -> None:
    assert send(other, address="198.51.100.1").status_code == 303
    press(other, "/dashboard/sign-out")
    addresses = [f"192.0.2.{number}" for number in range(30)]
    statuses = [send(client, "guess", address=address).status_code for address in addresses]
    assert statuses.count(422) == limits.MAX_TRIES_FOR_ACCOUNT - 1
    assert send(client, address="192.0.2.99").status_code == 429
    assert send(client, email="omar@example.com", address="192.0.2.99").status_code == 422, "another account"
    assert send(other, "mistyped", address="198.51.100.2").status_code == 422
    assert send(other, address="198.51.100.3").status_code == 303


def test_row_52_all_new_browsers_together_try_sixty_times_a_minute(
    app: Flask, client: CheckingClient, maha: Staff, hashed: list[str]
) -> None:
    for number in range(70):
        send(client, "guess", f"nobody{number}@example.com", f"2001:db8:{number:x}::1")
    assert len(hashed) == limits.MAX_TRIES_PER_MINUTE


def test_row_52_a_known_browser_and_a_session_have_their_own_limits(
    app: Flask, client: CheckingClient, maha: Staff, hashed: list[str]
) -> None:
    send(client)
    asked = [
        press(client, ACCOUNT, password="guess", new_password=OTHER).status_code for _ in range(limits.MAX_TRIES + 1)
    ]
    assert asked == [422] * limits.MAX_TRIES + [429]
    tried = [send(client, "guess").status_code for _ in range(limits.MAX_TRIES + 1)]
    assert tried == [422] * limits.MAX_TRIES + [429]
    assert send(new_browser(app)).status_code == 303, "a new browser in the same network"


def test_row_52_one_password_is_hashed_at_a_time_two_wait_and_others_are_refused(
    app: Flask, maha: Staff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lane has its own turn: while strangers fill theirs, staff sign in, and are asked for the password again."""
    running, most, let_go, started = [0], [0], threading.Event(), threading.Semaphore(0)

    def check(_hash: str, password: str) -> bool:
        running[0] += 1
        most[0] = max(most[0], running[0])
        assert not in_write(), "hashing in a transaction would keep callbacks waiting"
        if password == "guess":
            started.release()
            assert let_go.wait(30)
        running[0] -= 1
        return password == PASSWORD

    monkeypatch.setattr(staff, "check_password_hash", check)
    known = new_browser(app)
    assert send(known).status_code == 303
    press(known, "/dashboard/sign-out")
    statuses: list[int] = []

    def guess(number: int) -> None:
        statuses.append(send(new_browser(app), "guess", "nobody@example.com", f"192.0.2.{number}").status_code)

    guessers = [threading.Thread(target=guess, args=(number,)) for number in range(12)]
    for one in guessers:
        one.start()
    assert started.acquire(timeout=30)
    until = time.monotonic() + 30
    while len(statuses) < 9 and time.monotonic() < until:
        time.sleep(0.01)
    assert statuses == [429] * 9, "one is hashed, two wait"
    assert most == [1]
    assert send(known).status_code == 303
    assert press(known, ACCOUNT, password="mistyped", new_password=OTHER).status_code == 422
    let_go.set()
    for one in guessers:
        one.join(30)
    assert sorted(statuses) == [422] * 3 + [429] * 9


def test_row_52_an_unknown_address_takes_as_long_as_a_known_one(app: Flask, maha: Staff) -> None:
    checked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staff, "check_password_hash", lambda stored, _: bool(checked.append(stored)))
        staff.add("invited@example.com", "Invited")
        for email in (EMAIL, "invited@example.com", "nobody@example.com"):
            with pytest.raises(staff.WrongPassword):
                staff.sign_in(email, "guess", "a network", "", "")
    assert {stored.partition("$")[0] for stored in checked} == {"scrypt:32768:8:1"}


# --- One's own account -----------------------------------------------------------------------------------------------


def test_a_changed_password_ends_all_other_sessions(
    app: Flask, client: CheckingClient, other: CheckingClient, maha: Staff
) -> None:
    send(client)
    send(other)
    before = cookie_of(app, client)
    done = press(client, ACCOUNT, password=PASSWORD, new_password=OTHER)
    assert done.status_code == 303, done.text
    assert is_in(client)
    assert cookie_of(app, client) != before
    assert not is_in(other)
    assert send(other, PASSWORD).status_code == 422
    assert send(other, OTHER).status_code == 303


@pytest.mark.parametrize(
    ("password", "new", "told"),
    [
        ("guess", OTHER, "The password is wrong."),
        (PASSWORD, "eleven char", "Enter at least 12 characters."),
        (PASSWORD, "x" * 201, "Enter at least 12 characters."),
        ("", OTHER, "Enter your password."),
    ],
)
def test_a_password_is_not_changed_to_what_is_too_short_or_by_who_does_not_know_it(
    client: CheckingClient, maha: Staff, password: str, new: str, told: str
) -> None:
    send(client)
    refused = press(client, ACCOUNT, password=password, new_password=new)
    assert refused.status_code == 422
    assert told in refused.text
    assert db.session.get_one(Staff, maha.id).password_hash == maha.password_hash


def test_sessions_can_be_ended_one_by_one_and_all_at_once(
    app: Flask, client: CheckingClient, other: CheckingClient, maha: Staff
) -> None:
    send(client)
    send(other)
    third = new_browser(app)
    send(third)
    page = client.get(ACCOUNT).text
    assert page.count("Signed in ") == 3
    theirs = rows(StaffSession)[1].id
    assert press(client, f"{ACCOUNT}/sessions/{theirs}").status_code == 303
    assert (is_in(client), is_in(other), is_in(third)) == (True, False, True)
    assert press(client, f"{ACCOUNT}/sessions").headers["Location"] == SIGN_IN
    assert (is_in(client), is_in(third)) == (False, False)


def test_nobody_ends_the_sessions_of_others(
    app: Flask, client: CheckingClient, desk: CheckingClient, maha: Staff
) -> None:
    other = new_browser(app)
    send(other)
    theirs = rows(StaffSession)[-1].id
    press(desk, f"{ACCOUNT}/sessions/{theirs}")
    assert is_in(other)


# --- A forgotten password --------------------------------------------------------------------------------------------


def ask(client: CheckingClient, email: str = EMAIL) -> TestResponse:
    """Ask for a link."""
    return press(client, "/dashboard/forgotten", form="/dashboard/forgotten", email=email)


def mailed_link(folder: Path) -> str:
    """The path of the newest link that was mailed."""
    worker.tick()
    [message] = [one for name, one in mails(folder).items() if name.startswith("mail-new-password")][-1:]
    assert message["To"] == EMAIL
    found = re.search(r"http://127.0.0.1:9(/dashboard/new-password/\S+)", message.get_content())
    assert found is not None
    return found[1]


def test_a_link_sets_a_password_once_and_ends_all_sessions(
    client: CheckingClient, other: CheckingClient, maha: Staff, tmp_path: Path
) -> None:
    send(other)
    asked = ask(client, " MAHA@example.com ")
    assert "If this is the address of an account, a link is on its way to it." in client.follow(asked).text
    link = mailed_link(tmp_path)
    assert EMAIL in client.get(link).text
    assert is_in(other), "opening the link changes nothing: mail programs do it unasked"
    assert press(client, link, form=link, new_password="short").status_code == 422
    done = press(client, link, form=link, new_password=OTHER)
    assert done.headers["Location"] == FIRST
    assert is_in(client)
    assert not is_in(other)
    assert send(other, PASSWORD).status_code == 422
    assert send(other, OTHER).status_code == 303
    again = other.get(link)
    assert again.status_code == 404
    assert "This link no longer works" in again.text
    assert press(other, link, form=ACCOUNT, new_password=PASSWORD).status_code == 404
    assert send(client, OTHER).status_code == 303


def test_the_page_says_the_same_whether_the_address_exists(client: CheckingClient, maha: Staff, tmp_path: Path) -> None:
    pages = [client.follow(ask(client, email)).text for email in (EMAIL, "nobody@example.com")]
    known, unknown = (re.sub(r'value="[^"]*"', "", page) for page in pages)
    assert known == unknown
    assert "If this is the address of an account" in known
    worker.tick()
    assert len(mails(tmp_path)) == 1


def test_a_link_works_for_half_an_hour(app: Flask, client: CheckingClient, maha: Staff, tmp_path: Path) -> None:
    ask(client)
    link = mailed_link(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        clock = time.time() + 30 * 60
        patch.setattr("itsdangerous.timed.time.time", lambda: clock)
        assert client.get(link).status_code == 200
        clock += 2
        assert client.get(link).status_code == 404


def test_a_link_that_was_changed_or_is_somebody_elses_opens_nothing(
    client: CheckingClient, maha: Staff, tmp_path: Path
) -> None:
    ask(client)
    link = mailed_link(tmp_path)
    whose, signature = link.rsplit(".", 1)
    for wrong in (f"{whose}.{signature[::-1]}", "/dashboard/new-password/x", f"{link}.x", f"{whose}x.{signature}"):
        assert client.get(wrong).status_code == 404
    staff.disable(maha.id)
    assert client.get(link).status_code == 404


def test_an_account_gets_one_link_in_ten_minutes_and_a_network_asks_for_ten_an_hour(
    client: CheckingClient, maha: Staff
) -> None:
    statuses = [ask(client).status_code for _ in range(limits.MAX_LINKS_PER_HOUR + 1)]
    assert statuses == [303] * limits.MAX_LINKS_PER_HOUR + [429]
    assert len(rows(OutboxMessage, kind=OutboxKind.MAIL_NEW_PASSWORD)) <= 2, "two, if ten minutes began meanwhile"


def test_a_link_is_made_when_it_is_sent_and_never_stored(
    app: Flask, client: CheckingClient, maha: Staff, tmp_path: Path
) -> None:
    """So one that the mail server refused for hours still works half an hour after it arrives."""
    ask(client)
    [queued] = rows(OutboxMessage)
    assert queued.payload == {"staff_id": maha.id, "locale": "en"}
    with write() as session:
        session.get_one(Staff, maha.id).active = False
    worker.tick()
    assert not mails(tmp_path)
    assert rows(OutboxMessage)[0].done_at, "whoever was disabled meanwhile gets none"


# --- Who may sign in -------------------------------------------------------------------------------------------------


def test_somebody_is_added_and_sets_a_password_by_a_link(
    app: Flask, client: CheckingClient, other: CheckingClient, maha: Staff, tmp_path: Path
) -> None:
    send(client)
    person = {"name": " Omar \u200e", "email": "Omar@example.com", "password": PASSWORD}
    added = press(client, "/dashboard/staff", **person)
    assert "Omar gets an e-mail with a link to set a password." in client.follow(added).text
    worker.tick()
    [message] = mails(tmp_path).values()
    assert message["To"] == "omar@example.com"
    link = re.search(r"http://127.0.0.1:9(\S+)", message.get_content())
    assert link is not None
    assert send(other, "!", "omar@example.com").status_code == 422
    assert press(other, link[1], form=link[1], new_password=OTHER).status_code == 303
    assert is_in(other)
    again = press(client, "/dashboard/staff", **person)
    assert again.status_code == 422
    assert "There is an account with this address." in again.text


@pytest.mark.parametrize(
    ("field", "value"), [("password", "guess"), ("password", ""), ("name", "\u200b"), ("email", "omar")]
)
def test_nobody_is_added_by_who_does_not_know_the_password_or_without_name_and_address(
    client: CheckingClient, maha: Staff, field: str, value: str
) -> None:
    send(client)
    person = {"name": "Omar", "email": "omar@example.com", "password": PASSWORD}
    refused = press(client, "/dashboard/staff", **person | {field: value})
    assert refused.status_code == 422
    assert 'aria-invalid="true"' in refused.text
    assert len(rows(Staff)) == 1


def test_somebody_is_disabled_and_added_again(
    app: Flask, client: CheckingClient, other: CheckingClient, maha: Staff, staff: int
) -> None:
    send(client)
    sign_in(app, other, staff)
    path = f"/dashboard/staff/{staff}/disabled"
    assert press(client, path, password="guess").status_code == 422
    assert is_in(other)
    assert press(client, path, password=PASSWORD).status_code == 303
    assert not is_in(other)
    assert client.get(path).status_code == 404, "there is nothing left to disable"
    person = {"name": "Omar the second", "email": "omar@example.com", "password": PASSWORD}
    assert press(client, "/dashboard/staff", **person).status_code == 303
    found = db.session.get_one(Staff, staff)
    assert (found.name, found.active) == ("Omar the second", True)
    assert not is_in(other), "the old session stays dead"


def test_nobody_disables_their_own_account(client: CheckingClient, maha: Staff) -> None:
    send(client)
    path = f"/dashboard/staff/{maha.id}/disabled"
    assert path not in client.get("/dashboard/staff").text
    assert press(client, path, password=PASSWORD).status_code == 404
    assert is_in(client)


# --- The commands ----------------------------------------------------------------------------------------------------


def run(app: Flask, *args: str, typed: str = "") -> tuple[int, str]:
    """Run `flask staff`."""
    result = app.test_cli_runner().invoke(args=["staff", *args], input=typed)
    return result.exit_code, result.output


def test_the_commands_add_somebody_set_a_password_and_disable(app: Flask, client: CheckingClient) -> None:
    code, said = run(app, "add", "Maha@Example.com", typed=f"Maha\n{PASSWORD}\n{PASSWORD}\n")
    assert code == 0, said
    assert "maha@example.com can sign in at /dashboard/." in said
    assert PASSWORD not in said
    assert send(client).status_code == 303
    assert run(app, "password", EMAIL, typed=f"{OTHER}\n{OTHER}\n")[0] == 0
    assert not is_in(client)
    assert send(client, OTHER).status_code == 303
    assert run(app, "disable", EMAIL)[0] == 0
    assert not is_in(client)
    assert send(client, OTHER).status_code == 422
    assert run(app, "add", EMAIL, "--name", "Maha", "--password", PASSWORD)[0] == 0
    assert send(client).status_code == 303


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("add", "maha", "--name", "Maha", "--password", PASSWORD), "write an e-mail address"),
        (("add", EMAIL, "--name", "Maha", "--password", PASSWORD), "can sign in already"),
        (("add", "omar@example.com", "--name", " ", "--password", PASSWORD), "give a name"),
        (("add", "omar@example.com", "--name", "Omar", "--password", "short"), "12 characters or more"),
        (("password", "omar@example.com", "--password", PASSWORD), "Nobody can sign in as omar@example.com"),
        (("disable", "omar@example.com"), "Nobody can sign in as omar@example.com"),
    ],
)
def test_the_commands_say_what_is_wrong(app: Flask, maha: Staff, args: tuple[str, ...], told: str) -> None:
    code, said = run(app, *args)
    assert code != 0
    assert told in said
    assert "Traceback" not in said
    assert len(rows(Staff)) == 1


# --- A flood of guesses ----------------------------------------------------------------------------------------------

GUESSES = int(os.environ.get("GUESSES", "3000"))


def memory(process: int) -> int:
    """The memory of a process, in KiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4


@pytest.mark.slow
@pytest.mark.sqlite
def test_row_52_a_flood_of_guesses_delays_no_callback_takes_no_memory_and_keeps_no_staff_out(
    migrated: Path, tmp_path: Path, serve: Serve, start: Start
) -> None:
    """`GUESSES=10000` makes the long run."""
    shutil.copy(migrated, tmp_path / "shop.db")
    password = ("--password", PASSWORD)
    settings = settings_for(tmp_path, "http://127.0.0.1:9/projects/none")
    added = start("-m", "flask", "--app", "app", "staff", "add", EMAIL, "--name", "Maha", *password, env=settings)
    assert added.wait(30) == 0
    port = free_port()
    shop = serve(port, "--no-worker", PUBLIC_URL=f"http://127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}"
    wait_for(f"{url}/healthz")
    known = requests.Session()
    page = known.get(f"{url}{SIGN_IN}", timeout=30).text
    form = {"csrf_token": field(page, "csrf_token"), "email": EMAIL}
    assert known.post(f"{url}{SIGN_IN}", data=form | {"password": PASSWORD}, timeout=30).url == f"{url}{FIRST}"
    warm_up = start("-m", "tests.faults.guesser", str(port), "200")
    assert warm_up.wait(60) == 0
    before = memory(shop.pid)
    flood, gateway, times = start("-m", "tests.faults.guesser", str(port), str(GUESSES)), requests.Session(), []
    signed_in = 0
    while flood.poll() is None:
        began = time.monotonic()
        assert gateway.post(f"{url}/amwal/callback", json={"secret": "x"}, timeout=30).status_code in (404, 429)
        times.append(time.monotonic() - began)
        if len(times) % 20 == 5:
            page = known.get(f"{url}{SIGN_IN}", timeout=30).text
            form["csrf_token"] = field(page, "csrf_token")
            answer = known.post(f"{url}{SIGN_IN}", data=form | {"password": PASSWORD}, timeout=30)
            signed_in += answer.url == f"{url}{FIRST}"
        time.sleep(0.02)
    assert flood.stdout is not None
    statuses = json.loads(flood.stdout.read())
    print(f"GUESSES={GUESSES} {statuses}; callbacks: median {statistics.median(times) * 1000:.0f} ms of {len(times)}")
    assert sum(statuses.values()) == GUESSES
    assert statuses["429"] >= GUESSES - limits.MAX_TRIES_PER_MINUTE
    assert signed_in >= 1
    assert statistics.median(times) < (0.1 if GUESSES >= 10_000 else 1)  # a busy machine is no fault
    assert memory(shop.pid) < before + 10 * 1024
