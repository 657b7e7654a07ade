"""TLS: a gateway whose certificate is not right gets no API key, and its invoice is not believed.

And the sandbox says why it can't send a callback to a shop behind TLS.
"""

import http.server
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import amwal
from models import GatewayCall
from sandbox.delivery import post
from sandbox.records import Delivery
from shop.gateway import Gateway
from shop.money import to_decimal
from shop.states import AttentionKind, OrderState
from tests.conftest import API_KEY, CheckingClient, OrderFactory, attention, find_program, rows
from tests.test_amwal import DATA

PAYMENT_PAGES = {"https://amwal.exchange"}
ISSUE = "openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -in {0}.csr -extfile {0}.ext -days {1} -out {0}.crt"
REQUEST = "openssl req -newkey rsa:2048 -nodes -subj /CN={0} -keyout {0}.key -out {0}.csr"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a good certificate of its for this machine, and three that are not right."""
    find_program("openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def run(command: str) -> None:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)

    # As strict as Python 3.13 wants them: with the authority's key usage, and each one's issuer by its key.
    run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority "
        "-addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.crt"
    )
    for name, names in (("good", "IP:127.0.0.1"), ("other-name", "DNS:other.example"), ("expired", "IP:127.0.0.1")):
        (folder / f"{name}.ext").write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n")
        run(REQUEST.format(name))
        run(ISSUE.format(name, -1 if name == "expired" else 2))
    run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=self -addext subjectAltName=IP:127.0.0.1 "
        "-keyout self-signed.key -out self-signed.crt"
    )
    return folder


@contextmanager
def gateway_with(certificates: Path, name: str, pause: float = 0.0) -> Iterator[tuple[str, list[str]]]:
    """A gateway behind TLS that gives good invoices, with a pause (seconds) before each byte.

    Gives its address, and the API keys that reached it.
    """
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            heard.append(self.headers["Authorization"])
            body = json.dumps({"err": 0, "data": DATA}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for number in range(len(body)):
                time.sleep(pause)
                self.wfile.write(body[number : number + 1])

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that hangs up in the handshake is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / f"{name}.crt", certificates / f"{name}.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}/projects/1", heard
    server.shutdown()
    server.server_close()


@pytest.fixture
def shop_of(app: Flask, certificates: Path) -> Callable[[str], Flask]:
    """Make the shop ask a gateway, trusting the authority of these tests."""

    def ask(address: str) -> Flask:
        client = amwal.Client(address, API_KEY, PAYMENT_PAGES)
        client.session.verify = str(certificates / "ca.crt")
        app.extensions["amwal"] = Gateway(client)
        return app

    return ask


def test_row_27_a_good_certificate_is_accepted(
    shop_of: Callable[[str], Flask], certificates: Path, order: OrderFactory
) -> None:
    with gateway_with(certificates, "good") as (address, heard):
        shop_of(address)
        assert order.awaiting().state is OrderState.AWAITING_PAYMENT
    assert heard == [f"Bearer {API_KEY}"]


def test_row_22_a_drip_by_tls_ends_at_the_deadline(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amwal, "DEADLINE", 0.7)
    client = amwal.Client("", API_KEY, PAYMENT_PAGES)
    client.session.verify = str(certificates / "ca.crt")
    with gateway_with(certificates, "good", pause=0.1) as (client._url, _):
        started = time.monotonic()
        with pytest.raises(amwal.Unavailable, match="took too long"):
            client.create_invoice(amount=Decimal(1), header="A-1042")
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("name", ["self-signed", "other-name", "expired"])
def test_row_27_a_bad_certificate_gets_no_key_and_a_person_is_told(
    shop_of: Callable[[str], Flask], certificates: Path, order: OrderFactory, client: CheckingClient, name: str
) -> None:
    with gateway_with(certificates, name) as (address, heard):
        shop_of(address)
        placed = order.awaiting()
    assert heard == []
    assert placed.state is OrderState.PLACED
    assert placed.invoice is None
    assert "We couldn&#39;t get your payment code" in client.get(f"/orders/{placed.token}?key={placed.key}").text
    [call] = rows(GatewayCall)
    assert (call.outcome, call.detail) == ("BadReply", "no safe connection to the gateway (SSLError)")
    told = attention(AttentionKind.GATEWAY_REPLY)
    assert told is not None
    assert "no safe connection" in told.detail


def test_row_27_what_the_environment_says_changes_nothing(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that make other programs trust another authority must not reach the API key."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(certificates / "ca.crt"))
    client = amwal.Client("", API_KEY, PAYMENT_PAGES)
    with gateway_with(certificates, "good") as (address, heard):
        client._url = address
        words = {"header": "", "description": "", "success_url": "", "cancel_url": ""}
        with pytest.raises(amwal.BadReply, match="no safe connection"):
            client.put_invoice(amount=to_decimal(100, "USD"), **words)
    assert heard == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "own_authority", "said"),
    [
        ("good", False, "unable to get local issuer certificate"),
        ("self-signed", False, "self-signed certificate"),
        ("good", True, ""),
        ("other-name", True, "IP address mismatch"),
        ("expired", True, "certificate has expired"),
    ],
)
def test_row_113_the_sandbox_names_what_is_wrong_with_a_shops_certificate(
    certificates: Path, name: str, own_authority: bool, said: str
) -> None:
    delivery = Delivery(1, "1" * 24, "{}", 0, None, None, "", once=True)
    with gateway_with(certificates, name) as (address, _):
        url = f"{address}/amwal/callback".replace("//localhost", "//127.0.0.1")
        attempt = post(delivery, url, datetime.now(UTC), certificates / "ca.crt" if own_authority else None)
    if said:
        assert attempt.error.startswith(f"TLS: {said}")
        assert "--ca FILE" in attempt.error
    else:
        assert (attempt.status, attempt.error) == (501, "")  # reached: that server knows no POST
