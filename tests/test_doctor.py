"""`flask doctor`: every fault that it can see has a line that says how to fix it, and no line holds a secret."""

import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from waitress.server import create_server

import amwal
from models import Attention, CallbackAttempt, DeliveryMethod, Heartbeat, OutboxMessage, now
from shop import worker
from shop.attention import flag
from shop.db import engine, journal_mode, sqlite_library, write
from shop.ops import doctor, doctor_gateway, probe
from shop.ops.probe import Answer, Case, Finding
from shop.states import AttentionKind, CallbackOutcome
from tests import test_worker
from tests.children import free_port
from tests.conftest import API_KEY, OrderFactory, missing, rows, settings_for
from tests.test_amwal import DATA

certificate = test_worker.certificate
Lines = list[tuple[str, str, str]]


def report(app: Flask, *options: str) -> tuple[int, Lines]:
    """Run the command. Gives the exit code, and level, subject and text of each line; what holds for all is checked."""
    with app.app_context():
        result = app.test_cli_runner().invoke(args=["doctor", *options])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "Traceback" not in result.output
    *lines, summary = result.output.splitlines()
    found = [(line[:5].strip(), line[6:17].strip(), line[18:]) for line in lines]
    levels = [level for level, _, _ in found]
    assert set(levels) <= {"ok", "note", "skip", "warn", "FAIL"}, result.output
    assert {subject for _, subject, _ in found} <= {*doctor.CHECKS, "API key"}, result.output
    for level, _, text in found:
        assert (" How to fix: " in text) == (level in ("warn", "FAIL")), text
    assert summary == f"{levels.count('FAIL')} failed, {levels.count('warn')} to look at, {levels.count('ok')} fine."
    assert result.exit_code == (1 if "FAIL" in levels else 0)
    return result.exit_code, found


def about(subject: str, lines: Lines) -> list[tuple[str, str]]:
    """Level and text of the lines on a subject."""
    return [(level, text) for level, name, text in lines if name == subject]


def one(subject: str, lines: Lines) -> tuple[str, str]:
    """Level and text of the one line on a subject."""
    [found] = about(subject, lines)
    return found


def findings(app: Flask, check: Callable[[Case], Iterator[Finding]], **changes: Any) -> list[Finding]:
    """Make one check, with changed settings."""
    settings = replace(app.extensions["settings"], **{name.lower(): value for name, value in changes.items()})
    with app.app_context():
        return list(check(Case(settings, Answer(200, "sandbox ok"))))


@pytest.fixture
def shop(new_app: Callable[..., Flask]) -> Iterator[Callable[..., Flask]]:
    """Make a shop that answers at its PUBLIC_URL."""
    servers = []

    def make(**changes: str) -> Flask:
        port = free_port()
        app = new_app(PUBLIC_URL=f"http://127.0.0.1:{port}", **changes)
        servers.append(create_server(app, host="127.0.0.1", port=port, threads=2))
        threading.Thread(target=servers[-1].run, daemon=True).start()
        return app

    yield make
    for server in servers:
        server.close()


class Stub:
    """A web server that is no shop and no sandbox: it gives the answers it is told to give, and else 404."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.requests: list[tuple[str, str, str, bytes]] = []
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.requests.append((self.command, self.path, self.headers.get("Authorization", ""), body))
                status, headers, content = stub.answers.get(f"{self.command} {self.path}", (404, {}, b"not here"))
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer  # noqa: N815  (http.server's names)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def says(self, route: str, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer a route, such as `GET /healthz`."""
        self.answers[route] = (status, headers, body)

    def reply(self, err: object = 0, **changes: object) -> None:
        """Create invoices with a reply that is changed; `None` leaves a field out."""
        data = {name: value for name, value in (DATA | changes).items() if value is not None}
        self.says("PUT /projects/1", 200, json.dumps({"data": data, "err": err}).encode())


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.server.shutdown()
    made.server.server_close()


# --- The whole command -----------------------------------------------------------------------------------------------


def test_a_shop_that_is_ready_fails_in_nothing(shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox = test_worker.Mailbox()
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        app = shop(MAIL_URL=f"smtp://127.0.0.1:{server.port}", SHOP_CONTACT="shop@example.com")
        with app.app_context():
            worker.tick()
        (tmp_path / "templates" / "pages").mkdir(parents=True)
        monkeypatch.setattr(app, "root_path", str(tmp_path))
        code, lines = report(app)
    finally:
        server.stop()
    assert code == 0
    assert [subject for _, subject, _ in lines if subject != "API key"] == [
        name for name in doctor.CHECKS if name != "API key"
    ]
    here = ("database", "disk", "connections")  # say what this machine is like
    assert {(level, subject) for level, subject, _ in lines if subject not in here} == {
        ("ok", name) for name in doctor.CHECKS if name not in here
    }
    assert not mailbox.received


@pytest.mark.parametrize(("files", "level", "text"), [(4096, "ok", "1000 at once"), (512, "warn", "192 at once")])
def test_row_97_a_low_limit_of_open_files(
    app: Flask, monkeypatch: pytest.MonkeyPatch, files: int, level: str, text: str
) -> None:
    monkeypatch.setattr("shop.ops.doctor.server.raise_file_limit", lambda: files)
    [finding] = findings(app, doctor.check_connections)
    assert finding.level == level
    assert text in finding.text
    assert finding.text.endswith(f"open files is {files}") == (level == "warn")


def test_the_command_has_help_that_says_what_a_test_invoice_is(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["doctor", "--help"])
    assert result.exit_code == 0
    assert "creates a real invoice" in " ".join(result.output.split())


def test_a_fault_in_one_check_is_a_line_and_the_others_go_on(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_case: Case) -> Iterator[Finding]:
        yield Finding("ok", "so far")
        raise RuntimeError("no idea")

    monkeypatch.setitem(doctor.CHECKS, "disk", (broken, set()))
    code, lines = report(app)
    assert code == 1
    assert [level for level, _ in about("disk", lines)] == ["ok", "FAIL"]
    assert "RuntimeError: no idea" in about("disk", lines)[1][1]
    assert about("pages", lines)


# --- Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MERCHANT_EMAIL", "SHOP_CONTACT"])
def test_an_empty_address_is_a_warning(app: Flask, name: str) -> None:
    filled = {"MERCHANT_EMAIL": "m@example.com", "SHOP_CONTACT": "s@example.com"}
    assert [found.level for found in findings(app, doctor.check_settings, **filled)] == ["ok"]
    found = findings(app, doctor.check_settings, **filled | {name: ""})
    assert [(one.level, name in one.text) for one in found] == [("ok", False), ("warn", True)]


@pytest.mark.parametrize(
    ("url", "proxies", "warns"),
    [("https://shop.example", 0, True), ("https://shop.example", 1, False), ("http://127.0.0.1:9", 0, False)],
)
def test_https_without_a_trusted_proxy_is_a_warning(app: Flask, url: str, proxies: int, *, warns: bool) -> None:
    changes = {"MERCHANT_EMAIL": "m@example.com", "SHOP_CONTACT": "s", "PUBLIC_URL": url, "TRUSTED_PROXIES": proxies}
    found = findings(app, doctor.check_settings, **changes)
    assert [one.text[:20] for one in found if one.level != "ok"] == ["TRUSTED_PROXIES is 0"] * warns


def test_row_75_python_dotenv_is_a_warning(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, Flask reads the files of other programs before the shop's own code runs."""
    filled = {"MERCHANT_EMAIL": "m@example.com", "SHOP_CONTACT": "s@example.com"}
    monkeypatch.setattr(doctor, "find_spec", lambda name: name == "dotenv" or None)
    [_, found] = findings(app, doctor.check_settings, **filled)
    assert (found.level, "python-dotenv is installed" in found.text) == ("warn", True)


def test_demo_is_a_warning_at_the_sandbox_and_a_failure_elsewhere(new_app: Any, stub: Stub) -> None:
    _, lines = report(new_app(DEMO="on"))
    assert any(level == "warn" and "DEMO" in text for level, text in about("settings", lines))
    _, lines = report(new_app(DEMO="on", AMWAL_PROJECT_URL=f"{stub.url}/projects/1"))
    assert any(level == "FAIL" and "DEMO=off" in text for level, text in about("settings", lines))


def test_demo_with_a_sandbox_that_is_not_started_is_no_second_failure(new_app: Any) -> None:
    _, lines = report(new_app(DEMO="on", AMWAL_PROJECT_URL="http://127.0.0.1:9/projects/1"))
    assert not [text for level, text in about("settings", lines) if level == "FAIL"]


# --- Database, disk, migrations, worker ------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_the_database_line_says_which_journal_is_in_use(app: Flask) -> None:
    [found] = findings(app, doctor.check_database)
    assert (found.level == "ok") == (journal_mode() == "wal")
    assert re.match(r"SQLite 3\.\d+\.\d+ with (write-ahead log|delete journal): ", found.text)


@pytest.mark.sqlite
def test_a_rollback_journal_is_a_warning(new_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop.db.journal_mode", lambda: "delete")
    [found] = findings(new_app(), doctor.check_database)
    assert found.level == "warn"
    assert "block each other" in found.text
    assert "pysqlite3" in found.fix


@pytest.mark.sqlite
def test_a_database_that_is_not_there_is_not_made(new_app: Any, tmp_path: Path) -> None:
    app = new_app(DATABASE_URL=f"sqlite:///{tmp_path / 'mistyped.db'}")
    code, lines = report(app)
    assert code == 1
    level, text = one("database", lines)
    assert level == "FAIL"
    assert "db upgrade" in text
    assert [one(name, lines)[0] for name in ("migrations", "worker", "callback")] == ["skip"] * 3
    assert not (tmp_path / "mistyped.db").exists()


@pytest.mark.sqlite
def test_a_file_that_is_no_database_is_a_failure(new_app: Any, tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(b"something else " * 500)
    _, lines = report(new_app(DATABASE_URL=f"sqlite:///{tmp_path / 'other.db'}"))
    level, text = one("database", lines)
    assert (level, "file is not a database" in text) == ("FAIL", True)


@pytest.mark.sqlite
def test_a_database_that_is_locked_is_a_failure(new_app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop.db.LOCK_TIMEOUT", 0.2)
    app = new_app()
    holder = sqlite_library().connect(tmp_path / "shop.db", isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        [found] = findings(app, doctor.check_database)
    finally:
        holder.close()
    assert (found.level, "locked" in found.text) == ("FAIL", True)


def test_a_database_behind_the_program_is_a_failure(shop: Any) -> None:
    app = shop()
    with app.app_context(), engine().begin() as connection:
        first = ScriptDirectory(app.extensions["migrate"].directory).get_base()
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{first}'")
    _, lines = report(app)
    level, text = one("migrations", lines)
    assert level == "FAIL"
    assert f"at {first}" in text
    assert text.endswith("run flask --app app db upgrade.")


@pytest.mark.sqlite
def test_a_database_without_tables_is_a_failure(new_app: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    _, lines = report(new_app(DATABASE_URL=f"sqlite:///{tmp_path / 'empty.db'}"))
    assert one("migrations", lines)[0] == "FAIL"


def test_without_a_delivery_method_nobody_can_order(app: Flask) -> None:
    assert one("delivery", report(app)[1])[0] == "ok"
    with write() as session:
        session.execute(update(DeliveryMethod).values(active=False))
    level, text = one("delivery", report(app)[1])
    assert (level, "nobody can order" in text, "make-it-yours.md" in text) == ("FAIL", True, True)


def test_row_67_a_worker_that_is_silent_or_was_never_there_is_a_failure(app: Flask) -> None:
    [never] = findings(app, doctor.check_worker)
    with write() as session:
        session.merge(Heartbeat(name="worker", at=datetime(2026, 3, 1, 12, tzinfo=UTC)))
    [silent] = findings(app, doctor.check_worker)
    worker.tick()
    [alive] = findings(app, doctor.check_worker)
    assert [never.level, silent.level, alive.level] == ["FAIL", "FAIL", "ok"]
    assert "2026-03-01 at 12:00:00 UTC" in silent.text
    assert "flask --app app worker" in silent.fix


MOUNTS = """/dev/vda / ext4 rw 0 0
tmpfs /run tmpfs rw 0 0
overlay /srv overlay rw 0 0
/dev/vdb /srv/lasting ext4 rw 0 0
/dev/vdc /mnt/two\\040words xfs rw 0 0
none /twice ext4 rw 0 0
none /twice tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/shop.db", "ext4"),
        ("/run/shop.db", "tmpfs"),
        ("/running/shop.db", "ext4"),
        ("/srv/shop.db", "overlay"),
        ("/srv/lasting/deep/shop.db", "ext4"),
        ("/mnt/two words/shop.db", "xfs"),
        ("/twice/shop.db", "tmpfs"),
    ],
)
def test_the_mount_that_is_nearest_to_a_file_says_what_it_lies_on(path: str, kind: str) -> None:
    assert probe.file_system(Path(path), MOUNTS) == kind
    assert not probe.file_system(Path(path), "")


KINDS = {
    "ok": ["ext4", "xfs", "btrfs", "zfs", "f2fs", "apfs"],
    "FAIL": ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "gfs2"],
    "warn": [
        "9p",
        "virtiofs",
        "fuse.bindfs",
        "fuse.sshfs",
        "fuseblk",
        "drvfs",
        "a-word-of-tomorrow",
        "tmpfs",
        "overlay",
    ],
}


@pytest.mark.sqlite
@pytest.mark.parametrize(("level", "kind"), [(level, kind) for level, kinds in KINDS.items() for kind in kinds])
def test_rows_83_and_101_a_database_belongs_on_a_local_disk(
    app: Flask, level: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "file_system", lambda *_: kind)
    [found] = findings(app, doctor.check_disk)
    assert (found.level, kind in found.text) == (level, True)


@pytest.mark.sqlite
def test_a_database_in_memory_is_a_warning(new_app: Any, tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not Path("/proc/mounts").exists() or not memory.is_dir():
        missing("/dev/shm", "Linux has one")
    folder = memory / tmp_path.name
    [found] = findings(new_app(DATABASE_URL=f"sqlite:///{folder / 'shop.db'}"), doctor.check_disk)
    assert found.level == "warn"
    assert f"{folder / 'shop.db'} lies on tmpfs" in found.text


def test_not_saying_where_orders_are_kept_is_a_warning(app: Flask) -> None:
    first, *_ = findings(app, doctor.check_disk, DATABASE_URL_GIVEN=False)
    assert (first.level, "DATABASE_URL" in first.fix) == ("warn", True)


# --- Mail ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_warning_outside_the_demo_and_is_not_made(new_app: Any, tmp_path: Path) -> None:
    app = new_app(MAIL_URL=str(tmp_path / "deep" / "mail"))
    [found] = findings(app, doctor.check_mail)
    assert (found.level, "smtp://" in found.fix) == ("warn", True)
    [found] = findings(app, doctor.check_mail, DEMO=True)
    assert found.level == "ok"
    assert not (tmp_path / "deep").exists()
    (tmp_path / "deep").touch()
    [found] = findings(app, doctor.check_mail)
    assert (found.level, "folder" in found.fix) == ("FAIL", True)


def test_a_mail_server_that_does_not_answer_is_a_failure(new_app: Any) -> None:
    [found] = findings(new_app(MAIL_URL=f"smtp://127.0.0.1:{free_port()}"), doctor.check_mail)
    assert (found.level, "host and port" in found.fix) == ("FAIL", True)


@contextmanager
def mail_server(certificate: Path | None, right: bytes, refusal: str = "535 no") -> Iterator[str]:
    """An SMTP server that wants a password. Gives host and port. Without a certificate it offers no encryption."""

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
        message = refusal.format(given.password.decode())
        return AuthResult(success=given.password == right, handled=False, message=message)

    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    options: dict[str, Any] = {"tls_context": tls, "require_starttls": bool(tls), "auth_require_tls": bool(tls)}
    mailbox = test_worker.Mailbox()
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port(), authenticator=authenticate, **options)
    server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        server.stop()


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate for mail servers that the shop trusts."""
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("shop.mail.ssl.create_default_context", lambda: trusting)
    return certificate


@pytest.mark.parametrize(
    ("encrypted", "password", "fix"),
    [
        (True, "p%40ssword", ""),
        (True, "another", "user and password"),
        (True, "p%C3%A4ssword", "MAIL_URL"),
        (False, "p%40ssword", "MAIL_URL"),
    ],
    ids=["right", "wrong password", "password that cannot be sent", "no encryption"],
)
def test_a_mail_server_is_fine_where_the_outbox_gets_its_mails_through(
    at_mail_server: Callable[..., Any], encrypted: bool, password: str, fix: str
) -> None:
    found, message = at_mail_server(encrypted, password)
    assert (found.level == "ok") == (not fix) == (message.done_at is not None)
    assert fix in found.fix


@pytest.fixture
def at_mail_server(new_app: Any, gateway: Any, trusted: Path) -> Callable[[bool, str], Any]:
    """Check a mail server that wants `p@ssword`, then send through it. Gives the finding and the outbox's message."""

    def look(encrypted: bool, password: str) -> tuple[Finding, OutboxMessage]:
        with mail_server(trusted if encrypted else None, b"p@ssword") as server:
            app = new_app(MAIL_URL=f"smtp://shop:{password}@{server}")
            [found] = findings(app, doctor.check_mail)
            with app.app_context():
                OrderFactory(gateway).awaiting()
                worker.tick()
                [message] = rows(OutboxMessage)
        return found, message

    return look


# --- The pages that a shop writes itself -----------------------------------------------------------------------------


def test_row_69_each_page_with_the_samples_text_is_a_warning(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = findings(app, doctor.check_pages)
    assert [(one.level, one.text.split()[0]) for one in found] == [
        ("warn", name) for name in ("contact", "privacy", "returns", "terms")
    ]
    shutil.copytree(Path(app.root_path, "templates", "pages"), tmp_path / "templates" / "pages")
    for name in ("privacy", "terms", "contact"):  # rewritten, and the notice removed as the sample says
        file = tmp_path / "templates" / "pages" / f"{name}.html"
        file.write_text(file.read_text().replace("{{ sample_text() }}\n", ""))
    monkeypatch.setattr(app, "root_path", str(tmp_path))
    [left] = findings(app, doctor.check_pages)
    assert left.text.startswith("returns ")
    assert "templates/pages/returns.html" in left.fix
    assert "{{ sample_text() }}" in left.fix


# --- The gateway -----------------------------------------------------------------------------------------------------


def test_at_the_sandbox_the_key_is_tried_by_an_invoice(new_app: Any, gateway: Any) -> None:
    before = len(gateway.invoices(before=10**9, limit=1000))
    _, lines = report(new_app())
    assert "is the sandbox" in one("gateway", lines)[1]
    key, *fields = about("API key", lines)
    created = gateway.invoices(before=10**9, limit=1000)
    assert len(created) == before + 1
    known = gateway.invoice(key[1].split()[2])
    assert (key[0], known.amount) == ("ok", 1)
    assert [level for level, _ in fields] == ["ok"] * 6
    assert [text.split()[2].rstrip(":") for _, text in fields] == list(doctor_gateway.DOCUMENTED)


def test_a_wrong_key_is_a_failure(new_app: Any) -> None:
    _, lines = report(new_app(AMWAL_API_KEY="wrong-key-for-tests"))
    level, text = one("API key", lines)
    assert (level, "into AMWAL_API_KEY" in text) == ("FAIL", True)


def test_a_wrong_project_url_is_a_failure(new_app: Any, gateway: Any) -> None:
    _, lines = report(new_app(AMWAL_PROJECT_URL=gateway.project_url[:-4] + "0000"))
    level, text = one("API key", lines)
    assert (level, "copy AMWAL_PROJECT_URL" in text) == ("FAIL", True)


def test_a_gateway_that_does_not_answer_is_one_failure(new_app: Any) -> None:
    _, lines = report(new_app(AMWAL_PROJECT_URL=f"http://127.0.0.1:{free_port()}/projects/1"))
    assert one("gateway", lines)[0] == "FAIL"
    assert [one(name, lines)[0] for name in ("clock", "API key")] == ["skip", "skip"]


def test_a_real_gateway_gets_no_invoice_unless_told_to(new_app: Any, stub: Stub) -> None:
    stub.reply()
    _, lines = report(new_app(AMWAL_PROJECT_URL=f"{stub.url}/projects/1"))
    level, text = one("API key", lines)
    assert (level, "--create-test-invoice" in text) == ("skip", True)
    assert [request[:2] for request in stub.requests] == [("GET", "/healthz")]


def test_who_says_sandbox_from_afar_is_not_believed(app: Flask) -> None:
    settings = app.extensions["settings"]
    afar = replace(settings, amwal_project_url="https://amwal.exchange/projects/1")
    assert not Case(afar, Answer(200, "sandbox ok")).is_sandbox
    for host in ("localhost:8001", "127.0.0.1", "192.168.1.20:8001", "[::1]:8001"):
        near = replace(settings, amwal_project_url=f"http://{host}/projects/1")
        assert Case(near, Answer(200, "sandbox ok")).is_sandbox
        assert not Case(near, Answer(200, "ok")).is_sandbox
        assert not Case(near, Answer(503, "sandbox")).is_sandbox


@pytest.fixture
def at_stub(new_app: Callable[..., Flask], stub: Stub) -> Flask:
    """A shop whose gateway is the stub, with payment pages where the documentation's example has them."""
    return new_app(AMWAL_PROJECT_URL=f"{stub.url}/projects/1", AMWAL_PAYMENT_ORIGINS="https://amwal.exchange")


def test_with_the_option_it_says_what_it_does_and_creates_the_smallest_whole_invoice(
    at_stub: Flask, stub: Stub
) -> None:
    stub.reply()
    _, lines = report(at_stub, "--create-test-invoice")
    note, key, *fields = about("API key", lines)
    assert note[0] == "note"
    for promise in ("a real invoice over 1 USD", "no money moves", "stays listed"):
        assert promise in note[1]
    assert key == ("ok", f"accepted: invoice {DATA['invoiceId']} was created.")
    assert [level for level, _ in fields] == ["ok"] * 6
    [(_, _, authorization, body)] = [request for request in stub.requests if request[0] == "PUT"]
    assert authorization == f"Bearer {API_KEY}"
    address = at_stub.extensions["settings"].public_url
    sent = json.loads(body)
    assert (sent["amount"], sent["successUrl"], sent["cancelUrl"]) == (1, address, address)
    assert sent["header"]
    assert sent["description"]


def test_whatever_the_client_can_run_into_has_its_fix() -> None:
    assert set(doctor_gateway.FIXES) == set(amwal.AmwalError.__subclasses__()) - {amwal.BadCallback}


def test_a_reply_is_set_against_the_protocol_field_by_field(at_stub: Flask, stub: Stub) -> None:
    stub.reply(status="new", QR=None, expiresAt="2026-12-01", secret="not-a-uuid-but-secret")
    _, lines = report(at_stub, "--create-test-invoice")
    _, key, *fields = about("API key", lines)
    assert key[0] == "ok"  # the shop can do without
    assert [(level, text.removeprefix("the reply's ").partition(" (")[0].rstrip(".")) for level, text in fields] == [
        ("ok", "err: as documented"),
        ("ok", "data.invoiceId: as documented"),
        ("ok", "data.url: as documented"),
        ("warn", "data.QR: missing"),
        ("warn", "data.secret: other than documented"),
        ("warn", "data.status: other than documented"),
        ("note", "data.expiresAt: not documented"),
    ]


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"err": 7}, "AMWAL_PROJECT_URL and AMWAL_API_KEY"),
        ({"secret": None}, "docs/protocol.md"),
        ({"url": "https://pay.example/1"}, "AMWAL_PAYMENT_ORIGINS"),
    ],
    ids=["refused", "no secret", "payment page elsewhere"],
)
def test_a_reply_that_the_shop_cannot_use_is_a_failure(
    at_stub: Flask, stub: Stub, changes: dict[str, Any], fix: str
) -> None:
    stub.reply(**changes)
    _, lines = report(at_stub, "--create-test-invoice")
    _, key, *fields = about("API key", lines)
    assert (key[0], fix in key[1]) == ("FAIL", True)
    assert len(fields) == 6


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"err": 0}', b'{"data": [1], "err": 0}', b"[" * 100_000])
def test_a_reply_that_is_no_such_object_is_a_failure(at_stub: Flask, stub: Stub, body: bytes) -> None:
    stub.says("PUT /projects/1", 200, body)
    _, lines = report(at_stub, "--create-test-invoice")
    assert [level for level, _ in about("API key", lines)] == ["note", "FAIL"]


@pytest.mark.parametrize(
    ("seconds", "level", "words"),
    [(0, "ok", ""), (-30, "ok", ""), (300, "warn", "behind the gateway"), (-300, "warn", "ahead of the gateway")],
)
def test_a_clock_that_is_off_is_a_warning(at_stub: Flask, stub: Stub, seconds: int, level: str, words: str) -> None:
    stub.says("GET /healthz", 404, Date=format_datetime(now() + timedelta(seconds=seconds), usegmt=True))
    _, lines = report(at_stub)
    found = one("clock", lines)
    assert (found[0], words in found[1]) == (level, True)


@pytest.mark.parametrize("headers", [{}, {"Date": "yesterday"}, {"Date": "Sun, 99 Nov 2026 18:00:00 GMT"}])
def test_a_clock_without_one_to_compare_is_not_checked(at_stub: Flask, stub: Stub, headers: dict[str, str]) -> None:
    stub.says("GET /healthz", 404, b"", **headers)
    _, lines = report(at_stub)
    assert one("clock", lines)[0] == "skip"


# --- PUBLIC_URL and the callback -------------------------------------------------------------------------------------


def test_a_public_url_where_nobody_answers_is_a_failure(new_app: Any) -> None:
    _, lines = report(new_app(PUBLIC_URL=f"http://127.0.0.1:{free_port()}"))
    level, text = one("PUBLIC_URL", lines)
    assert (level, "start the shop" in text) == ("FAIL", True)
    assert one("callback", lines)[0] == "skip"


def test_a_server_that_says_nothing_is_not_waited_for_long(
    new_app: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert sum(probe.TIMEOUT) <= 6
    assert doctor.SMTP_TIMEOUT <= 6
    monkeypatch.setattr(probe, "TIMEOUT", (0.2, 0.2))
    monkeypatch.setattr(doctor, "SMTP_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        changes = {"AMWAL_PROJECT_URL": f"http://{address}/p", "PUBLIC_URL": f"http://{address}"}
        _, lines = report(new_app(MAIL_URL=f"smtp://{address}", **changes))
    assert [one(name, lines)[0] for name in ("gateway", "PUBLIC_URL", "mail")] == ["FAIL"] * 3
    assert time.monotonic() - started < 5


def test_of_an_answer_without_end_only_the_beginning_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            client, _ = server.accept()
            with client, suppress(OSError):  # whoever asked hangs up
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for _ in range(400):
                    client.sendall(b"more\n" * 1000)
                    time.sleep(0.01)

        talking = threading.Thread(target=talk)
        talking.start()
        answer = probe.ask("GET", f"http://127.0.0.1:{server.getsockname()[1]}/")
        assert (answer.status, answer.text) == (200, "more\n" * 200)
        assert talking.is_alive()
        talking.join()


def test_a_public_url_that_redirects_is_a_failure_and_is_not_followed(shop: Any, new_app: Any, stub: Stub) -> None:
    there = shop().extensions["settings"].public_url
    stub.says("GET /healthz", 301, Location=f"{there}/healthz")
    _, lines = report(new_app(PUBLIC_URL=stub.url))
    level, text = one("PUBLIC_URL", lines)
    assert (level, f"redirects to {there}/healthz" in text, "www" in text) == ("FAIL", True, True)


@pytest.mark.parametrize(("status", "body"), [(200, b"<h1>Welcome to nginx"), (502, b""), (404, b"ok"), (200, b"")])
def test_something_else_behind_public_url_is_a_failure(new_app: Any, stub: Stub, status: int, body: bytes) -> None:
    stub.says("GET /healthz", status, body)
    _, lines = report(new_app(PUBLIC_URL=stub.url))
    level, text = one("PUBLIC_URL", lines)
    assert (level, f"something else answers at {stub.url}" in text) == ("FAIL", True)
    assert not [request for request in stub.requests if request[0] == "POST"]


def test_the_sandbox_behind_public_url_is_something_else(new_app: Any, gateway: Any) -> None:
    _, lines = report(new_app(PUBLIC_URL=gateway.project_url.partition("/projects")[0]))
    assert one("PUBLIC_URL", lines)[0] == "FAIL"


def test_a_public_url_that_a_real_gateway_cannot_reach_is_a_failure(app: Flask) -> None:
    [found] = findings(app, doctor_gateway.check_public_url, AMWAL_PROJECT_URL="https://amwal.exchange/projects/1")
    assert (found.level, "cannot reach http://127.0.0.1" in found.text) == ("FAIL", True)


Wsgi = Callable[[dict[str, Any], Any], Any]


def without_the_port(inner: Wsgi) -> Wsgi:
    """A proxy with `proxy_set_header Host $host`."""
    return lambda environ, start: inner(environ | {"HTTP_HOST": environ["HTTP_HOST"].partition(":")[0]}, start)


def with_a_policy_of_its_own(inner: Wsgi) -> Wsgi:
    """A proxy with `add_header Referrer-Policy no-referrer` in the place of ours."""

    def outer(environ: dict[str, Any], start: Any) -> Any:
        def begin(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            others = [(name, value) for name, value in headers if name != "Referrer-Policy"]
            return start(status, [*others, ("Referrer-Policy", "no-referrer")], *more)

        return inner(environ, begin)

    return outer


@pytest.mark.parametrize(
    ("proxy", "level", "says", "fix"),
    [
        (without_the_port, "FAIL", "changes the Host", "proxy_set_header Host $http_host"),
        (with_a_policy_of_its_own, "warn", "changes Referrer-Policy", "let it pass the shop's headers unchanged"),
        (lambda inner: inner, "ok", "a shop answers", ""),
    ],
)
def test_rows_85_and_86_a_proxy_that_changes_headers_is_found(
    shop: Any, proxy: Callable[[Wsgi], Wsgi], level: str, says: str, fix: str
) -> None:
    app = shop()
    app.wsgi_app = proxy(app.wsgi_app)
    found = findings(app, doctor_gateway.check_public_url)[-1]
    assert found.level == level
    assert says in found.text
    assert fix in found.fix


def test_the_environment_cannot_reroute_what_is_asked(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    _, lines = report(shop())
    assert {one(name, lines)[0] for name in ("gateway", "PUBLIC_URL", "callback")} == {"ok"}


def test_a_callback_that_does_not_get_through_is_a_failure(new_app: Any, stub: Stub) -> None:
    stub.says("GET /healthz", 200, b"ok\n")
    _, lines = report(new_app(PUBLIC_URL=stub.url))
    level, text = one("callback", lines)
    assert (level, "HTTP 404" in text, "POST /amwal/callback" in text) == ("FAIL", True, True)


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        (b'{"result": "too_many"}', "warn", "payments still get in"),
        (b"<h1>429 Too Many Requests</h1> nginx", "FAIL", "let proxies pass"),
    ],
)
def test_only_the_shops_own_limit_of_callbacks_is_no_failure(
    new_app: Any, stub: Stub, said: bytes, level: str, words: str
) -> None:
    stub.says("GET /healthz", 200, b"ok\n")
    stub.says("POST /amwal/callback", 429, said)
    found, text = one("callback", report(new_app(PUBLIC_URL=stub.url))[1])
    assert (found, words in text) == (level, True), text


def test_a_callback_that_another_shop_answers_is_a_failure(
    shop: Any, migrated: Path, gateway: Any, tmp_path: Path, new_app: Any
) -> None:
    """As after a move: the address still leads to the old server, which has a database of its own."""
    (tmp_path / "old").mkdir()
    shutil.copy(migrated, tmp_path / "old" / "shop.db")
    old = shop(DATABASE_URL=f"sqlite:///{tmp_path / 'old' / 'shop.db'}")
    _, lines = report(new_app(PUBLIC_URL=old.extensions["settings"].public_url))
    level, text = one("callback", lines)
    assert (level, "another shop" in text) == ("FAIL", True)


def test_the_callback_tried_out_stays_in_the_inbox_and_opens_nothing(shop: Any) -> None:
    app = shop()
    _, lines = report(app)
    assert one("callback", lines)[0] == "ok"
    with app.app_context():
        [attempt] = rows(CallbackAttempt)
        assert (attempt.outcome, attempt.status) == (CallbackOutcome.MALFORMED, 400)
        assert "doctor-" in attempt.body
        assert not rows(Attention)


def test_an_item_that_was_open_is_left_as_it_was(shop: Any) -> None:
    app = shop()
    earlier = now() - timedelta(days=1)
    with app.app_context():
        for kind in (AttentionKind.UNKNOWN_SECRET, AttentionKind.OTHER_INVOICE):
            for _ in range(3):
                with write() as session:
                    flag(session, kind, "callback", "last from 192.0.2.7")
        with write() as session:
            session.execute(update(Attention).values(last_at=earlier, mailed_at=earlier))
        before = [state(item) for item in rows(Attention)]
    _, lines = report(app)
    assert one("callback", lines)[0] == "ok"
    with app.app_context():
        assert [state(item) for item in rows(Attention)] == before


def state(item: Attention) -> tuple[Any, ...]:
    """All that an item holds."""
    return tuple(getattr(item, column.key) for column in Attention.__table__.columns)


# --- No secret in the report -----------------------------------------------------------------------------------------

CANARIES = {
    "AMWAL_API_KEY": "canary-api-key-0123456789",
    "SECRET_KEY": "canary-secret-key-" * 3,
    "SECRET_KEY_FALLBACKS": "canary-former-key-1-canary-former-key-1,canary-former-key-2-canary-former-key-2",
}


def output(app: Flask, *options: str) -> str:
    """What the command prints."""
    with app.app_context():
        text = app.test_cli_runner().invoke(args=["doctor", *options]).output
    assert " failed, " in text
    return text


def test_no_secret_is_in_the_report_of_a_good_shop(shop: Any, gateway: Any) -> None:
    text = output(shop())
    [(_, key)] = [(line, line.split("invoice ")[1].split()[0]) for line in text.splitlines() if "accepted" in line]
    for secret in (API_KEY, "only-for-tests-", gateway.invoice(key).secret):
        assert secret not in text


def test_no_secret_is_in_the_report_where_everybody_repeats_what_they_know(
    new_app: Any, stub: Stub, trusted: Path
) -> None:
    """A gateway, a mail server and a page behind PUBLIC_URL that put all secrets into what they say."""
    key, texts = CANARIES["AMWAL_API_KEY"], []
    stub.says("GET /healthz", 302, Location=f"https://{key}.example/", Date=key)
    with mail_server(trusted, b"another", refusal="535 {} is wrong") as server:
        app = new_app(
            **CANARIES,
            AMWAL_PROJECT_URL=f"{stub.url}/projects/1",
            AMWAL_PAYMENT_ORIGINS="https://amwal.exchange",
            PUBLIC_URL=stub.url,
            MAIL_URL=f"smtp://shop:canary%40mail-password@{server}",
        )
        for changes in (
            {"err": key},
            {"err": f"{'x' * 30}{key}"},  # the client cuts it in the midst of the key
            {"invoiceId": key},
            {"url": f"https://{key}.example/"},
            {"url": f"https://amwal.exchange/{DATA['secret']}"},
            {"invoiceId": DATA["secret"], key: 1, f"is-{DATA['secret']}": 2, "status": key},
        ):
            stub.reply(**changes)
            texts.append(output(app, "--create-test-invoice"))
    text = "\n".join(texts)
    assert "the login is refused" in text
    for secret in ("canary", "ssword@127", str(DATA["secret"])):
        assert secret not in text, text


@pytest.mark.parametrize("said", ["pass@word-of-db", "half: pass@word-of", "sk-0123456789abcdef"])
def test_what_repeats_a_secret_is_not_quoted(app: Flask, said: str) -> None:
    settings = replace(
        app.extensions["settings"],
        database_url="postgresql+psycopg://shop:pass%40word-of-db@db.example/shop",
        amwal_api_key="sk-0123456789abcdef",
    )
    case = Case(settings, Answer(0, ""))
    assert case.quote(OperationalError("SELECT 1", {}, Exception(said))) == "(not shown: it repeats a secret)"


def test_what_is_quoted_is_one_short_printable_line(app: Flask) -> None:
    case = Case(app.extensions["settings"], Answer(0, ""))
    assert case.quote("\n refused \x1b[31m by قهوة\nsecond line") == "refused ?[31m by ????"
    assert len(case.quote("x" * 5000)) == 160
    assert case.quote("") == ""


def test_settings_that_do_not_load_are_said_in_one_line(tmp_path: Path) -> None:
    """Before any check: the command cannot start either."""
    environment = os.environ | settings_for(tmp_path, "http://127.0.0.1:9/projects/none", SHOP_CURRENCY="EURO")
    result = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", "doctor"],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 2
    assert re.fullmatch(r"Error: SHOP_CURRENCY .*\n", result.stderr)
