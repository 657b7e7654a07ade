"""The shop's commands: `flask --app app …`."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from threading import BoundedSemaphore

import click
from flask import Flask, current_app
from flask_migrate import upgrade

from shop import doctor, outbox, sample, server
from shop.payments import THREADS

log = logging.getLogger(__name__)
END_SECONDS = 30
RESTART_SECONDS = 3  # at least between two starts of the worker: one that cannot start must not take the processor


def register(app: Flask) -> None:
    """Add the commands."""
    for command in (sample_shop, serve, worker, check_up):
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
@click.option(
    "--threads", default=THREADS, show_default=True, type=click.IntRange(2, 64), help="Requests at the same time."
)
@click.option("--no-worker", is_flag=True, help="Start the web server alone; run `flask worker` beside it.")
def serve(host: str, port: int, threads: int, no_worker: bool) -> None:
    """Serve the shop, with its worker, until SIGTERM or Ctrl-C. Requests in flight are finished."""
    _log_to_stderr()
    if not current_app.config["DATABASE_URL_GIVEN"]:
        raise click.ClickException(
            "DATABASE_URL is not set. Say where orders are kept, since some hosts throw their disk away at each "
            "deploy: sqlite:////a/lasting/disk/shop.db, or a PostgreSQL address."
        )
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    app.extensions["amwal"].slots = BoundedSemaphore(threads // 2)
    helper = None if no_worker else WorkerProcess(app.root_path)
    try:
        server.run(app, host, port, threads, helper.keep if helper else lambda: None)
    except OSError as error:
        raise click.ClickException(f"{host}:{port} cannot be used: {error.strerror}. Choose another --port.") from None
    finally:
        if helper:
            helper.end()


class WorkerProcess:
    """The worker beside the web server, in a process of its own. It comes and goes with the server."""

    def __init__(self, folder: str) -> None:
        """Start it."""
        self.folder = folder
        self.process = self._start()

    def keep(self) -> None:
        """Start it again if it has ended by itself: without it no receipt is sent and no reservation ends."""
        if self.process.poll() is not None and time.monotonic() > self.started + RESTART_SECONDS:
            log.error("the worker has ended by itself (%s) and is started again", self.process.returncode)
            self.process = self._start()

    def end(self) -> None:
        """Let it finish what it is at."""
        self.process.terminate()
        try:
            self.process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:  # a mail server that does not answer; the mail is sent after the next start
            self.process.kill()
            self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self.started = time.monotonic()
        command = [sys.executable, "-m", "flask", "--app", "app", "worker", "--parent", str(os.getpid())]
        return subprocess.Popen(command, cwd=self.folder)


@click.command()
@click.option("--parent", type=int, hidden=True, help="End when this process has ended.")
def worker(parent: int | None) -> None:
    """Do what is due: e-mails, reservations that ran out, the merchant's digest. Until SIGTERM or Ctrl-C."""
    _log_to_stderr()
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    if parent is not None:
        threading.Thread(target=_stop_after, args=(parent, stop), daemon=True).start()
    outbox.work(stop)


def _stop_after(parent: int, stop: threading.Event) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    stop.set()


@click.command("doctor")
@click.option(
    "--create-test-invoice",
    is_flag=True,
    help="Try the API key at a real gateway, too. That creates a real invoice over the smallest whole amount. Nobody "
    "needs to pay it, but it stays listed in your account there.",
)
def check_up(create_test_invoice: bool) -> None:
    """Check the shop's configuration, and say how to mend what is wrong. Exit code 1 if something must be mended."""
    levels = Counter[str]()
    for subject, finding in doctor.examine(create_test_invoice):
        levels[finding.level] += 1
        mend = f" How to mend: {finding.mend}." if finding.mend else ""
        click.echo(f"{finding.level:5} {subject:11} {finding.text}.{mend}")
    click.echo(f"{levels['FAIL']} failed, {levels['warn']} to look at, {levels['ok']} fine.")
    sys.exit(1 if levels["FAIL"] else 0)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
