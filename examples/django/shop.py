"""The smallest right Django shop: one product, one file, all ten rules of docs/any-language.md.

It leaves out what the rules don't need: goods that run out (reserve them at checkout, and give them back in time), a
basket, double clicks, e-mails, pages for the merchant. Settings come from the environment; README.md has the commands.
"""

import base64
import hashlib
import logging
import os
import secrets
import sys
from decimal import Decimal
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.db import Error, connection, models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template import Context, Engine
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

import amwal

PRICE = Decimal("0.30")  # rule 1: exact; the float 0.1 * 3 is 0.30000000000000004
PUBLIC_URL = os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000")
PAYMENT_ORIGINS = os.environ.get("AMWAL_PAYMENT_ORIGINS", "https://amwal.exchange").split(",")

settings.configure(
    DEBUG=False,  # rule 5: an error page of DEBUG shows local variables, the secret among them
    LOGGING_CONFIG=None,  # Django's own shows no errors in the terminal unless DEBUG is on
    ALLOWED_HOSTS=[urlsplit(PUBLIC_URL).hostname],  # a callback to any other host gets a 400
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    DATABASES={  # without ATOMIC_REQUESTS: it would keep a transaction open during the call to the gateway (rule 3)
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("DATABASE", "shop.db"),
            # SQLite has no row locks; IMMEDIATE makes transactions take turns. For PostgreSQL: a lock_timeout instead.
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 5, "init_command": "PRAGMA synchronous = EXTRA"},
        }
    },
)

PAGE = Engine().from_string("""<!doctype html><html lang="en"><title>Order {{ order.id }}</title>
<h1>Order {{ order.id }}</h1>
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
{% endif %}""")

application = get_wsgi_application()  # rule 8: serve it with many threads, or behind a proxy that reads whole requests
log = logging.getLogger(__name__)
gateway = amwal.Client(os.environ["AMWAL_PROJECT_URL"], os.environ["AMWAL_API_KEY"], PAYMENT_ORIGINS)


class State(models.TextChoices):
    OPEN = "open"
    PAID = "paid"
    CANCELLED = "cancelled"
    REVIEW = "review"


class Order(models.Model):
    token = models.CharField(max_length=22, unique=True)  # the order's page can't be guessed
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    state = models.CharField(max_length=9, choices=State, default=State.OPEN)
    invoice_id = models.CharField(max_length=200, unique=True, null=True)  # rule 2: one that is given twice is refused
    secret_digest = models.CharField(max_length=64, unique=True, null=True)  # rule 5: useless to whoever steals it
    url = models.TextField(default="")
    qr = models.TextField(default="")

    class Meta:
        app_label = "shop"
        constraints = (models.CheckConstraint(condition=models.Q(state__in=State.values), name="known_state"),)


class Payment(models.Model):
    order = models.ForeignKey(Order, models.PROTECT)
    session_id = models.CharField(max_length=200)

    class Meta:
        app_label = "shop"
        # Rule 9: the same callback again changes nothing.
        constraints = (models.UniqueConstraint(fields=["order", "session_id"], name="payment_once"),)


class Delivery(models.Model):
    """What is to be delivered. Whoever sends the goods works through it."""

    order = models.OneToOneField(Order, models.PROTECT, primary_key=True)

    class Meta:
        app_label = "shop"


with connection.schema_editor() as schema:  # instead of migrations, which need a package
    known = connection.introspection.table_names()
    for model in (Order, Payment, Delivery):
        if model._meta.db_table not in known:
            schema.create_model(model)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def to_page(token: str) -> HttpResponse:
    return HttpResponseRedirect(f"/orders/{token}", status=303)


def request_invoice(token: str) -> None:
    order, page = get_object_or_404(Order, token=token), f"{PUBLIC_URL}/orders/{token}"
    if order.state != State.OPEN or order.url:
        return
    try:
        # Rule 3: no transaction is open during the call, and amwal.py limits its time and size.
        # Rules 2 and 4: it checks every field of the reply, and repeats what can be repeated.
        invoice = gateway.create_invoice(
            amount=order.amount,
            header=f"Order {order.id}",
            success_url=f"{page}?returned=success",
            cancel_url=page,
        )
        # One conditional UPDATE. Of two calls at once the first counts: nobody has seen the other invoice.
        Order.objects.filter(token=token, state=State.OPEN, url="").update(
            invoice_id=invoice.id,
            secret_digest=digest(invoice.secret),
            url=invoice.url,
            qr=base64.b64encode(invoice.qr or b"").decode(),
        )
    except (amwal.AmwalError, Error) as error:  # rule 4: the page offers to try again
        log.error("order %s has no invoice: %s", order.id, error)


@require_safe
def product(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        f'<!doctype html><title>Shop</title><form method="post" action="/orders"><button>Buy for {PRICE}</button>'
    )


@require_POST
def place(request: HttpRequest) -> HttpResponse:
    order = Order.objects.create(token=secrets.token_urlsafe(16), amount=PRICE)  # rule 1: first the order
    request_invoice(order.token)
    return to_page(order.token)


@require_safe
def order_page(request: HttpRequest, token: str) -> HttpResponse:
    order = get_object_or_404(Order, token=token)
    is_back = request.GET.get("returned") == "success"  # rule 6: anybody can open that, so it proves nothing
    return HttpResponse(PAGE.render(Context({"order": order, "is_back": is_back})))


@require_POST
def try_again(request: HttpRequest, token: str) -> HttpResponse:
    request_invoice(token)
    return to_page(token)


@require_POST
def cancel(request: HttpRequest, token: str) -> HttpResponse:
    Order.objects.filter(token=token, state=State.OPEN).update(state=State.CANCELLED)
    return to_page(token)


@csrf_exempt  # CsrfViewMiddleware would answer 403. (This shop doesn't use it: nobody signs in.)
@require_POST
def callback(request: HttpRequest) -> HttpResponse:
    body = request.read(amwal.CALLBACK_LIMIT + 1)
    if len(body) > amwal.CALLBACK_LIMIT:
        return HttpResponse(status=413)
    try:
        message = amwal.parse_callback(body)
    except amwal.BadCallback:
        return HttpResponse(status=400)
    try:
        with transaction.atomic(durable=True):  # rule 8: durable raises an error inside another transaction
            # Rule 7: only the secret says which order is meant. The lock makes copies of a callback take turns.
            order = Order.objects.select_for_update().filter(secret_digest=digest(message.secret)).first()
            if order is None:
                # Rule 8: a callback can be faster than our own commit above. After a 200 it would never come again.
                log.warning("a callback has an unknown secret")
                return HttpResponse(status=404)
            if message.invoice_id not in ("", order.invoice_id):  # a missing id is no reason to refuse (rule 10)
                log.warning("a callback has the secret of order %s, and another invoice's id", order.id)
                return HttpResponse(status=409)
            _, is_new = Payment.objects.get_or_create(order=order, session_id=message.session_id)
            if is_new and order.state == State.OPEN:
                Order.objects.filter(id=order.id).update(state=State.PAID)
                Delivery.objects.create(order=order)
            elif is_new and order.state == State.CANCELLED:  # rule 10: the money is there all the same
                Order.objects.filter(id=order.id).update(state=State.REVIEW)
    except Error:
        log.exception("a callback could not be stored; it comes again")
        return HttpResponse(status=503)
    return HttpResponse()  # rule 8: after the commit


urlpatterns = [
    path("", product),
    path("orders", place),
    path("orders/<slug:token>", order_page),
    path("orders/<slug:token>/invoice", try_again),
    path("orders/<slug:token>/cancellation", cancel),
    path("amwal/callback", callback),
    path("amwal/callback/", callback),  # the gateway would count a redirect to another slash as a failure
]


def attention() -> models.QuerySet[Payment]:
    """Rule 10: money that the merchant must decide about, paid twice or after the order was cancelled."""
    paid = Payment.objects.values_list("order", "order__state").annotate(times=models.Count("session_id"))
    return paid.exclude(order__state=State.PAID, times=1)


if __name__ == "__main__":
    if sys.argv[1:] == ["attention"]:
        for order_id, state, times in attention():
            print(f"order {order_id}: {state}, payments: {times}")
    else:
        execute_from_command_line(sys.argv)
