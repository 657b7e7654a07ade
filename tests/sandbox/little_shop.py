"""A little shop with chosen faults, for testing the conformance run.

As a program: `python little_shop.py PORT PROJECT_URL API_KEY FAULT…`.
"""

import json
import sys
import threading
import time
from base64 import urlsafe_b64encode
from contextlib import nullcontext, suppress
from html import escape
from typing import Any

import requests
from flask import Flask, redirect, request
from werkzeug.wrappers import Response

MAX_BYTES = 100_000
DEADLINE = 6  # seconds


def create_shop(port: int, project_url: str, api_key: str, faults: set[str]) -> Flask:  # noqa: PLR0915
    """Return the shop; `faults` are the rules that it breaks."""
    app, lock = Flask("little shop"), threading.Lock()
    orders: list[dict[str, Any]] = []
    gateway = project_url.partition("/projects")[0]
    misses: list[str] = []

    def put(order: dict[str, Any]) -> tuple[int, str, bytes]:
        here, until, content = (
            f"http://127.0.0.1:{port}/orders/{orders.index(order)}",
            time.monotonic() + DEADLINE,
            bytearray(),
        )
        body = {"amount": 0.1 * 3 if "float" in faults else 0.3, "header": "A cup"}
        if "same requests" not in faults:
            body |= {"successUrl": f"{here}/success", "cancelUrl": f"{here}/cancel"}
        with requests.put(
            project_url,
            json=body,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=DEADLINE,
            stream=True,
            allow_redirects="follows redirects" in faults,
        ) as answer:
            for chunk in answer.iter_content(65536 if "no cap" in faults else 1):
                content += chunk
                if time.monotonic() > until and "no deadline" not in faults:
                    raise ValueError("too slow")
                if len(content) > MAX_BYTES and "no cap" not in faults:
                    raise ValueError("too much")
            return answer.status_code, answer.headers.get("Retry-After", "0"), bytes(content)

    def put_again(order: dict[str, Any]) -> None:
        with suppress(ValueError, requests.RequestException):  # the test may be over
            put(order)

    def ask_later(order: dict[str, Any]) -> None:
        try:
            ask(order)
        except (ValueError, KeyError, TypeError, requests.RequestException):
            order["failed"] = True

    def ask(order: dict[str, Any]) -> None:
        for _ in range(6 if "hammers" in faults else 2):
            status, wait, content = put(order)
            if status == 200 or (status < 429 and "hammers" not in faults):
                break
            time.sleep(0 if "hammers" in faults else min(int(wait), 3))
        reply = json.loads(content)
        data = reply["data"]
        known = [other["secret"] for other in orders if "secret" in other]
        if "trusts" not in faults and (
            reply["err"] != 0
            or not all(isinstance(data[name], str) for name in ("invoiceId", "url", "secret"))
            or not data["url"].startswith(gateway)
            or data["secret"] in data["url"]
            or data["secret"] in known
        ):
            raise ValueError("an odd answer")
        if "needs a QR" in faults:
            data["QR"].encode()
        order |= {"id": data["invoiceId"], "url": data["url"], "secret": data["secret"], "qr": data.get("QR", "")}
        pictures = ("data:image/png;", "https://") if "takes pictures from anywhere" in faults else ("data:image/png;",)
        if not order["qr"].startswith(pictures) and "trusts" not in faults:
            order["qr"] = ""

    @app.post("/orders")
    def place() -> Response:
        order: dict[str, Any] = {"state": "open", "sessions": [], "delivered": 0}
        orders.append(order)
        if "asks in the background" in faults:
            threading.Timer(0.3, ask_later, [order]).start()
            return redirect(f"http://127.0.0.1:{port}/orders/{len(orders) - 1}", 303)
        try:
            with lock if "waits in the lock" in faults else nullcontext():
                ask(order)
        except (ValueError, KeyError, TypeError, requests.RequestException):
            if "crashes" in faults:
                raise
            if "repeats later" in faults:
                for seconds in (0.1, 0.3, 1.2, 1.4):
                    threading.Timer(seconds, put_again, [order]).start()
        return redirect(f"http://127.0.0.1:{port}/orders/{len(orders) - 1}", 303)

    @app.post("/orders/<int:number>/invoice")
    def ask_again(number: int) -> str:
        order = orders[-1] if "mixes orders up" in faults else orders[number]
        if "url" not in order or "replaces the invoice" in faults:
            ask(order)
            order["state"] = "open" if "reopens what is cancelled" in faults else order["state"]
        elif "reopens what is cancelled" in faults and order["state"] == "cancelled":
            order["state"] = "open"
        return "asked"

    @app.get("/orders/<int:number>")
    def show(number: int) -> Response | str:
        order = orders[number]
        if "url" not in order and "asks in the background" in faults and "failed" not in order:
            return "One moment, please."
        if "url" not in order:
            return "The payment service isn't answering." + " Try again." * ("offers no retry" not in faults)
        is_paid = order["state"] == "PAID"
        secret = order["secret"] if "shows the secret" in faults or ("thanks with it" in faults and is_paid) else ""
        url, qr = (str if "escapes nothing" in faults else escape)(order["url"]), order["qr"]
        page = Response(f"{order['state']} <a href='{url}'><img src='{escape(qr)}' alt='Pay'></a> {secret}")
        page.content_type = "text/html"
        if "keeps it in a session" in faults:
            page.set_cookie("session", urlsafe_b64encode(json.dumps({"order": order["secret"]}).encode()).decode())
        if "keeps it in a cookie" in faults:
            page.set_cookie("order", order["secret"])
        return page

    @app.post("/orders/<int:number>/cancellation")
    def cancel(number: int) -> str:
        if orders[number]["state"] == "open" or "cancels what is paid" in faults:
            orders[number]["state"] = "cancelled"
        return "cancelled"

    @app.get("/count/<what>")
    def count(what: str) -> str:
        return str(sum(len(one["sessions"]) if what == "payments" else one["delivered"] for one in orders))

    @app.get("/orders/<int:number>/<outcome>")
    def come_back(number: int, outcome: str) -> str:
        if "believes the browser" in faults:
            orders[number]["state"] = "PAID" if outcome == "success" else "cancelled"
        if "believes the payment page" in faults and request.referrer and request.referrer.startswith(gateway):
            orders[number]["state"] = "PAID"
        return "Waiting for confirmation"

    @app.route("/callback", methods=["POST", "GET"] if "pays by GET" in faults else ["POST"])
    def callback() -> tuple[str, int]:
        if request.content_length and request.content_length > MAX_BYTES and "no cap" not in faults:
            return "too large", 413
        try:
            message = request.args or json.loads(request.get_data())
            secret = message["secret"]
            secret.encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if "crashes" in faults:
                raise
            return "malformed", 400
        if "stores later" in faults:
            threading.Timer(0.2, judge, [message, secret]).start()
            return "paid", 200
        with lock:
            return judge(message, secret)

    def judge(message: dict[str, Any], secret: str) -> tuple[str, int]:  # noqa: PLR0911, PLR0912
        if len(misses) > 50 and "blocks guessers" in faults:
            return "go away", 429
        found = [order for order in orders if order.get("secret") == secret]
        if not found and "stores more for what is paid" in faults:
            found = [one for one in orders if one["sessions"] and one["id"] == message.get("invoiceId")]
        if not found:
            misses.append(secret)
            return "unknown", 200 if "takes any secret" in faults else 404
        order, session = found[0], message.get("paymentSessionId", "")
        if "pays the named order" in faults and "invoiceId" in message:
            order = next((one for one in orders if one.get("id") == message["invoiceId"]), {"id": ""})
        if message.get("invoiceId", order["id"]) != order["id"] and "ignores the id" not in faults:
            return "another invoice", 409
        if not session and "needs the ids" in faults:
            return "no session", 400
        if message.keys() - {"invoiceId", "paymentSessionId", "secret"} and "knows every field" in faults:
            return "an unknown field", 400
        if "has sessions once" in faults and any(session in one["sessions"] for one in orders if one is not order):
            return "known", 200
        if order["state"] == "cancelled" and "forgets late money" in faults:
            return "too late", 409
        if order["sessions"] and "pays once" in faults:
            return "paid before", 409
        if session not in order["sessions"] or "stores copies" in faults:
            order["sessions"].append(session)
        if order["state"] == "open" or "delivers always" in faults:
            order["delivered"] += 1
            if "delivers again later" in faults:
                threading.Timer(3, lambda: order.update(delivered=order["delivered"] + 1)).start()
        order["state"] = "REVIEW" if order["state"] in {"cancelled", "REVIEW"} else "PAID"
        return "paid", 200

    return app


if __name__ == "__main__":
    port, project, key, *broken = sys.argv[1:]
    create_shop(int(port), project, key, set(broken)).run(port=int(port))
