"""The smallest right shop: one product, one file, all ten rules.

The gateway makes an invoice when we ask for it, and gives us a secret with it. The customer pays on its page. For each
payment that is confirmed, in full and for good, it posts JSON with `secret`, `invoiceId` and `paymentSessionId` to our
callback URL, which is set in the gateway's account. It repeats that until we answer 200, up to 30 times over 3 days.

The rules, in short (in full: docs/any-language.md):

 1. Store the order first, then ask for the invoice, with an exact amount.
 2. Show a payment link only from a reply that is right.
 3. Limit time and size of the call, and hold no lock meanwhile.
 4. When the outcome is unknown, ask again, a few times.
 5. Keep the secret secret.
 6. Only the callback marks an order paid.
 7. Find the order by the secret alone.
 8. Answer 200 only after the commit, and 404 to what you don't know yet.
 9. Expect everything twice.
10. Never refuse money.

It leaves out what the rules don't need: goods that run out (reserve them at checkout, give them back in time, and look
again when the callback comes), a basket, double clicks, e-mails, limits for visitors, pages for the merchant. README.md
has the commands. Serve it with many threads, or behind a proxy that reads whole requests: a slow sender occupies one.
"""

import base64
import hashlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal

from flask import Flask, abort, redirect, render_template_string, request
from flask.typing import ResponseReturnValue

import amwal

PRICE = Decimal("0.30")  # rule 1: exact; the float 0.1 * 3 is 0.30000000000000004. No currency: that's the project's
PUBLIC_URL = os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000")
DATABASE = os.environ.get("DATABASE", "shop.db")
PAYMENT_ORIGINS = os.environ.get("AMWAL_PAYMENT_ORIGINS", "https://amwal.exchange").split(",")  # rule 2: of a link

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY,
    token TEXT NOT NULL UNIQUE,  -- the address of the order's page can't be guessed
    amount TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'paid', 'cancelled', 'review')),
    invoice_id TEXT UNIQUE,      -- rule 2: an invoice that the gateway gives for two orders is refused
    secret_digest TEXT UNIQUE,   -- rule 5: enough to recognize a secret (122 random bits), no use to a thief
    url TEXT,
    qr TEXT
);
CREATE TABLE IF NOT EXISTS payments (
    order_id INTEGER NOT NULL REFERENCES orders,
    session_id TEXT NOT NULL,  -- names the payment; '' if a callback has none, so two of these would look like one
    received_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (order_id, session_id)
);
-- What is to be delivered. Whoever sends the goods takes the rows one by one.
CREATE TABLE IF NOT EXISTS deliveries (order_id INTEGER PRIMARY KEY REFERENCES orders);
-- Rule 10: what the merchant must decide about: paid twice, or after the order was cancelled.
CREATE VIEW IF NOT EXISTS attention AS
    SELECT orders.id, state, count(*) AS payment_count FROM orders JOIN payments ON order_id = orders.id
    GROUP BY orders.id HAVING state <> 'paid' OR count(*) > 1;
"""

PAGE = """<!doctype html><html lang="en"><title>Order {{ order.id }}</title><h1>Order {{ order.id }}</h1>
{% if order.state == "paid" %}<p>Paid. Thank you.
{% elif order.state == "review" %}<p>Your payment has arrived. We are looking into it.
{% elif order.state == "cancelled" %}<p>Cancelled.
{% elif is_back %}<p>Waiting for confirmation. Please don't pay again. <a href="/orders/{{ order.token }}">Not paid?</a>
  <meta http-equiv="refresh" content="3">
{% else %}
  {% if order.url %}
    <p><a href="{{ order.url }}">Pay {{ order.amount }}</a> <meta http-equiv="refresh" content="3">
    {% if order.qr %}<p><img src="data:image/png;base64,{{ order.qr }}" alt="Payment code">{% endif %}
  {% else %}
    <p>There is no payment link yet.
    <form method="post" action="/orders/{{ order.token }}/invoice"><button>Try again</button></form>
  {% endif %}
  <form method="post" action="/orders/{{ order.token }}/cancellation"><button>Cancel</button></form>
{% endif %}"""

app = Flask(__name__)
log = logging.getLogger(__name__)
gateway = amwal.Client(os.environ["AMWAL_PROJECT_URL"], os.environ["AMWAL_API_KEY"], PAYMENT_ORIGINS)


def connect() -> sqlite3.Connection:
    db = sqlite3.connect(DATABASE, timeout=5, isolation_level=None)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = EXTRA")  # rule 8: what is committed survives a power failure
    return db


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """One transaction. IMMEDIATE makes writers take turns, of other processes too; closing without COMMIT undoes it."""
    with closing(connect()) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")


with closing(connect()) as db:
    db.executescript(SCHEMA)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def order_or_404(token: str) -> sqlite3.Row:
    with closing(connect()) as db:
        order: sqlite3.Row | None = db.execute("SELECT * FROM orders WHERE token = ?", [token]).fetchone()
    return order or abort(404)


def request_invoice(token: str) -> None:
    order = order_or_404(token)
    page = f"{PUBLIC_URL}/orders/{token}"
    if order["state"] != "open" or order["url"]:  # an invoice is never replaced: its link could still be paid
        return
    try:
        # Rules 2, 3, 4: amwal.py checks every field, takes 6 seconds at most, and tries again twice in that time.
        # No transaction is open meanwhile. If the reply is lost, so is the invoice: nobody can pay what nobody saw.
        invoice = gateway.create_invoice(
            amount=Decimal(order["amount"]),
            header=f"Order {order['id']}",  # the title of the payment page
            success_url=f"{page}?returned=success",
            cancel_url=page,  # it only shows the order
        )
        with transaction() as db:
            # Of two requests at once, the first to be stored counts. The other's invoice is dropped unseen, and so is
            # one for an order that was cancelled meanwhile.
            db.execute(
                "UPDATE orders SET invoice_id = ?, secret_digest = ?, url = ?, qr = ?"
                " WHERE token = ? AND state = 'open' AND url IS NULL",
                [invoice.id, digest(invoice.secret), invoice.url, base64.b64encode(invoice.qr or b"").decode(), token],
            )
    except (amwal.AmwalError, sqlite3.Error) as error:  # rule 4: the page offers to try again
        log.error("order %s has no invoice: %s", order["id"], error)


@app.get("/")
def product() -> str:
    return f'<!doctype html><title>Shop</title><form method="post" action="/orders"><button>Buy for {PRICE}</button>'


@app.post("/orders")
def place() -> ResponseReturnValue:
    token = secrets.token_urlsafe(16)
    with transaction() as db:  # rule 1: first the order
        db.execute("INSERT INTO orders (token, amount) VALUES (?, ?)", [token, str(PRICE)])
    request_invoice(token)
    return redirect(f"/orders/{token}", 303)


@app.get("/orders/<token>")
def order_page(token: str) -> str:
    is_back = request.args.get("returned") == "success"  # rule 6: anybody can open that, so it proves nothing
    return render_template_string(PAGE, order=order_or_404(token), is_back=is_back)


@app.post("/orders/<token>/invoice")
def try_again(token: str) -> ResponseReturnValue:
    request_invoice(token)
    return redirect(f"/orders/{token}", 303)


@app.post("/orders/<token>/cancellation")
def cancel(token: str) -> ResponseReturnValue:
    with transaction() as db:
        db.execute("UPDATE orders SET state = 'cancelled' WHERE token = ? AND state = 'open'", [token])
    return redirect(f"/orders/{token}", 303)


@app.post("/amwal/callback")
@app.post("/amwal/callback/")  # both: a redirect or a 404 would not count as delivered
def callback() -> ResponseReturnValue:
    try:
        body = request.stream.read(amwal.CALLBACK_LIMIT + 1)
        if len(body) > amwal.CALLBACK_LIMIT:
            abort(413)
        message = amwal.parse_callback(body)  # checked texts; "" for a missing id
    except (OSError, amwal.BadCallback):  # OSError: broken chunks
        abort(400)
    try:
        with transaction() as db:
            # Rule 7: only the gateway and we know the secret. It names the order; nothing else does.
            order = db.execute("SELECT * FROM orders WHERE secret_digest = ?", [digest(message.secret)]).fetchone()
            if order is None:
                # Rule 8: a callback can be faster than our own commit above. After a 200 it would never come again.
                log.warning("a callback has an unknown secret")
                abort(404)
            if message.invoice_id not in ("", order["invoice_id"]):  # a missing id is no reason to refuse (rule 10)
                log.warning("a callback has the secret of order %s, and another invoice's id", order["id"])
                abort(409)
            # Rule 9: the same callback again adds no row; another session is another payment.
            insert = "INSERT INTO payments (order_id, session_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
            is_new = db.execute(insert, [order["id"], message.session_id]).rowcount == 1
            if is_new and order["state"] == "open":
                db.execute("UPDATE orders SET state = 'paid' WHERE id = ?", [order["id"]])
                db.execute("INSERT INTO deliveries VALUES (?)", [order["id"]])
            elif is_new and order["state"] == "cancelled":  # rule 10: the money is there all the same
                db.execute("UPDATE orders SET state = 'review' WHERE id = ?", [order["id"]])
    except sqlite3.Error:
        log.exception("a callback could not be stored; it comes again")
        abort(503)
    return "", 200  # rule 8: after the commit
