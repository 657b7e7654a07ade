"""The shop's commands: `flask --app app …`."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from pathlib import Path
from threading import BoundedSemaphore

import click
from flask import Flask, current_app
from flask_migrate import upgrade
from sqlalchemy.exc import SQLAlchemyError

from shop import privacy, spreadsheets, worker
from shop.config import SettingError, settings
from shop.gateway import THREADS
from shop.ops import audit, backup, doctor, logs, sample, server

log = logging.getLogger(__name__)
END_SECONDS = 30
RESTART_SECONDS = 3  # at least between two starts of the worker: one that cannot start must not take the processor
DAY = click.DateTime(["%Y-%m-%d"])
FILE = click.Path(path_type=Path)


def register(app: Flask) -> None:
    """Add the commands."""
    at_work = (sample_shop, serve, worker_command, doctor_command, audit_command)
    for command in (*at_work, export_orders, import_products, backup_command, forget):
        app.cli.add_command(command)


def refuse(app: Flask, error: SettingError) -> None:
    """Let every command show its help, and stop with this error when run."""
    app.cli.commands = {name: _refusing(command, error) for name, command in app.cli.commands.items()}


def _refusing(command: click.Command, error: SettingError) -> click.Command:
    def stop(**_: object) -> None:
        raise error

    refusing = copy(command)
    if isinstance(refusing, click.Group):
        refusing.commands = {name: _refusing(one, error) for name, one in refusing.commands.items()}
    else:
        refusing.callback = stop
    return refusing


def is_looking_for_commands() -> bool:
    """Whether Flask's command line loads the app to list its commands, or to find one, rather than to run it."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, click.Group)


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
    logs.to_stderr()
    if not settings.database_url_given:
        raise click.ClickException(
            "DATABASE_URL is not set. Say where orders are kept, since some hosts throw their disk away at each "
            "deploy: sqlite:////a/lasting/disk/shop.db, or a PostgreSQL address."
        )
    if current_app.debug:
        raise click.ClickException("Debug mode is on, which is for development. Take FLASK_DEBUG or --debug away.")
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


@click.command("worker")
@click.option("--parent", type=int, hidden=True, help="End when this process has ended.")
def worker_command(parent: int | None) -> None:
    """Do what is due: e-mails, reservations that ran out, the merchant's digest. Until SIGTERM or Ctrl-C."""
    logs.to_stderr()
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    if parent is not None:
        threading.Thread(target=_stop_after, args=(parent, stop), daemon=True).start()
    worker.work(stop)


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
def doctor_command(create_test_invoice: bool) -> None:
    """Check the shop's configuration, and say how to mend what is wrong. Exit code 1 if something must be mended."""
    levels = Counter[str]()
    for subject, finding in doctor.examine(create_test_invoice):
        levels[finding.level] += 1
        mend = f" How to mend: {finding.mend}." if finding.mend else ""
        click.echo(f"{finding.level:5} {subject:11} {finding.text}.{mend}")
    click.echo(f"{levels['FAIL']} failed, {levels['warn']} to look at, {levels['ok']} fine.")
    sys.exit(1 if levels["FAIL"] else 0)


@click.command("audit")
def audit_command() -> None:
    """Check that payments, orders, stock and history agree. Exit code 1 if they don't; warnings leave it at 0.

    It only reads, and can be run at any time. Each line has the number of the invariant that it checks.
    """
    if (file := doctor.sqlite_file()) and not file.exists():  # connecting would leave an empty file behind
        raise click.ClickException(f"There is no database {file}. See flask --app app doctor.")
    levels = Counter[str]()
    try:
        for finding in audit.run():
            levels[finding.level] += 1
            click.echo(f"{finding.level:5} {finding.check.invariant or '-':>2}  {finding}")
    except SQLAlchemyError as error:
        raise click.ClickException("The database does not answer. See flask --app app doctor.") from error
    click.echo(f"{levels['FAIL']} failed, {levels['warn']} to look at, {levels['ok']} fine.")
    sys.exit(1 if levels["FAIL"] else 0)


@click.command("export-orders")
@click.option("--from", "since", type=DAY, metavar="2026-01-31", help="The first day of placing, in SHOP_TIMEZONE.")
@click.option("--to", "until", type=DAY, metavar="2026-01-31", help="The last day.")
@click.option("--output", type=FILE, help="A new file, as spreadsheets want it. Without it CSV is written to stdout.")
def export_orders(since: datetime | None, until: datetime | None, output: Path | None) -> None:
    """Write all orders as CSV, the oldest first. They hold customers' addresses: take care where they go."""
    days = since.date() if since else None, until.date() if until else None
    lines = spreadsheets.export_orders(*days)
    if output is None:
        with _plain_errors("stdout"):
            sys.stdout.buffer.writelines(line.encode() for line in lines)  # whatever the terminal's own encoding is
        return
    with _plain_errors(output), backup.new_file(output) as part, part.open("w", encoding="utf-8", newline="") as file:
        file.write(spreadsheets.BOM)
        with click.progressbar(lines, 1 + spreadsheets.count_orders(*days), "Orders") as bar:
            file.writelines(bar)


@click.command("import-products")
@click.argument("file", type=FILE)
def import_products(file: Path) -> None:
    """Create and update products from a CSV file in UTF-8, by their slug: all of its rows, or none.

    Columns: slug, category (a slug), price (such as 12.50), stock (units for sale from now on), image (a path in
    static/), active (yes or no), and for each language name_en, subtitle_en, description_en, label_en, with category_en
    to name a category that is new. A new product needs category, price, image, and a name in the shop's first language.
    Apart from that, what is empty or left out stays as it is.
    """
    try:
        with _plain_errors(file):
            created, updated = spreadsheets.import_products(file.read_bytes().decode())
    except UnicodeDecodeError:
        raise click.ClickException(f"{file} is not UTF-8. In Excel: save as CSV UTF-8.") from None
    except spreadsheets.BadRows as error:
        raise click.ClickException("nothing was imported.\n" + "\n".join(error.args)) from None
    click.echo(f"Products: {created} created, {updated} updated.")


@click.command("backup")
@click.argument("file", type=FILE)
def backup_command(file: Path) -> None:
    """Copy the whole database to a new file, as it is at one moment, while the shop goes on."""
    with _plain_errors(file), click.progressbar(length=1, label="Backup") as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        try:
            how_to_restore = backup.save(file, progress)
        except backup.Failed as error:
            raise click.ClickException(f"There is no backup: {error}.") from None
    click.echo(f"{file} is complete. Keep .env and instance/secret_key, too: no key is in it.\n{how_to_restore}")


@click.command()
@click.argument("email")
def forget(email: str) -> None:
    """Clear the contact data of a customer. Exit code 1 if some of it had to be left."""
    with _plain_errors():
        cleared, left = privacy.forget(email)
    if not cleared and not left:
        raise click.ClickException("No order has this address.")
    click.echo(f"Cleared: {', '.join(order.number for order in cleared) or 'nothing'}. The books stay whole.")
    if left:
        click.echo(f"Left: {', '.join(f'{order.number} ({order.state.value})' for order in left)}.")
        raise click.ClickException("These still need the address. Run this again when they are delivered or over.")
    click.echo("E-mails that were sent, backups, exports and logs still hold it: those you must see to.")


@contextmanager
def _plain_errors(file: Path | str = "") -> Iterator[None]:
    """Say in one line what went wrong; and open no database that is not there, which would make an empty one."""
    if (database := doctor.sqlite_file()) and not database.exists():
        raise click.ClickException(f"There is no database {database}. See flask --app app doctor.")
    try:
        yield
    except SQLAlchemyError as error:
        raise click.ClickException("The database does not answer. See flask --app app doctor.") from error
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}.") from None
