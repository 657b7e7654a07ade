"""What one client of `flask serve` may cost: slow senders and readers, large bodies, many connections."""

import errno
import itertools
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
import requests
from waitress import wasyncore

from models import CallbackAttempt
from shop.ops import connections, server
from shop.states import CallbackOutcome, OrderState
from tests.children import Child, Start, free_port, wait_for
from tests.conftest import OrderFactory, Serve, rows, settings_for

resource = pytest.importorskip("resource", reason="Windows has no such limits")

GET = b"GET /static/fonts/inter.woff2 HTTP/1.1\r\nHost: shop\r\n\r\n"
"""32 KB of file for 55 bytes of request."""


# --- Against the shop, with as few files as many systems allow --------------------------------------------------------


def read_nothing(one: socket.socket) -> None:
    one.sendall(GET * 300)


def send_headers(one: socket.socket) -> None:
    one.sendall(b"POST /amwal/callback HTTP/1.1\r\nHost: shop\r\nX-Slow: ")


def send_body(one: socket.socket) -> None:
    one.sendall(b'POST /amwal/callback HTTP/1.1\r\nHost: shop\r\nContent-Length: 8000\r\n\r\n{"secret": "')


def send_half_a_large_body(one: socket.socket) -> None:
    one.settimeout(2)
    with suppress(OSError):  # refused
        one.sendall(b"POST /basket/items HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)


@pytest.mark.slow
@pytest.mark.sqlite
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("count", "begin"),
    [
        pytest.param(50, [send_headers, send_body], id="50 senders"),
        pytest.param(8, [read_nothing], id="8 readers"),
        pytest.param(50, [read_nothing], id="50 readers"),
        pytest.param(200, [read_nothing], id="200 readers"),
        pytest.param(300, [send_half_a_large_body], id="300 bodies"),
        pytest.param(1000, [send_headers, send_body], id="1000 senders"),
    ],
)
def test_rows_97_and_106_slow_clients_delay_no_callback(
    start: Start,
    order: OrderFactory,
    tmp_path: Path,
    count: int,
    begin: list[Callable[[socket.socket], None]],
) -> None:
    """They hang on, a byte a second, while a callback is sent 60 times. Run with -s, it prints what was measured."""
    server.raise_file_limit()  # for this side's ends
    waiting = order.awaiting()
    message = order.callback(waiting)
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    log = tmp_path / "serve.log"
    settings = settings_for(tmp_path, "http://127.0.0.1:9/projects/none", PUBLIC_URL=here)
    few_files = ("/bin/sh", "-c", 'ulimit -n 1024; exec "$0" "$@"', sys.executable)
    serve = ("-m", "flask", "--app", "app", "serve", "--no-worker", "--port", str(port))
    shop = start(*few_files, *serve, log=log, env=settings)
    wait_for(f"{here}/healthz")
    times, over = [], threading.Event()
    with ExitStack() as stack:
        stack.callback(over.set)
        slow = []
        for number in range(count):
            slow.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)))
            begin[number % len(begin)](slow[-1])
        threading.Thread(target=keep_on, args=(slow, begin != [read_nothing], over), daemon=True).start()
        time.sleep(2)
        for _ in range(60):
            began = time.monotonic()
            with suppress(requests.RequestException):  # an answer that doesn't come counts as 30 seconds
                assert requests.post(f"{here}/amwal/callback", json=message, timeout=30).status_code == 200
            times.append(time.monotonic() - began)
            if sum(times) > 90:
                break
        files = len(list(Path(f"/proc/{shop.pid}/fd").iterdir()))
    memory, size, p99 = peak_memory(shop), log.stat().st_size, quantiles([*times, times[-1]], n=100)[98]
    print(f"\ncallbacks {len(times)}, p99 {p99:.3f} s, {memory} MB, {files} files, log {size} bytes")
    assert p99 < 5
    assert memory < 150
    assert files < 100 + 2 * count
    assert size < 1_000_000
    assert order.again(waiting).state is OrderState.PAID


def keep_on(slow: list[socket.socket], they_send: bool, over: threading.Event) -> None:
    """Send a byte a second on each connection, or read one, as long as it lasts."""
    while not over.wait(1):
        for one in slow:
            with suppress(OSError):
                one.settimeout(0)
                one.send(b"x") if they_send else one.recv(1)


def peak_memory(process: Child) -> int:
    """The most memory that a process ever had, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


# --- The shop's answers ----------------------------------------------------------------------------------------------


@pytest.fixture
def shop(serve: Serve, migrated: Path, tmp_path: Path) -> int:
    """A shop that listens on IPv6; its port."""
    (tmp_path / "shop.db").write_bytes(migrated.read_bytes())
    port = free_port()
    serve(port, "--no-worker", "--host", "::1", PUBLIC_URL=f"http://[::1]:{port}")
    wait_for(f"http://[::1]:{port}/healthz")
    return port


def chunks(size: int) -> Iterator[bytes]:
    yield from itertools.repeat(b"x" * 1000, size // 1000)


@pytest.mark.parametrize("size", [132_000, 500_000, 5_000_000])
def test_row_88_a_body_that_is_too_large_gets_the_shops_own_page(shop: int, size: int) -> None:
    url = f"http://[::1]:{shop}/basket/items"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    length = {"Content-Length": str(size)}
    for body, headers in ((b"x" * size, form), (chunks(size), form), (b"x" * size, form | {"Expect": "100-continue"})):
        answer = requests.post(url, data=body, headers=headers, timeout=10)
        assert answer.status_code == 413
        assert "too large" in answer.text
        assert "</html>" in answer.text
    with connect(shop) as one:  # a client that waits to be told that it may go on
        head = {"Host": f"[::1]:{shop}", "Expect": "100-continue"} | form | length
        one.sendall(b"POST /basket/items HTTP/1.1\r\n" + lines(head))
        assert one.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        one.sendall(b"x" * size)
        assert b"413" in one.recv(12)


def test_row_88_what_is_larger_than_the_server_reads_is_a_413_in_plain_words(shop: int) -> None:
    with connect(shop) as one:
        one.sendall(b"POST /basket/items HTTP/1.1\r\n" + lines({"Content-Length": str(10**9)}))
        answer = read_all(one)
    assert answer.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
    assert b"text/plain" in answer


@pytest.mark.sqlite
@pytest.mark.parametrize("chunked", [False, True])
def test_row_88_a_callback_that_is_too_large_is_recorded_all_the_same(
    serve: Serve, order: OrderFactory, chunked: bool
) -> None:
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    serve(port, "--no-worker", PUBLIC_URL=here)
    wait_for(f"{here}/healthz")
    body = chunks(1_000_000) if chunked else b"x" * 1_000_000
    assert requests.post(f"{here}/amwal/callback", data=body, timeout=10).status_code == 413
    assert rows(CallbackAttempt, outcome=CallbackOutcome.TOO_LARGE)


def test_odd_but_honest_clients_are_answered(shop: int) -> None:
    """Requests in one packet, byte by byte, after blank lines, in chunks; HEAD; and what is no HTTP, in plain words."""
    host = f"Host: [::1]:{shop}\r\n".encode()
    callbacks = b""
    for number in range(50):
        body = b"{}" if number % 2 else b"x" * 9000
        callbacks += b"POST /amwal/callback HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (host, len(body), body)
    with connect(shop) as one:
        one.sendall(callbacks + b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
        answers = read_all(one).split(b"HTTP/1.1 ")[1:]
    assert [int(answer[:3]) for answer in answers] == [413, 400] * 25 + [200], "all, and in order"
    with connect(shop) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in (
            b"\r\nPOST /amwal/callback HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" % host
        ):
            one.sendall(bytes([byte]))
        assert b" 400 " in one.recv(20)
    with connect(shop) as one:
        one.sendall(b"HEAD / HTTP/1.1\r\n%b\r\nHEAD /static/css/base.css HTTP/1.1\r\nConnection: close\r\n\r\n" % host)
        answers = read_all(one).split(b"\r\n\r\n")
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200", b"HTTP/1.1 200", b""]
    for nonsense in (
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nNo header\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        with connect(shop) as one:
            one.sendall(nonsense)
            answer = read_all(one)
            assert b" 400 Bad Request\r\n" in answer
            assert b"Traceback" not in answer


def connect(port: int, host: str = "::1") -> socket.socket:
    """A connection to a server of this machine."""
    return socket.create_connection((host, port), timeout=10)


def lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"


def answer(one: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next answer that has a body; (nothing, nothing) if the connection is closed instead."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := one.recv(1)):
            return b"", b""
        head += byte
    size, body = int(head.lower().partition(b"content-length: ")[2].split()[0]), b""
    while len(body) < size and (more := one.recv(size - len(body))):
        body += more
    return head, body


def read_all(one: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    found = b""
    while more := one.recv(65536):
        found += more
    return found


# --- The limits, one by one, with shorter times -----------------------------------------------------------------------


class Application:
    """`GET /<number>` answers with so many bytes, `/wait` when the test lets it, a POST with what it was sent."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        path = environ["PATH_INFO"]
        self.calls.append(path)
        if path == "/wait":
            self.go_on.wait(10)
        body = path.encode()
        if environ["REQUEST_METHOD"] == "POST":
            body = f"{environ['CONTENT_LENGTH']} {len(environ['wsgi.input'].read())}".encode()
        elif path[1:].isdigit():
            body = path[1:].encode().rjust(int(path[1:]), b".")
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


Serving = Callable[..., connections.Server]


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def serving(application: Application) -> Iterator[Serving]:
    """Starts a server in a thread."""

    @contextmanager
    def start(limit: int, network_limit: int | None) -> Iterator[connections.Server]:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        one, over = connections.Server(application, listener, limit, network_limit, threads=4), threading.Event()

        def loop() -> None:
            while not over.is_set():
                wasyncore.loop(timeout=0.05, map=one._map, count=1, use_poll=True)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield one
        finally:
            application.go_on.set()
            over.set()
            thread.join()
            one.task_dispatcher.shutdown()
            wasyncore.close_all(one._map)

    with ExitStack() as stack:
        yield lambda limit=20, network_limit=None: stack.enter_context(start(limit, network_limit))


@pytest.fixture
def client(serving: Serving) -> Iterator[Callable[[connections.Server], socket.socket]]:
    """Opens connections, which end with the test."""
    with ExitStack() as stack:
        yield lambda to: stack.enter_context(connect(int(to.effective_port), "127.0.0.1"))


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\n\r\n".encode()


def answers(one: socket.socket, path: str = "/hello") -> bool:
    """Whether a request on this connection is answered."""
    try:
        one.sendall(get(path))
        return answer(one)[1] == path.encode()
    except ConnectionError:
        return False


def is_closed(one: socket.socket, seconds: float = 0.5) -> bool:
    """Whether the other side closes a connection on which nothing is to come."""
    one.settimeout(seconds)
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_row_97_one_answer_waits_however_many_were_asked_for(
    serving: Serving, application: Application, client: Any
) -> None:
    one = client(serving())
    size = 1_000_000
    one.sendall(get(f"/{size}") * 100)
    time.sleep(1)
    assert len(application.calls) < 5, "what the sockets hold, and one"
    for _ in range(100):
        head, body = answer(one)
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert body == b"1000000".rjust(size, b".")
    assert len(application.calls) == 100
    assert answers(one)


def test_row_97_few_requests_wait_on_a_connection_however_many_were_sent(serving: Serving, client: Any) -> None:
    here = serving()
    client(here).sendall(get("/wait") * 2000)
    time.sleep(0.5)
    [channel] = here.active_channels.values()
    assert 1 <= len(channel.requests) <= 1024 / len(get("/wait")) + 1, "what one read brings"


@pytest.mark.slow
def test_row_97_a_reader_that_is_too_slow_is_closed(
    serving: Serving, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a second instead of thirty, and 200 KB/s instead of two; the slow one takes 20, the honest one 800 KB/s."""
    monkeypatch.setattr(connections, "READ_SECONDS", 1)
    monkeypatch.setattr(connections, "READ_RATE", 200_000)
    here = serving()
    silent, slow, honest = client(here), client(here), client(here)
    for one in (silent, slow, honest):
        one.sendall(get("/8000000") * 2)
    lasted = dict.fromkeys((slow, honest), 0.0)
    began = time.monotonic()
    while time.monotonic() < began + 6:
        time.sleep(0.1)
        for one, size in ((honest, 80_000), (slow, 2000)):
            with suppress(ConnectionError):
                if one.recv(size):
                    lasted[one] = time.monotonic() - began
    assert lasted[honest] > 5.8
    assert len(here.active_channels) == 1


def test_row_97_a_reader_that_pauses_is_not_idle(
    serving: Serving, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1)
    here = serving()
    idle, served, reader = client(here), client(here), client(here)
    served.sendall(get("/wait"))
    reader.sendall(get("/8000000"))
    assert is_closed(idle, 3)
    time.sleep(1)
    assert len(answer(reader)[1]) == 8_000_000
    assert not is_closed(served)


@pytest.mark.slow
def test_row_106_a_request_that_takes_too_long_is_closed(
    serving: Serving, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock starts with each request's first byte: an idle or busy connection isn't meant."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 1)
    here = serving()
    idle, busy = client(here), client(here)
    slow = {client(here): (head, b"x") for head in (b"GET /", b"POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n")}
    slow[client(here)] = (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")
    for one, (head, _) in slow.items():
        one.sendall(head)
    for _ in range(15):
        for one, (_, more) in slow.items():
            with suppress(ConnectionError):
                one.sendall(more)
        assert answers(busy)
        time.sleep(0.2)
    assert [is_closed(one) for one in slow] == [True, True, True]
    assert answers(idle)


def test_row_106_the_beginning_of_a_body_is_kept(serving: Serving, client: Any) -> None:
    one = client(serving())
    limit = connections.BODY_LIMIT
    for size, kept in ((limit, limit), (limit + 1, limit + 1), (500_000, limit + 1)):
        one.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        assert answer(one)[1] == b"%d %d" % (size, kept)
    one.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7a120\r\n" + b"x" * 500_000 + b"\r\n0\r\n\r\n")
    assert answer(one)[1] == b"%d %d" % (limit + 1, limit + 1)


@pytest.mark.parametrize("begin", [b"2;" + b"x" * 5000, b"0\r\nX: " + b"x" * 5000])
def test_row_106_lines_of_a_chunked_body_have_an_end(serving: Serving, client: Any, begin: bytes) -> None:
    one = client(serving())
    one.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + begin)
    assert one.recv(12) == b"HTTP/1.1 400"


def test_row_106_when_all_connections_are_in_use_the_slowest_makes_room(
    serving: Serving, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here = serving(limit=4)
    served, idle = client(here), client(here)
    served.sendall(get("/wait"))
    slow = client(here)
    slow.sendall(b"GET /")
    time.sleep(0.2)
    assert answers(idle)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert answers(client(here))
    assert is_closed(slow)
    assert is_closed(idle)
    assert not is_closed(served)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("shop.")]
    assert said == ["all 4 connections are in use; the slowest are closed"]


def test_row_106_a_new_connection_gets_no_events_of_the_one_that_made_room(
    serving: Serving, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It may get its number from the system, while waitress still has the other's events at hand."""
    here = serving(limit=40)
    slow, over = [client(here) for _ in range(40)], threading.Event()

    def hurry() -> None:
        while not over.is_set():
            for one in slow:
                with suppress(OSError):
                    one.settimeout(0)
                    one.send(b"x")

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(35):
                one = client(here)
                time.sleep(0.02)
                assert answers(one)
    finally:
        over.set()
        thread.join()
    assert len(caplog.records) == 1


def test_row_106_one_network_has_a_share_of_the_connections(
    serving: Serving, application: Application, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = serving(limit=20, network_limit=3)
    neighbours = [client(here) for _ in range(3)]
    for one in neighbours:
        assert answers(one)
    assert answers(client(here)), "loopback has no limit: everybody may come by a proxy of this machine"
    monkeypatch.setattr(connections, "network_of", lambda _address: ip_address("203.0.113.1"))
    strangers = [client(here) for _ in range(3)]
    assert all(answers(one) for one in strangers)
    fourth = client(here)
    assert answers(fourth)
    assert is_closed(strangers[0]), "the slowest made room"
    for one in (*strangers[1:], fourth):
        one.sendall(get("/wait"))
    time.sleep(0.2)
    assert is_closed(client(here)), "while three are served, a fourth is closed at once"
    assert all(answers(one) for one in neighbours)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("8.8.4.4", ip_address("8.8.4.4")),
        ("::ffff:8.8.4.4", ip_address("8.8.4.4")),
        ("2a00:1450:4001:81b::200e", ip_network("2a00:1450:4001:81b::/64")),
        ("127.0.0.1", None),
        ("::1", None),
        ("172.17.0.1", None),
        ("::ffff:192.168.1.7", None),
        ("100.64.0.7", None),
        ("fe80::1%eth0", None),
        ("fd00::1", None),
    ],
)
def test_row_106_what_counts_as_a_network(address: str, network: object) -> None:
    assert connections.network_of(address) == network


def test_row_97_when_no_connection_can_be_accepted_the_server_rests(
    serving: Serving, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = serving()
    tries = []

    def fail(_self: object) -> None:
        tries.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patched:
        patched.setattr(wasyncore.dispatcher, "accept", fail)
        one = client(here)  # in the system's queue
        time.sleep(2.5)
    assert 2 <= len(tries) <= 3
    assert [record.getMessage() for record in caplog.records] == ["no connection can be accepted: Too many open files"]
    assert answers(one)


def test_row_97_connections_follow_from_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: raised.append(wanted))
    for limits, files, fits, raised_to in (
        ((1024, 524_288), 2320, 1000, [(2320, 524_288)]),
        ((256, resource.RLIM_INFINITY), 2320, 1000, [(2320, resource.RLIM_INFINITY)]),
        ((256, 1024), 1024, 448, [(1024, 1024)]),
        ((20_000, 20_000), 2320, 1000, []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 2320, 1000, []),
        ((64, 64), 64, 10, []),
    ):
        raised.clear()
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        assert server.raise_file_limit() == files
        assert server.connection_limit(files, 16) == fits
        assert raised == raised_to
