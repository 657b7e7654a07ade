"""docs/deploy.md: nginx with the configuration printed there, before `flask serve` with the settings named there."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from models import Order
from shop import limits
from shop.config import NAMES
from shop.states import OrderState
from tests.children import ROOT, Start, free_ports, wait_for
from tests.conftest import OrderFactory, find_program, rows, settings_for

pytestmark = [pytest.mark.slow, pytest.mark.sqlite]

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
NGINX = """
user root;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""


def block(language: str, words: str) -> str:
    """The one block of code on the page with these words."""
    [found] = [code for code in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if words in code]
    return str(found)


class Site:
    """The shop behind nginx, as customers see it."""

    def __init__(self, folder: Path, plain: int, port: int) -> None:
        self.folder, self.plain, self.port = folder, plain, port
        self.url = f"https://shop.example:{port}"

    def curl(self, *arguments: str, host: str = "shop.example", expect: int = 0) -> str:
        """Run curl, which finds the host's names on this machine. Gives what it prints."""
        command = [find_program("curl"), "-s", "--max-time", "20", "--cacert", str(self.folder / "site.crt")]
        for port in (self.plain, self.port):
            command += ["--resolve", f"{host}:{port}:127.0.0.1"]
        ran = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == expect, ran.stderr
        return ran.stdout

    def status(self, *arguments: str) -> int:
        """The status of what curl asks for."""
        return int(self.curl("-o", "/dev/null", "-w", "%{http_code}", *arguments))


@pytest.fixture
def site(start: Start, order: OrderFactory, gateway: Any, tmp_path: Path) -> Site:
    """Begin with an order's database: the shop's own and nginx's configuration, with other ports and folders."""
    plain, port, inner = free_ports(3)
    certificate = [find_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    certificate += ["-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"]
    certificate += ["-keyout", str(tmp_path / "site.key"), "-out", str(tmp_path / "site.crt")]
    subprocess.run(certificate, check=True, capture_output=True)
    server = block("nginx", "server {")
    for before, after in (
        (r"listen (\[::\]:)?80\b", rf"listen \g<1>{plain}"),
        (r"listen (\[::\]:)?443\b", rf"listen \g<1>{port}"),
        ("https://shop.example", f"https://shop.example:{port}"),
        ("127.0.0.1:8000", f"127.0.0.1:{inner}"),
        (r"/etc/letsencrypt/live/shop.example/fullchain.pem", f"{tmp_path}/site.crt"),
        (r"/etc/letsencrypt/live/shop.example/privkey.pem", f"{tmp_path}/site.key"),
        (r"/var/log/nginx/dukkan.log", f"{tmp_path}/access.log"),
    ):
        assert re.search(before, server), before
        server = re.sub(before, after, server)
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, server=server))
    made = Site(tmp_path, plain, port)
    settings = settings_for(tmp_path, gateway.project_url)
    written = dict(line.split("=", 1) for line in block("sh", "PUBLIC_URL=").splitlines() if not line.startswith("#"))
    assert set(written) <= set(NAMES)
    settings |= {"PUBLIC_URL": made.url, "TRUSTED_PROXIES": written["TRUSTED_PROXIES"]}
    [command] = re.findall(r"^ExecStart=\S+/flask (.*)$", block("ini", "[Service]"), re.MULTILINE)
    shop = ("-m", "flask", *command.split(), "--port", str(inner))
    start(*shop, log=tmp_path / "shop.log", env=settings)
    nginx = find_program("nginx")
    start(nginx, "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-c", str(tmp_path / "nginx.conf"))
    wait_for(f"http://127.0.0.1:{inner}/statusz")
    wait_for(f"http://127.0.0.1:{plain}/.well-known/acme-challenge/none", 404)
    return made


def test_a_payment_arrives_through_nginx(site: Site, order: OrderFactory) -> None:
    waiting = order.awaiting()
    body = json.dumps(order.callback(waiting))
    sent = ("-d", body, "-H", "Content-Type: application/json", f"{site.url}/amwal/callback")
    assert [site.status(*sent) for _ in range(2)] == [200, 200]
    assert order.again(waiting).state is OrderState.PAID
    flood = [site.status("-d", "{}", f"{site.url}/amwal/callback") for _ in range(150)]
    assert 503 not in flood
    assert site.status(*sent) == 200


def test_what_nginx_passes_on(site: Site, order: OrderFactory) -> None:
    headers = site.curl("-D", "-", "-o", "/dev/null", f"{site.url}/basket").lower()
    assert "strict-transport-security: max-age=" in headers
    assert "content-security-policy: default-src 'none'" in headers
    jar = ("-b", str(site.folder / "jar"), "-c", str(site.folder / "jar"))
    add = ("-d", "product=stoneware-cup&quantity=1", "-H", f"Origin: {site.url}")
    forged = ("-H", "X-Forwarded-For: 198.51.100.7", "-H", "X-Forwarded-Host: evil.example")
    assert site.status(*jar, *add, *forged, f"{site.url}/basket/items") == 303
    form = site.curl(*jar, f"{site.url}/checkout")
    fields = dict(re.findall(r'name="(csrf_token|checkout_key)" value="([^"]+)"', form))
    fields |= {"name": "Sara", "email": "sara@example.com", "address": "12 Olive Street", "city": "Amman"}
    fields |= {"country": "JO", "delivery": "pickup"}
    data = [word for name, value in fields.items() for word in ("--data-urlencode", f"{name}={value}")]
    assert site.status(*jar, *data, *forged, "-H", f"Origin: {site.url}", f"{site.url}/checkout") == 303
    assert rows(Order)[-1].network == limits.network_digest("127.0.0.1")
    assert "__Host-dukkan" in (site.folder / "jar").read_text()


def test_plain_http_and_other_names_lead_nowhere(site: Site) -> None:
    moved = site.curl(
        "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", f"http://shop.example:{site.plain}/a?b=c"
    )
    assert moved == f"301 {site.url}/a?b=c"
    site.curl(f"https://other.example:{site.port}/", host="other.example", expect=35)  # the handshake is refused
    site.curl("--http1.1", "-H", "Host: other.example", site.url, expect=52)  # nothing is answered
    for version, refused in (("1.1", True), ("1.2", False), ("1.3", False)):
        site.curl("-o", "/dev/null", f"--tlsv{version}", "--tls-max", version, site.url, expect=35 if refused else 0)


def test_the_log_has_no_key(site: Site, order: OrderFactory) -> None:
    placed = order.placed()
    assert site.status(f"{site.url}/orders/{placed.token}?key={placed.key}") == 200
    until = time.monotonic() + 10  # nginx writes a line after its answer
    while f'"GET /orders/{placed.token}" 200' not in (log := (site.folder / "access.log").read_text()):
        assert time.monotonic() < until, log
        time.sleep(0.05)
    assert placed.key not in log


def test_what_is_too_much_is_refused(site: Site) -> None:
    big = site.folder / "big"
    for size, told in ((200 * 1024, "too large"), (2 * 1024 * 1024, "nginx")):
        big.write_bytes(b"a" * size)
        answer = site.curl("-w", "%{http_code}", "--data-binary", f"@{big}", f"{site.url}/basket/items")
        assert answer.endswith("413")
        assert told in answer
    urls = [f"{site.url}/healthz"] * 200
    statuses = site.curl("-Z", "--parallel-max", "50", "-o", "/dev/null", "-w", "%{http_code}\n", *urls)
    assert "429" in statuses
