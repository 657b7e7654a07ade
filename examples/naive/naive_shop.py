"""A shop as most people would write it: it sells, and it loses money. DON'T COPY: ../python/small_shop.py is right.

Each `wrong` names the rule of docs/any-language.md that it breaks, and in brackets the cases of the conformance run
that find it. `python -m sandbox conformance --self-test` shows them being found.
"""

import os
import sqlite3
import time
from typing import Any

import requests
from flask import Flask, redirect, request
from flask.typing import ResponseReturnValue

HERE = os.environ["PUBLIC_URL"]
app = Flask(__name__)
db = sqlite3.connect(os.environ["DATABASE"], check_same_thread=False, isolation_level=None)
db.executescript("""
CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, state TEXT, invoice_id TEXT, secret TEXT, url TEXT, qr TEXT);
-- wrong: rule 9, nothing says that a payment is stored once (duplicate, concurrent)
CREATE TABLE IF NOT EXISTS payments (order_id INTEGER, session_id TEXT);
CREATE TABLE IF NOT EXISTS deliveries (order_id INTEGER);
""")


@app.post("/orders")
def place() -> ResponseReturnValue:
    amount = 0.1 * 3  # wrong: rule 1, a float is not a price (request)
    number = db.execute("SELECT count(*) + 1 FROM orders").fetchone()[0]
    # wrong: rule 3, it waits for ever, reads without end, and goes where it is sent (drip, redirect, huge, bomb)
    answer = requests.put(
        os.environ["AMWAL_PROJECT_URL"],
        json={
            "amount": amount,
            "header": f"Order {number}",
            "successUrl": f"{HERE}/orders/{number}/success",
            "cancelUrl": f"{HERE}/orders/{number}/cancel",
        },
        headers={"Authorization": f"Bearer {os.environ['AMWAL_API_KEY']}"},
    )
    # wrong: rule 1, the order is stored after the request, so if that fails there is none (refuse, 500)
    # wrong: rule 4, the customer sees a server error, and no way to try again (401, 429, reset, lost)
    # wrong: rule 2, the same when the answer has another form (html, missing-field, no-qr)
    session = answer.json()["data"]
    print("new invoice:", session)  # wrong: rule 5, the secret is in the log (secret)
    # wrong: rule 2, nothing of it is checked (err, wrong-type, javascript-url, foreign-host, repeated-id, svg-qr)
    # wrong: rule 5, the link may give the secret away (secret-in-url)
    row = (session["invoiceId"], session["secret"], session["url"], session["QR"])
    db.execute("INSERT INTO orders VALUES (?, 'open', ?, ?, ?, ?)", (number, *row))
    return redirect(f"{HERE}/orders/{number}")


@app.get("/orders/<int:number>")
def order_page(number: int) -> str:
    _, state, _, secret, url, qr = db.execute("SELECT * FROM orders WHERE id = ?", (number,)).fetchone()
    if state == "paid":
        return "Paid. Thank you"
    # wrong: rule 5, the page's reader can confirm the order (secret)
    return f'{state} <a href="{url}">Pay</a> <img src="{qr}"> <input type="hidden" name="secret" value="{secret}">'


@app.get("/orders/<int:number>/success")
def success(number: int) -> ResponseReturnValue:
    # wrong: rule 6, anybody can open this address (success-url)
    db.execute("UPDATE orders SET state = 'paid' WHERE id = ?", (number,))
    return redirect(f"{HERE}/orders/{number}")


@app.route("/orders/<int:number>/cancel", methods=["GET", "POST"])
def cancel(number: int) -> ResponseReturnValue:
    # wrong: rule 6, an address that is opened proves nothing (cancel-url)
    db.execute("UPDATE orders SET state = 'cancelled' WHERE id = ?", (number,))
    return redirect(f"{HERE}/orders/{number}")


@app.post("/amwal/callback")
def callback() -> str:
    try:
        message: dict[str, Any] = request.get_json()
        # wrong: rule 7, it looks for the invoice, and doesn't compare the secret (forged, other-invoice)
        query = "SELECT id, state FROM orders WHERE invoice_id = ?"
        number, state = db.execute(query, (message["invoiceId"],)).fetchone()
        # wrong: rule 10, money for a cancelled order, or without a session, is forgotten (after-cancel, missing-ids)
        if state != "cancelled":
            db.execute("INSERT INTO payments VALUES (?, ?)", (number, message["paymentSessionId"]))
        if state == "open":  # wrong: rule 9, read, then written: two find it open (concurrent, second-session)
            time.sleep(0.05)  # the mail to the warehouse, say
            db.execute("INSERT INTO deliveries VALUES (?)", (number,))
            db.execute("UPDATE orders SET state = 'paid' WHERE id = ?", (number,))
    except Exception as error:
        print(error)
    # wrong: rule 8, a 200 for what was not stored ends the retries (early)
    return "ok"  # wrong: rule 7, and for rubbish (malformed, oversized, guesses)
