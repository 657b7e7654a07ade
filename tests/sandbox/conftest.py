"""A sandbox in this process, and a small shop that gets its callbacks over HTTP."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from sandbox.app import create_app, store_of
from sandbox.delivery import DeliveryWorker, Sending
from sandbox.store import Store

API_KEY = "test-key"
# The three days of retries take less than 0.1 s.
SPEED = 4_000_000


class Shop:
    """Shop that records callbacks and answers with `answers`, repeating the last."""

    def __init__(self) -> None:
        self.answers: list[int] = [200]
        self.reply = b"{}"
        self.location = ""
        self.heard: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                shop.paths.append(self.path)
                shop.headers.append(dict(self.headers))
                shop.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(shop.answers.pop(0) if len(shop.answers) > 1 else shop.answers[0])
                if shop.location:
                    self.send_header("Location", shop.location)
                self.send_header("Content-Length", str(len(shop.reply)))
                self.end_headers()
                self.wfile.write(shop.reply)

            def do_GET(self) -> None:
                shop.paths.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.callback_url = f"http://127.0.0.1:{self.server.server_port}/amwal/callback"


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    thread = threading.Thread(target=shop.server.serve_forever, kwargs={"poll_interval": 0.002}, daemon=True)
    thread.start()
    yield shop
    shop.server.shutdown()
    shop.server.server_close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "sandbox.sqlite3"


@pytest.fixture
def app(database: Path, shop: Shop) -> Iterator[Flask]:
    app = create_app(
        database=database,
        callback_url=shop.callback_url,
        api_key=API_KEY,
        public_url="http://192.168.7.7:8001",
        speed=SPEED,
    )
    yield app
    store_of(app).close()


@pytest.fixture
def store(app: Flask) -> Store:
    return store_of(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def put(client: FlaskClient, store: Store) -> Callable[..., Any]:
    """Send a PUT to the project URL with text, bytes, or fields to serialize as JSON."""

    def put(body: Any, **options: Any) -> Any:
        options.setdefault("headers", {"Authorization": f"Bearer {API_KEY}"})
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        return client.put(f"/projects/{store.project().id}", data=data, content_type="application/json", **options)

    return put


@pytest.fixture
def invoice(put: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Create an invoice and return the reply's data."""

    def invoice(**fields: Any) -> dict[str, Any]:
        data: dict[str, Any] = put({"amount": 47.25, "header": "Order A-1042", **fields}).get_json()["data"]
        return data

    return invoice


@pytest.fixture
def worker(store: Store) -> Iterator[DeliveryWorker]:
    """A delivery worker, not started yet."""
    worker = DeliveryWorker(store, Sending(SPEED))
    yield worker
    if worker.is_running:
        worker.stop()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds; fail after 5 seconds."""

    def eventually(holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 5
        while not holds():
            assert time.monotonic() < deadline, "the condition didn't hold within 5 seconds"
            time.sleep(0.005)

    return eventually
