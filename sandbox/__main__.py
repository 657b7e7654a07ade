"""The command line: `python -m sandbox serve`, `trigger` and `conformance`."""

import logging
import re
import signal
import socket
import sqlite3
import sys
import threading
from contextlib import suppress
from functools import partial
from time import monotonic
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click
import requests
from flask import Flask, url_for
from waitress.server import create_server

from sandbox.app import create_app, store_of
from sandbox.delivery import DeliveryWorker
from sandbox.trouble import CASES, callbacks

DRAIN_SECONDS = 10
# Larger than what the app itself accepts, so that the app can answer 413 in its own words up to this size.
LARGEST_READ = 1024 * 1024


def _web_address(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Option check: an http(s) address."""
    with suppress(ValueError):  # what `urlsplit` says to odd brackets and ports
        if not value or (urlsplit(value).scheme in {"http", "https"} and urlsplit(value).hostname):
            return value
    raise click.BadParameter("an address starts with http:// or https:// and a host")


def _key(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Option check: what can travel in an HTTP header as one word."""
    if value is None or re.fullmatch("[!-~]+", value):
        return value
    raise click.BadParameter("a key is one word of ASCII characters")


option = partial(click.option, show_default=True, show_envvar=True)


@click.group()
def cli() -> None:
    """A stand-in for the amwal.exchange payment gateway. No real money moves."""


@cli.command(context_settings={"auto_envvar_prefix": "SANDBOX"})
@option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 lets phones in.")
@option("--port", default=8001, type=click.IntRange(0, 65535), help="0 takes a free one.")
@option("--database", default="instance/sandbox.sqlite3", help="SQLite file; made if missing.")
@option(
    "--callback-url",
    callback=_web_address,
    show_default="the database's, at first http://127.0.0.1:8000/amwal/callback",
    help="Where the shop hears of payments; '' switches callbacks off.",
)
@option(
    "--api-key",
    callback=_key,
    show_default="the database's, at first a random one",
    help="What the shop sends as Bearer.",
)
@option(
    "--public-url",
    callback=_web_address,
    show_default="http://HOST:PORT",
    help="How payment links begin; phones must be able to reach it.",
)
@option("--mails", default="instance/sandbox-mail", help="Folder for the e-mails about failed callbacks.")
@option(
    "--speed",
    default=1.0,
    type=click.FloatRange(min=0, min_open=True),
    help="Divides the waiting between callback attempts: 4320 makes a minute of 3 days.",
)
def serve(host: str, port: int, public_url: str | None, **settings: Any) -> None:
    """Serve the gateway until Ctrl-C or SIGTERM; requests in flight finish first."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # requests that wait a moment are no news
    listener = _listen(host, port)
    here = _address(host, listener.getsockname()[1])
    try:
        app = create_app(public_url=public_url or here, **settings)
    except (sqlite3.Error, OSError) as error:
        listener.close()
        raise click.ClickException(f"The database {settings['database']} can't be used: {error}.") from error
    server = create_server(
        app,
        sockets=[listener],
        threads=8,
        ident="sandbox",
        max_request_body_size=LARGEST_READ,
        clear_untrusted_proxy_headers=False,  # they are never believed, but show that a request came through a tunnel
    )
    worker = DeliveryWorker(store_of(app), speed=settings["speed"], mails=app.config["MAILS"])
    stop = _signalled(server)
    worker.start()
    _say_where(app, here)
    _run(server, stop)
    worker.stop()
    store_of(app).close()


@cli.command()
@click.argument("invoice", required=False)
@click.option("--case", "name", type=click.Choice(list(CASES)), metavar="CASE", help="Which trouble; --list names all.")
@option("--sandbox", default="http://127.0.0.1:8001", envvar="SANDBOX_URL", callback=_web_address, help="Its address.")
@click.option("--list", "wants_list", is_flag=True, help="List the cases, and what a shop must do in each.")
def trigger(invoice: str | None, name: str | None, sandbox: str, wants_list: bool) -> None:
    """Make trouble with INVOICE: its id, `last` for the newest one, or `next` for the next request.

    Prints what a shop must do, and what it answered. Exit code 1 if that differs.
    """
    if wants_list:
        for case in CASES.values():
            click.echo(f"{'next' if case.at == 'put' else 'INVOICE':8} {case.name:16} A shop must {case.must}.")
        return
    if invoice is None or name is None:
        raise click.UsageError("Say which INVOICE and which --case; --list names the cases.")
    try:
        answer = requests.post(f"{sandbox.rstrip('/')}/trouble", json={"invoice": invoice, "case": name}, timeout=120)
        report = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise click.ClickException(
            f"No sandbox answers at {sandbox}. Start one with `python -m sandbox serve`, or name it with --sandbox."
        ) from error
    if not answer.ok:
        raise click.ClickException(str(report.get("message", answer.status_code)))
    click.echo(f"{report['title']}: a shop must {report['must']}.")
    for step in report["sent"]:
        verdict = "ok" if step["ok"] else f"WRONG, expected {step['expected']}"
        click.echo(f"  {step['what']}: {step['answer']} in {step['milliseconds']} ms, {verdict}")
    if not report["sent"]:
        click.echo(_NOTHING_SENT.get(name, "  The next request for an invoice meets with it: place an order."))
    sys.exit(0 if report["ok"] else 1)


_NOTHING_SENT = {
    "late": f"  Paid. The callback goes out in {callbacks.LATE_SECONDS // 60} minutes; the account can send it now.",
    "never": "  Paid. No callback will come.",
}


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, or end with one clear line."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise click.ClickException(
            f"Can't listen on {host}, port {port}: {error.strerror}. Choose another with --port or --host."
        ) from error


def _address(host: str, port: int) -> str:
    """Return the address at which this machine reaches the server."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not listened on
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say_where(app: Flask, here: str) -> None:
    """Print what the shop's settings need."""
    project = store_of(app).project()
    with app.test_request_context(base_url=here):
        project_url = url_for("api.create_invoice", project_id=project.id, _external=True)
    click.echo("Sandbox gateway: no real money moves.")
    click.echo(f"  Project URL   {project_url}")
    click.echo(f"  API key       {project.api_key}")
    click.echo(f"  Callback URL  {project.callback_url or '(none: callbacks are off)'}")
    click.echo(f"  Account       {here}/")
    click.echo("Ctrl-C ends it.")


def _signalled(server: Any) -> threading.Event:
    """Return an event that is set by Ctrl-C and SIGTERM; a second signal then ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()
        server.pull_trigger()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


def _run(server: Any, stop: threading.Event) -> None:
    """Serve until `stop` is set, then let the requests in flight finish.

    waitress's own `run()` stops in the middle of answers that aren't sent yet; hence the loop by hand.
    """

    def turn(seconds: float) -> None:
        server.asyncore.loop(timeout=seconds, map=server._map, use_poll=server.adj.asyncore_use_poll, count=1)

    while not stop.is_set():
        turn(1)
    turn(0)  # take in those who had connected already
    server.del_channel()
    server.socket.close()
    deadline = monotonic() + DRAIN_SECONDS
    while monotonic() < deadline and any(
        channel.request or channel.requests or channel.total_outbufs_len for channel in server.active_channels.values()
    ):
        turn(0.1)
    server.task_dispatcher.shutdown()


if __name__ == "__main__":
    cli(prog_name="python -m sandbox")
