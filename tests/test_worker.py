"""What happens after a commit: mails, attention, digest, and that it happens at least once."""

import email
import email.policy
import socket
import ssl
import subprocess
import threading
from datetime import datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from flask import Flask
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError

from models import Attention, Heartbeat, Order, OutboxMessage, now
from shop import orders, worker
from shop.attention import flag
from shop.db import db, write
from shop.limits import UNLIMITED
from shop.states import CUSTOMER, AttentionKind, OrderState, OutboxKind
from tests.conftest import CheckingClient, OrderFactory, attention, find_program, rows


def mails(folder: Path) -> dict[str, EmailMessage]:
    """What was sent, by file name."""
    found = {}
    for file in sorted((folder / "mail").glob("*.eml")):
        message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        found[file.name] = message
    return found


def let_time_pass(**columns: Any) -> None:
    """Make every message due now."""
    with write() as session:
        session.execute(update(OutboxMessage).values(due_at=now(), **columns))


def test_pay_here_and_receipt_are_sent_once_each(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    waiting = order.awaiting("brass-dallah")
    worker.tick()
    assert order.pay(waiting) == "accepted"
    worker.tick()
    worker.tick()
    sent = mails(tmp_path)
    names = [f"mail-{kind}-{waiting.id}.eml" for kind in ("paid-order", "pay-here", "receipt")]
    assert sorted(sent) == names
    for name in names[1:]:
        message = sent[name]
        body = message.get_content()
        assert message["To"] == "sara@example.com"
        assert waiting.number in message["Subject"]
        assert f"http://127.0.0.1:9/orders/{waiting.token}?key={waiting.key}" in body
        assert "1 × Brass Dallah: $64.00\nPick up at the shop: Free\nTotal: $64.00\n\n" in body
        assert "\n\n\n" not in body
        assert "%(" not in body + message["Subject"]
        assert message["From"] == '"Qahwa & Co." <orders@127.0.0.1>'
        assert message["Auto-Submitted"] == "auto-generated", "so that nobody's absence is answered to us"
        assert abs(message["Date"].datetime - now()) < timedelta(minutes=1)
        assert message["Message-ID"].endswith("@127.0.0.1>")
    receipt = sent[f"mail-receipt-{waiting.id}.eml"]
    assert "We received your payment of $64.00" in receipt.get_content()
    assert all(message.done_at for message in rows(OutboxMessage))


def test_a_mail_is_written_in_the_orders_language(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    waiting = order.awaiting("brass-dallah")
    with write() as session:
        orders.lock(session, waiting.id).locale = "ar"
    worker.tick()
    [message] = mails(tmp_path).values()
    assert "دلّة نحاسية: 64.00 USD" in message.get_content().replace("\xa0", " ")
    assert message["Content-Language"] == "ar"


class Mailbox:
    """What an SMTP server received."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.refuse = False

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuse:
            return "451 try again later"
        self.received.append(envelope)
        return "250 OK"


def test_by_smtp_with_the_same_message_id_at_every_try(new_app: Any, gateway: Any) -> None:
    mailbox = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Controller(mailbox, hostname="127.0.0.1", port=port)
    server.start()
    try:
        app = new_app(MAIL_URL=f"smtp://127.0.0.1:{port}")
        with app.app_context():
            factory = OrderFactory(gateway)
            factory.awaiting()
            mailbox.refuse = True
            worker.tick()
            assert not mailbox.received
            [message] = rows(OutboxMessage)
            assert message.attempts == 1
            assert "451" in message.error
            mailbox.refuse = False
            let_time_pass()
            worker.tick()
            let_time_pass(done_at=None)  # as if the worker had died before it noted the success
            worker.tick()
    finally:
        server.stop()
    first, second = (email.message_from_bytes(one.content) for one in mailbox.received)
    assert first["Message-ID"] == second["Message-ID"]
    assert mailbox.received[0].rcpt_tos == ["sara@example.com"]


def test_row_20_a_failing_handler_is_repeated_later_and_a_person_told_after_five(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waiting = order.awaiting()
    worker.tick()
    order.pay(waiting)

    def fail(_: OutboxMessage) -> None:
        raise RuntimeError("no paper left")

    with monkeypatch.context() as broken:
        broken.setitem(worker.HANDLERS, OutboxKind.MAIL_RECEIPT, fail)
        for attempt in range(1, 6):
            worker.tick()
            [message] = rows(OutboxMessage, kind=OutboxKind.MAIL_RECEIPT)
            assert message.attempts == attempt
            assert message.due_at > now()
            assert (attention(AttentionKind.OUTBOX_STUCK) is not None) == (attempt == 5)
            let_time_pass()
    assert order.again(waiting).state is OrderState.PAID
    worker.tick()
    assert f"mail-receipt-{waiting.id}.eml" in mails(tmp_path)


def test_the_pause_grows_to_six_hours() -> None:
    pauses = [worker.back_off(attempt) for attempt in range(1, 40)]
    assert pauses[0] == timedelta(seconds=10)
    assert pauses == sorted(pauses)
    assert pauses[-1] == timedelta(hours=6)


def test_a_leased_message_is_left_to_its_worker_until_the_lease_ends(app: Flask, order: OrderFactory) -> None:
    order.awaiting()
    leased = worker._lease()
    assert leased is not None
    assert timedelta(seconds=55) < leased.due_at - now() <= timedelta(seconds=60), "longer than a mail server may take"
    assert worker._lease() is None
    let_time_pass()
    assert worker._lease() is not None


def test_mails_come_from_the_shops_contact_where_that_is_an_address(new_app: Any, gateway: Any, tmp_path: Path) -> None:
    with new_app(SHOP_CONTACT="hello@shop.example", SHOP_NAME='Lamps, "Light"').app_context():
        OrderFactory(gateway).awaiting()
        worker.tick()
    [message] = mails(tmp_path).values()
    assert message["From"].addresses[0].addr_spec == "hello@shop.example"
    assert message["From"].addresses[0].display_name == 'Lamps, "Light"'


def test_the_worker_beats_between_slow_mails_too(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        order.awaiting()
    beats: list[datetime] = []

    def slow(_message: OutboxMessage) -> None:
        beats.append(rows(Heartbeat, name="worker")[0].at)
        with write() as session:  # half a minute passes
            session.execute(update(Heartbeat).values(at=Heartbeat.at - timedelta(seconds=30)))

    monkeypatch.setitem(worker.HANDLERS, OutboxKind.MAIL_PAY_HERE, slow)
    worker.tick()
    assert len(beats) == 3
    assert all(now() - beat < timedelta(seconds=20) for beat in beats)
    before = rows(Heartbeat, name="worker")[0].at
    worker.tick()
    assert rows(Heartbeat, name="worker")[0].at == before, "a write each second would be too many"


def test_by_smtps_the_connection_is_encrypted_from_its_first_byte(
    new_app: Any, gateway: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = Mailbox()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("shop.mail.ssl.create_default_context", lambda *_, **__: trusting)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Controller(mailbox, hostname="127.0.0.1", port=port, ssl_context=tls)
    server.start()
    try:
        with new_app(MAIL_URL=f"smtps://127.0.0.1:{port}").app_context():
            OrderFactory(gateway).awaiting()
            worker.tick()
        assert len(mailbox.received) == 1
    finally:
        server.stop()


def test_the_digest_comes_at_most_once_an_hour(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    waiting = order.awaiting()
    order.pay(waiting, secret="forged")
    worker.tick()
    order.pay(waiting, secret="forged again")
    order.pay(waiting, invoiceId="another")
    worker.tick()
    digests = [message for name, message in mails(tmp_path).items() if "digest" in name]
    assert len(digests) == 1
    assert digests[0]["To"] == "merchant@example.com"
    assert "1 thing needs your attention" in digests[0]["Subject"]
    with write() as session:
        session.execute(
            update(Attention).where(Attention.mailed_at.is_not(None)).values(mailed_at=now() - timedelta(hours=1))
        )
    worker.tick()
    digests = [message for name, message in mails(tmp_path).items() if "digest" in name]
    assert len(digests) == 2
    assert waiting.number in digests[1].get_content()


def test_the_digest_names_what_only_a_later_version_knows(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    order.pay(order.awaiting(), secret="forged")
    with write() as session:
        session.execute(text("UPDATE attention SET kind = 'paid_thrice'"))
    worker.tick()
    [digest] = [message for name, message in mails(tmp_path).items() if "digest" in name]
    assert "paid_thrice" in digest.get_content()


def test_row_64_back_by_success_url_and_no_callback_for_a_quarter_of_an_hour(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    orders.record_return(waiting.id)
    worker.tick()
    assert attention(AttentionKind.POSSIBLY_PAID) is None
    with write() as session:
        orders.lock(session, waiting.id).returned_at = now() - timedelta(minutes=15, seconds=1)
    worker.tick()
    worker.tick()
    item = attention(AttentionKind.POSSIBLY_PAID)
    assert item is not None
    assert (item.order_id, item.count) == (waiting.id, 1)


def returned_long_ago(order: OrderFactory, which: Order) -> None:
    orders.record_return(which.id)
    with write() as session:
        orders.lock(session, which.id).returned_at = now() - timedelta(minutes=16)


def test_row_64_so_it_is_where_the_order_was_cancelled_meanwhile(app: Flask, order: OrderFactory) -> None:
    """The payment page was open elsewhere: its invoice can still be paid."""
    before, after = order.awaiting(), order.awaiting()
    returned_long_ago(order, before)
    for one in (before, after):
        assert orders.cancel(one.id, CUSTOMER)
    returned_long_ago(order, after)
    worker.tick()
    told = rows(Attention, kind=AttentionKind.POSSIBLY_PAID)
    assert {item.order_id for item in told} == {before.id, after.id}


def test_row_64_a_second_return_is_told_though_the_first_was_settled(app: Flask, order: OrderFactory) -> None:
    waiting = order.awaiting()
    returned_long_ago(order, waiting)
    worker.tick()
    with write() as session:
        session.execute(update(Attention).values(closed_at=now(), last_at=now() - timedelta(minutes=17)))
    order.run_out(waiting)
    orders.expire(waiting.id)
    assert orders.resume(waiting.id, UNLIMITED)
    with write() as session:  # both long ago, one after the other
        stored = orders.lock(session, waiting.id)
        stored.held_since, stored.returned_at = now() - timedelta(minutes=30), now() - timedelta(minutes=40)
    returned_long_ago(order, waiting)
    worker.tick()
    worker.tick()
    assert [item.closed_at is None for item in rows(Attention, kind=AttentionKind.POSSIBLY_PAID)] == [False, True]


def test_the_worker_ends_reservations_and_shows_that_it_lives(
    app: Flask, client: CheckingClient, order: OrderFactory
) -> None:
    assert client.get("/statusz").status_code == 503
    waiting = order.awaiting()
    order.run_out(waiting)
    stop = threading.Event()

    def run() -> None:
        with app.app_context():
            worker.work(stop, pause=0.01)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(200):
        if order.again(waiting).state is OrderState.EXPIRED and rows(Heartbeat):
            break
        threading.Event().wait(0.02)
    stop.set()
    thread.join()
    assert order.again(waiting).state is OrderState.EXPIRED
    assert client.get("/statusz").json == {"well": True, "problems": []}


def test_a_fault_in_one_round_does_not_end_the_worker(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    stop = threading.Event()

    def tick(_stop: threading.Event) -> None:
        rounds.append(1)
        if len(rounds) == 3:
            stop.set()
        raise RuntimeError("database gone")

    monkeypatch.setattr(worker, "tick", tick)
    worker.work(stop, pause=0)
    assert len(rounds) == 3


def test_row_67_a_silent_worker_is_told(app: Flask, client: CheckingClient) -> None:
    with write() as session:
        session.merge(Heartbeat(name="worker", at=now() - timedelta(minutes=3)))
    answer = client.get("/statusz", base_url="http://10.0.0.1")
    assert answer.status_code == 503
    assert "worker" in str(answer.json)
    assert db.session.get(Heartbeat, "worker") is not None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of a mail server on this machine."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    command = [find_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", str(file) + ".crt"]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + Path(str(file) + ".crt").read_text())
    return file


@pytest.mark.parametrize("encrypted", [True, False], ids=["with STARTTLS", "without"])
def test_a_password_is_sent_encrypted_or_not_at_all(
    new_app: Any, gateway: Any, certificate: Path, encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox, logins = Mailbox(), []

    def authenticate(_server: Any, session: Any, *_: Any) -> AuthResult:
        logins.append(session.ssl is not None)
        return AuthResult(success=True)

    tls = None
    if encrypted:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("shop.mail.ssl.create_default_context", lambda: trusting)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options: dict[str, Any] = {"tls_context": tls, "require_starttls": encrypted, "auth_require_tls": encrypted}
    server = Controller(mailbox, hostname="127.0.0.1", port=port, authenticator=authenticate, **options)
    server.start()
    try:
        app = new_app(MAIL_URL=f"smtp://shop:p%40ss@127.0.0.1:{port}")
        with app.app_context():
            OrderFactory(gateway).awaiting()
            worker.tick()
            [message] = rows(OutboxMessage)
    finally:
        server.stop()
    assert logins == ([True] if encrypted else [])
    assert len(mailbox.received) == (1 if encrypted else 0)
    assert ("no encryption" in message.error) != encrypted


@pytest.mark.parametrize("scheme", ["smtps", "smtp"])
def test_a_mail_server_with_a_strange_certificate_gets_neither_password_nor_mail(
    new_app: Any, gateway: Any, certificate: Path, scheme: str
) -> None:
    mailbox, logins = Mailbox(), []

    def authenticate(*_: Any) -> AuthResult:
        logins.append(1)
        return AuthResult(success=True)

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    options: dict[str, Any] = {"ssl_context": tls} if scheme == "smtps" else {"tls_context": tls}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Controller(
        mailbox, hostname="127.0.0.1", port=port, authenticator=authenticate, auth_require_tls=False, **options
    )
    server.start()
    try:
        with new_app(MAIL_URL=f"{scheme}://shop:pw@127.0.0.1:{port}").app_context():
            OrderFactory(gateway).awaiting()
            worker.tick()
            [message] = rows(OutboxMessage)
    finally:
        server.stop()
    assert (logins, mailbox.received) == ([], [])
    assert "certificate" in message.error.lower()


def test_the_worker_stops_between_two_mails(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    order.awaiting(), order.awaiting()
    stop = threading.Event()
    stop.set()
    worker.tick(stop)
    assert not mails(tmp_path)
    worker.tick()
    assert len(mails(tmp_path)) == 2


def test_one_order_that_cannot_expire_keeps_no_other_from_it(
    app: Flask, order: OrderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fine = order.awaiting(), order.awaiting()
    order.run_out(broken)
    order.run_out(fine)
    expire = orders.expire

    def sometimes(order_id: int) -> bool:
        if order_id == broken.id:
            raise OperationalError("UPDATE", {}, Exception("deadlock"))
        return expire(order_id)

    monkeypatch.setattr(orders, "expire", sometimes)
    worker.tick()
    assert order.again(fine).state is OrderState.EXPIRED
    assert rows(OutboxMessage)[0].done_at


def test_where_to_pay_is_not_told_to_who_has_paid_or_cancelled(app: Flask, order: OrderFactory, tmp_path: Path) -> None:
    paid, cancelled = order.awaiting(), order.awaiting()
    order.pay(paid)
    orders.cancel(cancelled.id, CUSTOMER)
    worker.tick()
    assert list(mails(tmp_path)) == [f"mail-paid-order-{paid.id}.eml", f"mail-receipt-{paid.id}.eml"]


def test_a_database_without_tables_is_told_once(new_app: Any, caplog: pytest.LogCaptureFixture) -> None:
    """On SQLite and on PostgreSQL, which has another error for it."""
    app = new_app()
    with app.app_context():
        with write() as session:
            session.execute(text("DROP TABLE heartbeat"))
        stop = threading.Event()
        threading.Timer(0.5, stop.set).start()
        worker.work(stop, pause=0.05)
    told = [record.message for record in caplog.records if record.name == "shop.worker"]
    assert len(told) == 1, told
    assert "heartbeat" in told[0]
    assert "Traceback" not in caplog.text


def test_a_database_that_does_not_answer_is_told_once(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = ["down", "down", "down", "no such role", None, "no such role"]
    stop = threading.Event()

    def tick(_stop: threading.Event) -> None:
        error = said.pop(0)
        if not said:
            stop.set()
        if error:
            raise OperationalError("SELECT", None, Exception(f"{error}\nand more"))

    monkeypatch.setattr(worker, "tick", tick)
    worker.work(stop, pause=0)
    told = [record.message.rpartition(": ")[2] for record in caplog.records if record.name == "shop.worker"]
    assert told == ["down", "no such role", "no such role"]
    assert "Traceback" not in caplog.text


def test_an_item_says_how_often_it_happened_and_when_first_and_last(app: Flask) -> None:
    long_ago = now() - timedelta(days=1)
    with write() as session:
        flag(session, AttentionKind.UNKNOWN_SECRET, "callback", times=3)
        session.execute(update(Attention).values(opened_at=long_ago, last_at=long_ago))
    with write() as session:
        flag(session, AttentionKind.UNKNOWN_SECRET, "callback", times=2)
    [item] = rows(Attention)
    assert (item.count, item.opened_at) == (5, long_ago)
    assert item.last_at > now() - timedelta(minutes=1)


def test_mails_go_into_a_folder_that_is_made_with_those_above_it(new_app: Any, gateway: Any, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    with new_app(MAIL_URL=str(folder)).app_context():
        OrderFactory(gateway).awaiting()
        worker.tick()
    assert len(list(folder.iterdir())) == 1


def test_a_digest_names_twenty_of_a_kind(app: Flask, tmp_path: Path) -> None:
    with write() as session:
        for number in range(21):
            flag(session, AttentionKind.PAID_TWICE, f"A-{5000 + number}")
    worker.tick()
    [digest] = [message for name, message in mails(tmp_path).items() if "digest" in name]
    assert [number for number in range(21) if f"A-{5000 + number}" in digest.get_content()] == [*range(20)]
