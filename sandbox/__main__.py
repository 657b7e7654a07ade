"""The command line: `python -m sandbox serve`, `trigger` and `conformance`."""

import logging
import os
import re
import signal
import socket
import sqlite3
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click
import requests
from flask import Flask, url_for
from waitress.server import create_server

from sandbox.app import create_app, store_of
from sandbox.conformance import report
from sandbox.conformance.checks import Verdict
from sandbox.conformance.run import Run
from sandbox.conformance.shops import AnyShop, Dukkan
from sandbox.delivery import DeliveryWorker
from sandbox.trouble import CASES, callbacks

DRAIN_SECONDS = 10
# Above the app's own limit, so that up to this size the 413 and its message come from the app.
LARGEST_READ = 1024 * 1024


def _web_address(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Check an option: an http(s) address, or nothing."""
    with suppress(ValueError):  # from `urlsplit`, for malformed hosts
        if not value or (urlsplit(value).scheme in {"http", "https"} and urlsplit(value).hostname):
            return value
    raise click.BadParameter("must start with http:// or https:// and a host")


def _key(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Check an option: an API key that fits into an HTTP header."""
    if value is None or re.fullmatch("[!-~]+", value):
        return value
    raise click.BadParameter("must be ASCII characters without spaces")


def _stop_with(_context: click.Context, _option: click.Parameter, parent: int | None) -> None:
    """Stop this process when the one that started it has stopped."""

    def wait() -> None:
        while os.getppid() == parent:
            sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent is not None:
        threading.Thread(target=wait, daemon=True).start()


option = partial(click.option, show_default=True, show_envvar=True)


@click.group()
def cli() -> None:
    """A simulated amwal.exchange payment gateway. No real money moves."""


@cli.command(context_settings={"auto_envvar_prefix": "SANDBOX"})
@option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 for phones in the network.")
@option("--port", default=8001, type=click.IntRange(0, 65535), help="Port to listen on; 0 for any free one.")
@option("--database", default="instance/sandbox.sqlite3", help="SQLite file; created if missing.")
@option(
    "--callback-url",
    callback=_web_address,
    show_default="the last one, at first http://127.0.0.1:8000/amwal/callback",
    help="The shop's address for callbacks; '' switches callbacks off.",
)
@option(
    "--api-key",
    callback=_key,
    show_default="the last one, at first a random one",
    help="API key, which the shop sends as Bearer token.",
)
@option(
    "--public-url",
    callback=_web_address,
    show_default="http://HOST:PORT",
    help="Start of payment links; phones must be able to reach it.",
)
@option("--mails", default="instance/sandbox-mail", help="Folder for the e-mails about failed callbacks.")
@option(
    "--speed",
    default=1.0,
    type=click.FloatRange(min=0, min_open=True),
    help="Speeds up callback retries: with 4320, the 3 days take one minute.",
)
@click.option("--parent", type=int, hidden=True, expose_value=False, callback=_stop_with)
def serve(host: str, port: int, public_url: str | None, **settings: Any) -> None:
    """Serve the gateway until Ctrl-C or SIGTERM; requests in progress finish first."""
    os.umask(0o077)  # the database holds API keys and secrets: other users of the machine can't read new files
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns of every short wait
    listener = _listen(host, port)
    here = _address(host, listener.getsockname()[1])
    try:
        app = create_app(public_url=public_url or here, **settings)
    except (sqlite3.Error, OSError) as error:
        listener.close()
        raise click.ClickException(f"Can't use the database {settings['database']}: {error}.") from error
    server = create_server(
        app,
        sockets=[listener],
        threads=8,
        ident="sandbox",
        max_request_body_size=LARGEST_READ,
        clear_untrusted_proxy_headers=False,  # never trusted, but they reveal requests through a tunnel
    )
    worker = DeliveryWorker(store_of(app), speed=settings["speed"], mails=app.config["MAILS"])
    stop = _stop_on_signals(server)
    worker.start()
    _print_settings(app, here)
    _run(server, stop)
    worker.stop()
    store_of(app).close()


@cli.command()
@click.argument("invoice", required=False)
@click.option("--case", "name", type=click.Choice(list(CASES)), metavar="CASE", help="Fault case; see --list.")
@option(
    "--sandbox",
    default="http://127.0.0.1:8001",
    envvar="SANDBOX_URL",
    callback=_web_address,
    help="The sandbox's address.",
)
@click.option("--list", "wants_list", is_flag=True, help="List the cases and what a shop must do in each.")
def trigger(invoice: str | None, name: str | None, sandbox: str, wants_list: bool) -> None:
    """Start a fault case for INVOICE: an id, `last` for the newest one, or `next`.

    `next` is the shop's next request for an invoice. Prints what a shop must do, and its answers. The exit code is 1 if
    an answer is wrong.
    """
    if wants_list:
        for case in CASES.values():
            click.echo(f"{'next' if case.at == 'put' else 'INVOICE':8} {case.name:16} A shop must {case.must}.")
        return
    if invoice is None or name is None:
        raise click.UsageError("Give an INVOICE and a --case; --list shows the cases.")
    try:
        answer = requests.post(f"{sandbox.rstrip('/')}/trouble", json={"invoice": invoice, "case": name}, timeout=120)
        report = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise click.ClickException(
            f"No sandbox answers at {sandbox}. Start one with `python -m sandbox serve`, or give another --sandbox."
        ) from error
    if not answer.ok:
        raise click.ClickException(str(report.get("message", answer.status_code)))
    click.echo(f"{report['title']}: a shop must {report['must']}.")
    for step in report["sent"]:
        verdict = "ok" if step["ok"] else f"WRONG, expected {step['expected']}"
        click.echo(f"  {step['what']}: {step['answer']} in {step['milliseconds']} ms, {verdict}")
    if not report["sent"]:
        click.echo(_NOTHING_SENT.get(name, "  It applies to the next request for an invoice: place an order."))
    sys.exit(0 if report["ok"] else 1)


@cli.command()
@click.option("--listen", "port", required=True, type=click.IntRange(1, 65535), help="Port for the gateway.")
@click.option("--callback-url", required=True, callback=_web_address, help="Your shop's address for callbacks.")
@click.option("--dukkan", is_flag=True, help="Your shop is a Dukkan or a fork: place orders through its forms.")
@click.option("--place", "command", metavar="CMD", help="Command that places an order and prints its page's address.")
@click.option("--paid-text", default="", help="Text that only the page of a paid order shows.")
@click.option("--late", type=click.FloatRange(min=0), help="Minutes that your shop reserves goods for an unpaid order.")
@click.option(
    "--junit", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="JUnit XML file to write."
)
@option("--folder", default="instance/conformance", type=click.Path(path_type=Path), help="Data of unfinished runs.")
@click.option("--fresh", is_flag=True, help="Start over, with a new project and API key.")
def conformance(port: int, callback_url: str, dukkan: bool, command: str | None, **more: Any) -> None:
    """Act as the gateway of a running shop, and check every case.

    An interrupted run resumes when it is started again. The exit code is 1 if a check failed.
    """
    if dukkan and command:
        raise click.UsageError("Give either --dukkan or --place.")
    folder: Path = more["folder"]
    if more["fresh"]:
        for name in ("results.json", "sandbox.sqlite3", "sandbox.sqlite3-wal", "sandbox.sqlite3-shm"):
            (folder / name).unlink(missing_ok=True)
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(callback_url))
    late = more["late"] if more["late"] is not None else float(dukkan)
    listener = _listen("127.0.0.1", port)
    here = _address("127.0.0.1", port)
    app = create_app(database=folder / "sandbox.sqlite3", callback_url=callback_url, public_url=here)
    server = create_server(app, sockets=[listener], threads=16, ident="sandbox", max_request_body_size=LARGEST_READ)
    threading.Thread(target=server.run, daemon=True).start()
    with app.app_context():
        shop = Dukkan(origin) if dukkan else AnyShop(command, more["paid_text"])
        run = Run(shop, callback_url=callback_url, late_minutes=late, kept=folder / "results.json")
        project = store_of(app).project()
        click.echo("Start your shop with these settings (named as in Dukkan), and keep it running:")
        click.echo(f"  AMWAL_PROJECT_URL={here}/projects/{project.id}")
        click.echo(f"  AMWAL_API_KEY={project.api_key}")
        click.echo(f"  AMWAL_PAYMENT_ORIGINS={here}")
        if dukkan:
            click.echo(f"  PUBLIC_URL={origin}")
            click.echo(f"  DATABASE_URL=sqlite:///{folder.resolve() / 'shop.db'}")
            if late:
                click.echo(f"  RESERVATION_MINUTES={max(1, round(late))}")
        todo = run.groups_to_do()
        minutes = late + 1 + len(todo) / 20
        click.echo(f"The run places {len(todo)} orders, which takes about {minutes:.0f} minutes.")
        _wait_for(callback_url)
        for number, group in enumerate(todo, 1):
            for result in run.do(group):
                click.echo(f"[{number:2}/{len(todo)}] {report.line(result)}")
    results = report.complete(run.results)
    click.echo("\n" + report.table(results))
    if more["junit"]:
        report.write_junit(more["junit"], results)
    (folder / "results.json").unlink(missing_ok=True)  # complete: the next run starts over
    passed = {result.verdict for result in results}
    sys.exit(0 if Verdict.PASSED in passed and Verdict.FAILED not in passed else 1)


def _wait_for(callback_url: str, seconds: float = 900) -> None:
    """Wait until the shop's port accepts connections, or end with an error."""
    address, until = urlsplit(callback_url), monotonic() + seconds
    place = (address.hostname or "", address.port or (443 if address.scheme == "https" else 80))
    click.echo(f"Waiting for the shop at {place[0]}, port {place[1]} …")
    while True:
        with suppress(OSError), socket.create_connection(place, timeout=2):
            return
        if monotonic() > until:
            raise click.ClickException("The shop did not start. Run this command again when the shop is running.")
        sleep(0.2)


_NOTHING_SENT = {
    "late": f"  Paid. The callback follows in {callbacks.LATE_SECONDS // 60} minutes; the account can send it now.",
    "never": "  Paid. No callback will be sent.",
}


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, or end with a one-line error."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise click.ClickException(
            f"Can't listen on {host}, port {port}: {error.strerror}. Choose another with --port or --host."
        ) from error


def _address(host: str, port: int) -> str:
    """Return the server's address for this machine."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - only compared
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_settings(app: Flask, here: str) -> None:
    """Print the values for the shop's settings."""
    project = store_of(app).project()
    with app.test_request_context(base_url=here):
        project_url = url_for("api.create_invoice", project_id=project.id, _external=True)
    click.echo("Sandbox gateway: no real money moves.")
    click.echo(f"  Project URL   {project_url}")
    click.echo(f"  API key       {project.api_key}")
    click.echo(f"  Callback URL  {project.callback_url or '(none: callbacks are off)'}")
    click.echo(f"  Account       {here}/")
    click.echo("Press Ctrl-C to stop.")


def _stop_on_signals(server: Any) -> threading.Event:
    """Return an event set by Ctrl-C or SIGTERM; a second signal kills the process."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()
        server.pull_trigger()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


def _run(server: Any, stop: threading.Event) -> None:
    """Serve until `stop` is set, then let the requests in progress finish.

    This replaces waitress's `run()`, which drops unsent answers when it stops.
    """

    def turn(seconds: float) -> None:
        server.asyncore.loop(timeout=seconds, map=server._map, use_poll=server.adj.asyncore_use_poll, count=1)

    while not stop.is_set():
        turn(1)
    turn(0)  # accept waiting connections
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
