"""The shop's commands: `flask --app app …`."""

import logging
import signal
import subprocess
import sys
import threading

import click
from flask import Flask, current_app
from flask_migrate import upgrade

from shop import outbox, sample, server


def register(app: Flask) -> None:
    """Add the commands."""
    for command in (sample_shop, serve, worker):
        app.cli.add_command(command)


@click.command("sample-shop")
def sample_shop() -> None:
    """Bring the database up to date and fill it with the sample shop "Qahwa & Co."."""
    upgrade()
    added = sample.fill()
    click.echo(f"Sample shop: {added} products added." if added else "Sample shop: everything is there already.")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--threads", default=16, show_default=True, type=click.IntRange(2, 64), help="Requests at the same time.")
@click.option("--no-worker", is_flag=True, help="Start the web server alone; run `flask worker` beside it.")
def serve(host: str, port: int, threads: int, no_worker: bool) -> None:
    """Serve the shop, with its worker, until SIGTERM or Ctrl-C. Requests in flight are finished."""
    _log_to_stderr()
    if not current_app.config["DATABASE_URL_GIVEN"]:
        raise click.ClickException(
            "DATABASE_URL is not set. Say where orders are kept, since some hosts throw their disk away at each "
            "deploy: sqlite:////a/lasting/disk/shop.db, or a PostgreSQL address."
        )
    helper = None if no_worker else subprocess.Popen([sys.executable, "-m", "flask", "--app", "app", "worker"])
    try:
        server.run(current_app._get_current_object(), host, port, threads)  # type: ignore[attr-defined]
    except OSError as error:
        raise click.ClickException(f"{host}:{port} cannot be used: {error.strerror}. Choose another --port.") from None
    finally:
        if helper is not None:
            helper.terminate()
            helper.wait(timeout=30)


@click.command()
def worker() -> None:
    """Do what is due: e-mails, reservations that ran out, the merchant's digest. Until SIGTERM or Ctrl-C."""
    _log_to_stderr()
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    outbox.work(stop)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
