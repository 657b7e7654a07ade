"""The command line: `python -m sandbox serve`, `pay`, `trigger` and `conformance`."""

import json
import logging
import os
import re
import sqlite3
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import requests
from flask import Flask, url_for
from waitress.server import create_server

from sandbox.app import create_app, store_of
from sandbox.conformance.command import conformance
from sandbox.delivery import DeliveryWorker
from sandbox.server import LARGEST_READ, address, listen, run, stop_on_signals, stop_with, web_address
from sandbox.trouble import CASES, callbacks


def _key(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Check an option: an API key that fits into an HTTP header."""
    if value is None or re.fullmatch("[!-~]+", value):
        return value
    raise click.BadParameter("must be ASCII characters without spaces")


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
    callback=web_address,
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
    callback=web_address,
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
@option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_default=False,
    help="Certificates that a shop on https may have (PEM), if they are of an authority of your own.",
)
@click.option("--parent", type=int, hidden=True, expose_value=False, callback=stop_with)
def serve(host: str, port: int, public_url: str | None, **settings: Any) -> None:
    """Serve the gateway until Ctrl-C or SIGTERM; requests in progress finish first."""
    os.umask(0o077)  # the database holds API keys and secrets: other users of the machine can't read new files
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns of every short wait
    listener = listen(host, port, "--port or --host")
    here = address(host, listener.getsockname()[1])
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
    worker = DeliveryWorker(store_of(app), app.config["SENDING"])
    stop = stop_on_signals(server)
    worker.start()
    _print_settings(app, here)
    run(server, stop)
    worker.stop()
    store_of(app).close()


cli.add_command(conformance)

of_sandbox = click.option(
    "--sandbox",
    default="http://127.0.0.1:8001",
    show_default=True,
    envvar="SANDBOX_URL",
    callback=web_address,
    help="The sandbox's address.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")


@cli.command()
@click.argument("invoice")
@of_sandbox
@as_json
def pay(invoice: str, sandbox: str, as_json: bool) -> None:
    """Pay INVOICE, an id or `last` for the newest one, and send its callback at once.

    The exit code is 1 if the shop's answer isn't 200. Then the callback is retried, as always.
    """
    if invoice == "next":
        raise click.UsageError("Give an invoice's id, or `last`.")
    outcome = _start(sandbox, invoice, "good")
    if as_json:
        click.echo(json.dumps(outcome))
    else:
        click.echo(f"Invoice {outcome['invoice']} is paid.")
        _print_answers(outcome, "  No callback was sent: it was delivered before, or callbacks are off.")
    sys.exit(0 if outcome["ok"] else 1)


@cli.command()
@click.argument("invoice", required=False)
@click.option("--case", "name", type=click.Choice(list(CASES)), metavar="CASE", help="Fault case; see --list.")
@of_sandbox
@as_json
@click.option("--list", "wants_list", is_flag=True, help="List the cases and what a shop must do in each.")
def trigger(invoice: str | None, name: str | None, sandbox: str, as_json: bool, wants_list: bool) -> None:
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
    outcome = _start(sandbox, invoice, name)
    if as_json:
        click.echo(json.dumps(outcome))
    else:
        click.echo(f"{outcome['title']}: a shop must {outcome['must']}.")
        _print_answers(
            outcome, _NOTHING_SENT.get(name, "  It applies to the next request for an invoice: place an order.")
        )
    sys.exit(0 if outcome["ok"] else 1)


def _start(sandbox: str, invoice: str, case: str) -> dict[str, Any]:
    """Start a case in a running sandbox, and return the outcome, or end with an error."""
    try:
        answer = requests.post(f"{sandbox.rstrip('/')}/trouble", json={"invoice": invoice, "case": case}, timeout=120)
        outcome: dict[str, Any] = dict(answer.json())
        if not outcome.keys() & {"sent", "message"}:
            raise ValueError("another program's answer")
    except (requests.RequestException, ValueError, TypeError) as error:
        serve = click.get_current_context().find_root().command_path + " serve"
        raise click.ClickException(
            f"No sandbox answers at {sandbox}. Start one with `{serve}`, or give another --sandbox."
        ) from error
    if not answer.ok:
        raise click.ClickException(str(outcome.get("message", answer.status_code)))
    return outcome


def _print_answers(outcome: dict[str, Any], nothing_sent: str) -> None:
    for step in outcome["sent"]:
        verdict = "ok" if step["ok"] else f"WRONG, expected {step['expected']}"
        click.echo(f"  {step['what']}: {step['answer']} in {step['milliseconds']} ms, {verdict}")
        if not step["ok"]:
            click.echo(f"  again: {step['again']}")
    if not outcome["sent"]:
        click.echo(nothing_sent)


_NOTHING_SENT = {
    "late": f"  Paid. The callback follows in {callbacks.LATE_SECONDS // 60} minutes; the account can send it now.",
    "never": "  Paid. No callback will be sent.",
}


def _print_settings(app: Flask, here: str) -> None:
    """Print the values for the shop's settings."""
    project = store_of(app).project()
    with app.test_request_context(base_url=here):
        project_url = url_for("api.create_invoice", project_id=project.id, _external=True)
    click.echo("Sandbox gateway: no real money moves.")
    click.echo(f"  Project URL   {project_url}")
    click.echo(f"  API key       {project.api_key}")
    click.echo("  Payment pages {0.scheme}://{0.netloc}".format(urlsplit(app.config["PUBLIC_URL"])))
    click.echo(f"  Callback URL  {project.callback_url or '(none: callbacks are off)'}")
    click.echo(f"  Account       {here}/")
    click.echo("Press Ctrl-C to stop.")


if __name__ == "__main__":
    cli(prog_name="python -m sandbox")
