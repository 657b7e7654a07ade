"""What guards every request."""

import base64
import re
import subprocess
import sys
import time
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from itsdangerous import TimestampSigner
from sqlalchemy.exc import OperationalError

from models import CallbackAttempt, Order, now
from shop import baskets
from shop.security import own_path
from tests.conftest import PUBLIC_URL, CheckingClient, OrderFactory, rows
from tests.pages import Page, field, heading

ROOT = Path(__file__).parent.parent
PAGES = ["/", "/products/brass-dallah", "/basket", "/pages/terms", "/pages/privacy", "/pages/returns", "/nothing"]
SHARED_FORMS = {"/basket/items", "/language"}
GATEWAYS = {"/amwal/callback", "/amwal/callback/"}


SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Strict-Transport-Security": None,  # over http
    "Access-Control-Allow-Origin": None,
}


@pytest.mark.parametrize("path", [*PAGES, "/style.css", "/healthz", "/static/css/tokens.css"])
def test_row_47_every_answer_carries_the_headers(client: CheckingClient, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "charset=utf-8" in headers["Content-Type"].lower().replace('"', "")


UNSAFE = r"\|\s*safe\b|autoescape false|Markup\(|innerHTML|outerHTML|insertAdjacent|\beval\(|document\.write|Storage\."


def test_row_47_nothing_marks_text_as_html_and_no_script_writes_any() -> None:
    for folder, kind in (("templates", "html"), ("shop", "py"), ("static/js", "js")):
        for file in (ROOT / folder).rglob(f"*.{kind}"):
            found = re.search(UNSAFE, file.read_text())
            assert not found, f"{file.name}: {found}"


@pytest.mark.parametrize("path", PAGES)
def test_row_47_no_page_names_another_host(client: CheckingClient, path: str) -> None:
    for address in re.findall(r'(?:src|href|action|url)\s*[=(]\s*"?(\w+:)?//([^/"]+)', client.get(path).text):
        raise AssertionError(address)


@pytest.mark.parametrize("name", ["terms", "privacy", "returns", "contact"])
def test_the_pages_are_marked_as_samples(client: CheckingClient, name: str) -> None:
    assert "sample" in client.get(f"/pages/{name}").text.lower()


def test_unknown_pages_are_not_found(client: CheckingClient) -> None:
    assert client.get("/pages/layout").status_code == 404
    assert client.get("/pages/..%2Fbase").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:9000", "localhost:9", "127.0.0.1", ""])
def test_row_46_another_host_name_is_refused(client: CheckingClient, host: str) -> None:
    response = client.get("/", headers={"Host": host})
    assert response.status_code == 400
    assert "evil.example" not in response.text


@pytest.mark.parametrize("host", ["Shop.Example", "shop.example:443", "SHOP.EXAMPLE:443"])
def test_row_46_ones_own_name_may_be_written_in_other_ways(new_app: Any, host: str) -> None:
    """Some clients send the name as its address was typed; a callback must not be lost for that."""
    shop = new_app(PUBLIC_URL="https://Shop.example", AMWAL_PROJECT_URL="https://amwal.exchange/projects/1")
    answer = shop.test_client().post("/amwal/callback", data=b"x", headers={"Host": host})
    assert answer.text != "This shop does not answer under that name.\n"
    with shop.app_context():
        assert rows(CallbackAttempt)
    assert shop.test_client().get("/", headers={"Host": f"evil.{host}"}).status_code == 400


def test_an_address_that_cannot_be_read_is_refused(client: CheckingClient) -> None:
    answer = client.get("/", environ_overrides={"QUERY_STRING": "q=\xff"})
    assert (answer.status_code, answer.mimetype) == (400, "text/plain")


def test_row_46_forwarded_headers_are_not_believed(client: CheckingClient, order: OrderFactory) -> None:
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "1.2.3.4"}
    assert "evil.example" not in client.get("/", headers=headers).text
    client.post("/amwal/callback", data=b"x", headers=headers)
    assert rows(CallbackAttempt)[0].sender == "127.0.0.1"


@pytest.mark.parametrize("proxies", ["0", "1"])
def test_row_46_links_come_from_public_url(new_app: Any, gateway: Any, proxies: str) -> None:
    app = new_app(TRUSTED_PROXIES=proxies)
    with app.app_context():
        client = app.test_client()
        client.fill_basket()
        poison = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Prefix": "/evil", "Forwarded": "host=evil.example"}
        answer = client.post("/checkout", data=client.checkout_form(), headers=poison)
        assert answer.headers["Location"].startswith("/orders/")
        [placed] = rows(Order)
        at_the_gateway = gateway.invoice(placed.invoice.gateway_id)
        assert at_the_gateway.success_url.startswith("http://127.0.0.1:9/orders/")
        assert "evil" not in at_the_gateway.cancel_url


def test_health_checks_answer_to_any_host(client: CheckingClient) -> None:
    assert client.get("/healthz", base_url="http://10.1.2.3:8000").data == b"ok\n"
    assert client.get("/readyz", base_url="http://10.1.2.3:8000").status_code == 200
    assert client.get("/statusz", base_url="http://10.1.2.3:8000").status_code == 503


def test_in_the_demo_loopback_leads_to_the_one_address(new_app: Any) -> None:
    app = new_app(DEMO="on", PUBLIC_URL="http://192.168.1.7:8000")
    client = app.test_client()
    response = client.get("/products/cup?lang=ar", base_url="http://127.0.0.1:9")
    assert response.status_code == 307
    assert response.headers["Location"] == "http://192.168.1.7:8000/products/cup?lang=ar"
    assert client.get("/", base_url="http://192.168.1.7:8000").status_code == 200
    assert client.get("/", base_url="http://evil.example").status_code == 400


@pytest.mark.parametrize(
    ("target", "safe"),
    [
        ("/basket?x=1", "/basket?x=1"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\r\nSet-Cookie: x=1", "/"),
        ("", "/"),
        ("///evil.example", "/"),
    ],
)
def test_row_48_redirects_lead_to_own_paths_only(client: CheckingClient, target: str, safe: str) -> None:
    assert own_path(target) == safe
    response = client.post("/language", data={"language": "ar", "next": target})
    assert response.headers["Location"] == safe


def test_the_language_is_kept(client: CheckingClient) -> None:
    chosen = client.post("/language", data={"language": "ar", "next": "/"}).headers["Set-Cookie"]
    assert "Max-Age=31536000" in chosen, "for a year"
    assert 'lang="ar"' in client.get("/").text
    assert 'lang="en"' in client.get("/?lang=en").text
    assert client.post("/language", data={"language": "xx"}).status_code == 400
    assert client.get("/?lang=xx").status_code == 200
    response = client.post("/language", data={"language": "en", "next": "/?q=cup&lang=ar"})
    assert response.headers["Location"] == "/?q=cup"


def test_the_browsers_language_is_taken_without_a_choice(client: CheckingClient) -> None:
    assert 'lang="ar"' in client.get("/", headers={"Accept-Language": "ar-JO,en;q=0.5"}).text


def test_row_45_every_post_but_the_callback_is_protected(app: Flask, client: CheckingClient) -> None:
    """Walks all routes: a POST without a token is refused, and with another site's Origin as well."""
    checked = 0
    for rule in app.url_map.iter_rules():
        assert rule.methods
        assert not rule.methods & {"PUT", "DELETE", "PATCH"}, rule
        if "POST" not in rule.methods or rule.rule in GATEWAYS:
            continue
        checked += 1
        path = re.sub("<int[^>]*>", "1", rule.rule.replace("<token>", "x" * 27).replace("<number>", "A-1001"))
        foreign = client.post(path, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 400, path
        if rule.rule not in SHARED_FORMS:
            assert client.post(path).status_code == 400, path
    assert checked >= 8


@pytest.mark.parametrize("cookie", ["", "nonsense", "eyJiYXNrZXQiOjV9.x.y", "é", "a" * 4000])
def test_row_44_a_broken_cookie_is_an_empty_session(app: Flask, client: CheckingClient, cookie: str) -> None:
    client.set_cookie(app.config["SESSION_COOKIE_NAME"], cookie, domain="127.0.0.1")
    for path in ("/", "/basket", "/checkout"):
        assert client.get(path).status_code in (200, 303)


FOREIGN = "eyJiYXNrZXQiOiJ4In0.aSHvpA.AAAAAAAAAAAAAAAAAAAAAAAAAAA"  # well made, signed by another shop


@pytest.mark.parametrize("kind", ["foreign", "expired", "odd", "language"])
def test_row_44_no_cookie_leads_to_a_fault_on_any_page(
    app: Flask, client: CheckingClient, order: OrderFactory, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = order.awaiting()
    signer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    with monkeypatch.context() as earlier:
        if kind == "expired":
            earlier.setattr(TimestampSigner, "get_timestamp", lambda _: int(time.time()) - 31 * 24 * 3600)
        ours = signer.dumps({"basket": placed.basket.token, "orders": [placed.token]})
    value = {"foreign": FOREIGN, "expired": ours, "odd": signer.dumps({"basket": [5], "orders": 7})}.get(kind, "../x")
    name = app.config["LANGUAGE_COOKIE" if kind == "language" else "SESSION_COOKIE_NAME"]
    for rule in app.url_map.iter_rules():
        path = re.sub("<int[^>]*>", "1", rule.rule.replace("<token>", placed.token))
        for method in (rule.methods or set()) & {"GET", "POST"}:
            client.set_cookie(name, value, domain="127.0.0.1")
            assert client.open(path, method=method).status_code < 500 or path == "/statusz", path
    client.set_cookie(name, value, domain="127.0.0.1")
    assert "12 Olive Street" not in client.get(f"/orders/{placed.token}").text
    client.fill_basket()
    assert client.post("/checkout", data=client.checkout_form()).status_code == 303


@pytest.mark.parametrize(("language", "words"), [("en", "The basket needs cookies"), ("ar", "ملفات تعريف الارتباط")])
def test_row_44_without_cookies_the_basket_says_so(app: Flask, language: str, words: str) -> None:
    client = app.test_client(use_cookies=False)
    headers = {"Accept-Language": language}
    added = client.post("/basket/items", data={"product": "stoneware-cup", "quantity": "1"}, headers=headers)
    assert added.headers["Location"] == "/basket?added=1"
    assert words in client.get("/basket", headers=headers).text
    assert client.get("/checkout").headers["Location"] == "/basket"
    refused = client.post("/checkout", data={"csrf_token": "none", "name": "Sara"}, headers=headers)
    assert refused.status_code == 400
    assert "Sara" in refused.text


@pytest.mark.parametrize(
    ("language", "words"), [("en", "Your browser keeps no cookies"), ("ar", "متصفحكم لا يحفظ ملفات تعريف الارتباط")]
)
def test_row_95_after_adding_it_says_so_instead_of_an_empty_basket(app: Flask, language: str, words: str) -> None:
    headers = {"Accept-Language": language}
    data = {"product": "stoneware-cup", "quantity": "1"}
    off, on = app.test_client(use_cookies=False), CheckingClient(app, app.response_class)
    there = off.post("/basket/items", data=data, headers=headers).headers["Location"]
    assert heading(off.get(there, headers=headers).text) == words
    first = on.post("/basket/items", data=data)
    assert heading(on.follow(first).text) == "Your basket"
    assert on.post("/basket/items", data=data).headers["Location"] == "/basket", "it keeps cookies"


def test_row_44_cookies_of_a_former_secret_key_are_still_good(new_app: Any) -> None:
    old, new = "former-key-" * 4, "present-key-" * 4
    first = new_app(SECRET_KEY=old).test_client()
    with first.application.app_context():
        first.fill_basket()
    name = first.application.config["SESSION_COOKIE_NAME"]
    cookie = first.get_cookie(name, "127.0.0.1")
    for fallbacks, kept in ((old, True), ("", False)):
        client = new_app(SECRET_KEY=new, SECRET_KEY_FALLBACKS=fallbacks).test_client()
        client.set_cookie(name, cookie.value, domain="127.0.0.1")
        with client.application.app_context():
            assert ("Stoneware Cup" in client.get("/basket").text) == kept


def test_row_50_the_session_cookie_is_guarded_and_named_after_app_and_port(client: CheckingClient) -> None:
    response = client.post("/basket/items", data={"product": "stoneware-cup", "quantity": "1"})
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("dukkan_9=")
    until = parsedate_to_datetime(re.findall(r"Expires=([^;]+)", cookie)[0])
    assert timedelta(days=29) < until - now() < timedelta(days=31), "a basket waits, also when the browser is closed"
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_row_44_what_is_signed_is_signed_by_hmac_sha_256_and_by_our_key(app: Flask, client: CheckingClient) -> None:
    client.fill_basket()
    cookie = client.get_cookie(app.config["SESSION_COOKIE_NAME"], "127.0.0.1")
    for signed in (cookie.value, client.checkout_form()["checkout_key"]):
        assert len(base64.urlsafe_b64decode(signed.rpartition(".")[2] + "=")) == 32
    content, _, signature = cookie.value.rpartition(".")
    client.set_cookie(cookie.key, f"{content}.{signature[:-2]}AA", domain="127.0.0.1")
    assert "Your basket is empty" in client.get("/basket").text


def test_over_https_cookies_and_headers_are_strict(new_app: Any) -> None:
    client = new_app(PUBLIC_URL="https://shop.example").test_client()
    data = {"product": "stoneware-cup", "quantity": "1"}
    response = client.post("/basket/items", data=data, base_url="https://shop.example")
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("__Host-dukkan_https=")
    assert "Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie
    chosen = client.post("/language", data={"language": "ar"}, base_url="https://shop.example").headers["Set-Cookie"]
    assert chosen.startswith("__Host-dukkan_https_language=ar;")
    assert chosen.endswith("Secure; HttpOnly; Path=/; SameSite=Lax")
    for answer in (response, client.get("/static/css/tokens.css", base_url="https://shop.example")):
        assert "max-age=31536000" in answer.headers["Strict-Transport-Security"]


def test_row_53_a_mistake_of_ours_shows_nothing_of_the_inside(
    app: Flask, client: CheckingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the secret inside")

    app.testing = False
    app.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr(baskets, "find", fail)
    response = client.get("/basket")
    assert response.status_code == 500
    assert "secret inside" not in response.text
    assert "Traceback" not in response.text


def test_a_busy_database_is_a_calm_page(client: CheckingClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("database is locked"))

    monkeypatch.setattr(baskets, "find", locked)
    monkeypatch.setattr(baskets, "units", locked)
    response = client.get("/basket")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert "locked" not in response.text


def test_a_405_names_what_is_allowed(client: CheckingClient) -> None:
    assert "GET" in client.open("/basket", method="DELETE").headers["Allow"]


def test_a_body_that_is_too_large_is_refused(client: CheckingClient) -> None:
    response = client.post("/basket/items", data={"product": "x" * 140_000, "quantity": "1"})
    assert response.status_code == 413


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_row_108_a_form_with_too_many_fields_is_refused(client: CheckingClient, content_type: str) -> None:
    """One too many, and 30,000; with one name and with many. None is repeated by the page for stale forms either."""
    honest = {"product": "stoneware-cup", "quantity": "1"} | {f"field{number}": "" for number in range(98)}
    assert client.post("/basket/items", data=honest, content_type=content_type).status_code == 303
    for path in ("/basket/items", "/checkout"):
        for more in ({"one": ""}, {"one": [""] * 500}):
            answer = client.post(path, data=honest | more, content_type=content_type)
            assert answer.status_code == 413
            assert "too large" in answer.text
    many = "&".join(["a"] * 30_000)
    answer = client.post("/checkout", data=many, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 413
    assert len(answer.data) < 20_000


def test_the_stylesheet_has_all_rules_and_the_accent(new_app: Any) -> None:
    app = new_app(SHOP_ACCENT="#aa3300")
    [link] = re.findall(r'<link rel="stylesheet" href="([^"]+)">', app.test_client().get("/").text)
    answer = app.test_client().get(link)
    assert answer.mimetype == "text/css"
    assert answer.cache_control.max_age
    assert app.test_client().get(link, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert "#aa3300" in answer.text
    for file in Path(app.static_folder, "css").glob("*.css"):
        assert file.read_text().replace("../", "/static/") in answer.text
    fonts = re.findall(r'url\("([^"]+)"\)', answer.text)
    assert fonts
    assert [app.test_client().get(font).status_code for font in fonts] == [200] * len(fonts)


@pytest.mark.parametrize("path", ["/?q=a%00b", "/products/a%00b", "/orders/a%00b", "/orders/a%00b/status"])
def test_nul_characters_are_refused(client: CheckingClient, path: str) -> None:
    assert client.get(path).status_code == 400
    for content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
        form = {"product": "a\0b", "quantity": "1"}
        assert client.post("/basket/items", data=form, content_type=content_type).status_code == 400


NO_PAGES = ["/.git/config", "/.env", "/app.py", "/instance/secret_key", "/static/", "/static/css", "/static/../app.py"]
NO_PAGES += ["/static/%2e%2e/app.py", "/static/..%2fmodels.py", "/templates/base.html"]


@pytest.mark.parametrize("path", NO_PAGES)
def test_row_53_only_files_for_browsers_are_served(client: CheckingClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404, answer.text
    assert client.open("/", method="TRACE").status_code == 405


def test_row_49_no_form_leads_to_the_gateway_even_by_a_redirect(client: CheckingClient) -> None:
    """`form-action 'self'` counts for redirects, too: a 303 to the gateway would end in a blank page."""
    client.fill_basket()
    answer = client.post("/checkout", data=client.checkout_form())
    assert answer.status_code == 303
    address = answer.headers["Location"]
    assert re.fullmatch(r"/orders/[\w-]+", address)
    assert "form-action 'self'" in answer.headers["Content-Security-Policy"]
    [placed] = rows(Order)
    page = Page(client.get(address).text)
    assert placed.invoice.url in [link.get("href") for link in page.all("a")]
    assert all(form.get("action", "/").startswith("/") for form in page.all("form"))
    token = client.csrf_token(address)
    for button in ("invoice", "reservation", "basket", "cancellation"):
        answer = client.post(f"{address}/{button}", data={"csrf_token": token})
        assert answer.status_code == 303
        assert answer.headers["Location"] in (address, "/basket")


def test_row_59_nothing_of_the_demonstration_is_mounted_outside_of_it(new_app: Any) -> None:
    """Not even in it: sandbox, trouble and stage are programs of their own, which the shop does not import."""
    shops = [new_app(DEMO=demo) for demo in ("off", "on")]
    outside, inside = ({rule.rule for rule in shop.url_map.iter_rules()} for shop in shops)
    assert outside == inside
    assert not [path for path in outside if re.search("sandbox|trouble|fault|trace|demo|debug|stage|reset|test", path)]
    pages = [shop.test_client().get("/").text for shop in shops]
    assert ["test-ribbon" in page for page in pages] == [False, True]
    program = "import app, sys; print({name.partition('.')[0] for name in sys.modules} & {'sandbox', 'stage', 'tests'})"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/%2e%2e", "/basket//", "///evil.example//x"])
def test_row_48_slashes_that_are_put_right_lead_nowhere_else(client: CheckingClient, path: str) -> None:
    answer = client.open(path, base_url=PUBLIC_URL)
    if answer.status_code == 308:
        assert answer.headers["Location"].startswith(f"{PUBLIC_URL}/")
    else:
        assert answer.status_code == 404


@pytest.mark.parametrize("target", ["//[x", "/\x00", "/[x"])
def test_row_48_an_odd_way_back_is_no_fault(client: CheckingClient, target: str) -> None:
    assert client.post("/language", data={"language": "ar", "next": target}).status_code in (303, 400)


def test_a_number_beyond_any_item_finds_nothing(client: CheckingClient) -> None:
    data = {"quantity": "1", "csrf_token": ""}
    assert client.post(f"/basket/items/{'9' * 30}", data=data).status_code == 404


@pytest.mark.parametrize("host", ["..", "[", "a b", "127.0.0.1:9@evil.example"])
def test_row_46_a_host_that_makes_no_sense_is_refused_in_plain_text(new_app: Any, host: str) -> None:
    for demo in ("on", "off"):
        response = new_app(DEMO=demo).test_client().get("/", headers={"Host": host})
        assert response.status_code == 400
        assert response.mimetype == "text/plain"


def test_row_48_the_demos_redirect_keeps_odd_paths_in_one_line(new_app: Any) -> None:
    client = new_app(DEMO="on", PUBLIC_URL="http://192.168.1.7:8000").test_client()
    response = client.get("/%0d%0aX-Evil:1?q=%0d%0a", base_url="http://localhost:9")
    assert response.headers["Location"] == "http://192.168.1.7:8000/%0D%0AX-Evil%3A1?q=%0d%0a"


def test_over_https_a_browser_without_referer_can_check_out(new_app: Any) -> None:
    app = new_app(PUBLIC_URL="https://shop.example")
    with app.app_context():
        client = app.test_client()
        data = {"product": "stoneware-cup", "quantity": "1"}
        client.post("/basket/items", data=data, base_url="https://shop.example")
        token = field(client.get("/basket", base_url="https://shop.example").text, "csrf_token")
        changed = {"quantity": "2", "csrf_token": token}
        assert client.post("/basket/items/1", data=changed, base_url="https://shop.example").status_code == 303


# --- Behind proxies --------------------------------------------------------------------------------------------------

SENT_FROM = [
    ({"Origin": PUBLIC_URL}, True),
    ({}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, True),
    ({"Origin": "null"}, False),
    ({"Origin": "null", "Sec-Fetch-Site": "none"}, False),
    ({"Origin": "null", "Sec-Fetch-Site": "same-site"}, False),
    ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, False),
    ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": ""}, False),
]


@pytest.mark.parametrize(("headers", "accepted"), SENT_FROM)
@pytest.mark.parametrize("path", sorted(SHARED_FORMS))
def test_row_85_a_form_with_origin_null_is_ours_if_the_browser_says_so(
    client: CheckingClient, path: str, headers: dict[str, str], accepted: bool
) -> None:
    data = {"product": "stoneware-cup", "quantity": "1", "language": "ar", "next": "/"}
    assert (client.post(path, data=data, headers=headers).status_code == 303) == accepted


def test_row_86_the_log_names_the_host_that_came_and_the_one_expected_once_a_minute(
    client: CheckingClient, caplog: pytest.LogCaptureFixture
) -> None:
    for host in ("127.0.0.1", "10.0.0.9:8000", "evil.example"):
        answer = client.get("/", base_url=f"http://{host}")
        assert (answer.status_code, answer.text) == (400, "This shop does not answer under that name.\n")
    [record] = caplog.records
    assert "'127.0.0.1' was refused: PUBLIC_URL has '127.0.0.1:9'" in record.getMessage()
    client.application.extensions["refused_host_logged"] -= 61
    client.get("/", base_url="http://evil.example")
    assert len(caplog.records) == 2


def test_row_104_what_a_client_can_send_through_a_proxy_is_not_believed(new_app: Any, order: OrderFactory) -> None:
    """Usual proxies set X-Forwarded-For and X-Forwarded-Proto, and pass on whatever else was sent."""
    client = new_app(TRUSTED_PROXIES="1").test_client()
    poison = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "81", "X-Forwarded-Prefix": "/evil"}
    answer = client.get("/basket", headers=poison)
    assert answer.status_code == 200
    assert "evil" not in answer.text
    assert (
        client.get("/", base_url="http://evil.example", headers={"X-Forwarded-Host": "127.0.0.1:9"}).status_code == 400
    )
    sent = {"X-Request-ID": "chosen-by-the-client"}
    assert re.fullmatch("[0-9a-f]{16}", client.get("/", headers=sent).headers["X-Request-ID"])


@pytest.mark.parametrize("path", [*PAGES, "/checkout", "/?lang=ar"])
def test_row_87_caches_are_told_that_pages_differ_by_language_and_cookie(client: CheckingClient, path: str) -> None:
    client.fill_basket()
    assert {"Accept-Language", "Cookie"} <= set(client.get(path).vary)


@pytest.mark.parametrize("path", ["/basket", "/checkout", "/orders/{}", "/orders/{}/status", "/orders/{}/nothing"])
def test_row_87_what_is_about_one_customer_is_kept_by_no_cache(
    client: CheckingClient, order: OrderFactory, path: str
) -> None:
    client.fill_basket()
    address = path.format(order.awaiting().token)
    for answer in (client.get(address), client.post(address, data={"quantity": "x"})):
        if answer.status_code not in (404, 405):
            assert answer.headers["Cache-Control"] == "no-store"


def test_row_87_files_that_are_the_same_for_everybody_may_be_shared(client: CheckingClient) -> None:
    answer = client.get("/static/css/tokens.css")
    assert "no-store" not in answer.headers["Cache-Control"]
    assert not answer.vary
