"""The shop's commands: `flask --app app …`."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from copy import copy
from datetime import datetime
from pathlib import Path
from threading import BoundedSemaphore
from typing import BinaryIO

import click
from flask import Flask, current_app
from flask_migrate import upgrade
from sqlalchemy.exc import SQLAlchemyError

from shop import privacy, reconcile, spreadsheets, worker
from shop.config import SettingError, current_settings, settings
from shop.db import sqlite_file, write
from shop.gateway import THREADS
from shop.money import to_decimal
from shop.ops import audit, backup, doctor, doctor_record, health, restore, sample, server
from shop.ops.cli_staff import staff
from shop.ops.errors import plain_errors
from shop.order_lists import OrderList
from shop.security import NOT_SHOWN, repeats_a_secret
from shop.writer_lock import OtherMachine

log = logging.getLogger(__name__)
END_SECONDS = 30
RESTART_SECONDS = 3  # between two starts of the worker, so that one that can't start doesn't use up the processor
OWNER_ONLY = 0o077  # the umask with which other users of the machine can't read new files: orders, e-mails
DAY = click.DateTime(["%Y-%m-%d"])
FILE = click.Path(path_type=Path)
LINES_SHOWN = 10


def register(app: Flask) -> None:
    """Add the commands."""
    at_work = (sample_shop, serve, worker_command, doctor_command, audit_command)
    for command in (*at_work, export_orders, import_products, backup_command, restore_command, compare, forget, staff):
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
    """Whether Flask's command line loads the app only to list its commands or to find one."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, click.Group)


def _stop_with(_context: click.Context, _option: click.Parameter, parent: int | None) -> None:
    """Stop this process when the one that started it has stopped, however that came."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent is not None:
        threading.Thread(target=wait, daemon=True).start()


parent_option = click.option("--parent", type=int, hidden=True, expose_value=False, callback=_stop_with)


@click.command("sample-shop")
@click.argument("file", type=FILE, required=False)
def sample_shop(file: Path | None) -> None:
    """Upgrade the database and fill it with the sample shop, or with yours. Run again, it updates.

    FILE has categories, products and delivery methods, written as in shop/ops/sample_shop.json. Each may be [].
    """
    with plain_errors(must_exist=False):
        upgrade()
        try:
            added, updated = sample.fill(file)
        except sample.BadSample as error:
            raise click.ClickException(str(error)) from None
    click.echo(f"{file.name if file else 'Sample shop'}: {added} products added, {updated} updated.")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--threads", default=THREADS, show_default=True, type=click.IntRange(2, 64), help="Concurrent requests.")
@click.option("--no-worker", is_flag=True, help="Start only the web server; run `flask worker` beside it.")
@parent_option
def serve(host: str, port: int, threads: int, no_worker: bool) -> None:
    """Serve the shop with its worker until SIGTERM or Ctrl-C. Requests in flight are finished."""
    os.umask(OWNER_ONLY)
    if not settings.database_url_given:
        raise click.ClickException(
            "DATABASE_URL is not set. Set it to where orders are kept, as some hosts lose their disk at each deploy: "
            "sqlite:////a/lasting/disk/shop.db, or a PostgreSQL address."
        )
    if current_app.debug:
        raise click.ClickException("Debug mode is on, which is for development only. Remove FLASK_DEBUG or --debug.")
    _check_database()
    for problem in health.unready():
        click.echo(f"Warning: {problem}.", err=True)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    app.extensions["amwal"].slots = BoundedSemaphore(threads // 2)
    click.echo(f"Serving {settings.public_url} on {host}:{port}. Press Ctrl-C to stop.")
    helper = None if no_worker else WorkerProcess(app.root_path)
    try:
        server.run(app, host, port, threads, helper.keep if helper else lambda: None)
    except OSError as error:
        raise click.ClickException(f"{host}:{port} cannot be used: {error.strerror}. Choose another --port.") from None
    finally:
        if helper:
            helper.end()


def _check_database() -> None:
    """Try the first write, which checks whether the settings fit the database. One that isn't ready yet may follow."""
    if (file := sqlite_file()) and not file.exists():  # connecting would create an empty file
        return
    try:
        with write():
            pass
    except OtherMachine as error:
        raise click.ClickException(error.text) from None
    except SQLAlchemyError:
        return


class WorkerProcess:
    """The worker beside the web server: its own process, started and stopped with the server."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.process = self._start()

    def keep(self) -> None:
        """Restart it if it has stopped: without it, no receipts are sent and no reservations end."""
        if self.process.poll() is not None and time.monotonic() > self.started + RESTART_SECONDS:
            log.error("the worker has stopped (exit code %s) and is restarted", self.process.returncode)
            self.process = self._start()

    def end(self) -> None:
        """Stop it after its current task."""
        self.process.terminate()
        try:
            self.process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:  # an unresponsive mail server; the mail is sent after the next start
            self.process.kill()
            self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self.started = time.monotonic()
        command = [sys.executable, "-m", "flask", "--app", "app", "worker", "--parent", str(os.getpid())]
        # In a session of its own: a terminal's Ctrl-C goes to the server alone, which ends it.
        return subprocess.Popen(command, cwd=self.folder, start_new_session=True)


@click.command("worker")
@parent_option
def worker_command() -> None:
    """Send e-mails, end reservations, and do the periodic chores, until SIGTERM or Ctrl-C."""
    os.umask(OWNER_ONLY)
    _check_database()
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    worker.work(stop)
    worker.sign_off()


@click.command("doctor")
@click.option(
    "--create-test-invoice",
    is_flag=True,
    help="Also try the API key at a real gateway. This creates a real invoice over the smallest whole amount. Nobody "
    "needs to pay it, but it stays listed in your account there.",
)
@doctor_record.option
def doctor_command(create_test_invoice: bool, record: Path | None) -> None:
    """Check the shop's configuration, and say how to fix what is wrong. Exit code 1 if something must be fixed."""
    levels = Counter[str]()
    for subject, finding in doctor.examine(create_test_invoice, record):
        levels[finding.level] += 1
        fix = f" How to fix: {finding.fix}." if finding.fix else ""
        click.echo(f"{finding.level:5} {subject:11} {finding.text}.{fix}")
    click.echo(f"{levels['FAIL']} failed, {levels['warn']} to look at, {levels['ok']} fine.")
    sys.exit(1 if levels["FAIL"] else 0)


@click.command("audit")
def audit_command() -> None:
    """Check that payments, orders, stock and history agree. Exit code 1 if they don't; warnings keep it at 0.

    It only reads, and can run at any time. Each line has the number of its invariant.
    """
    if (file := sqlite_file()) and not file.exists():  # connecting would create an empty file
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
@click.option(
    "--from", "since", type=DAY, metavar="2026-01-31", help="First day on which orders were placed, in SHOP_TIMEZONE."
)
@click.option("--to", "until", type=DAY, metavar="2026-01-31", help="Last day.")
@click.option("--output", type=FILE, help="A new file for spreadsheets. Without it, CSV goes to stdout.")
def export_orders(since: datetime | None, until: datetime | None, output: Path | None) -> None:
    """Export orders as CSV, oldest first. They contain customers' addresses: mind where you store them."""
    wanted = OrderList(since=since.date() if since else None, until=until.date() if until else None)
    lines = spreadsheets.export_orders(wanted.select())
    if output is None:
        with plain_errors("stdout"):
            sys.stdout.buffer.writelines(line.encode() for line in lines)  # whatever the terminal's encoding
        return
    with plain_errors(output), backup.new_file(output) as part, part.open("w", encoding="utf-8", newline="") as file:
        file.write(spreadsheets.BOM)
        with click.progressbar(lines, 1 + wanted.count_all(), "Orders") as bar:
            file.writelines(bar)


@click.command("import-products")
@click.argument("file", type=FILE)
def import_products(file: Path) -> None:
    """Create and update products from a CSV file in UTF-8, by slug: all of its rows, or none.

    Columns: slug, category (a slug), price (such as 12.50), stock (units for sale from now on), image (a path in
    static/), active (yes or no), and for each language name_en, subtitle_en, description_en, label_en, with category_en
    for the name of a new category. A new product needs category, price, image, and a name in the shop's first language.
    Otherwise an empty or missing cell leaves the value unchanged.
    """
    try:
        with plain_errors(file):
            created, updated = spreadsheets.import_products(file.read_bytes().decode())
    except UnicodeDecodeError:
        raise click.ClickException(f"{file} is not UTF-8. In Excel, save it as CSV UTF-8.") from None
    except spreadsheets.BadRows as error:
        raise click.ClickException("nothing was imported.\n" + "\n".join(error.args)) from None
    click.echo(f"Products: {created} created, {updated} updated.")


@click.command("backup")
@click.argument("file", type=FILE)
def backup_command(file: Path) -> None:
    """Copy the database to a new file, consistent as of one moment, while the shop keeps running."""
    with plain_errors(file), click.progressbar(length=1, label="Backup") as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        try:
            backup.save(file, progress)
        except backup.Failed as error:
            raise click.ClickException(f"There is no backup: {error}.") from None
    click.echo(f"{file} is complete. It contains no keys: back up .env and instance/secret_key too.")
    click.echo(
        f"To restore it: stop the shop, then run flask --app app restore {file}. It brings back nothing of what "
    )
    click.echo("happens after this moment; flask compare finds the payments.")


@click.command("restore")
@click.argument("file", type=FILE, required=False)
@click.option("--mark", is_flag=True, help="Only mark the database, which was restored by other means.")
def restore_command(file: Path | None, mark: bool) -> None:
    """Put a backup in the place of the database, and mark it as not yet compared with the gateway.

    The present SQLite database is kept beside it; a PostgreSQL database must be new and empty. Order numbers go on at
    least a thousand later. Open orders wait for confirmation, until compare has found what was paid meanwhile.
    """
    if (file is None) != mark:
        raise click.UsageError("Give the FILE of a backup, or --mark for a database that was restored by other means.")
    if file and file.exists() and not file.is_file():  # reading from a pipe would wait
        raise click.ClickException(f"{file} is not a file.")
    with plain_errors(must_exist=mark):
        if file:
            try:
                restore.refuse_while_running()
                aside = restore.restore(file)
            except backup.Failed as error:
                raise click.ClickException(f"Nothing was restored: {error}.") from None
            click.echo(f"The former database is kept as {aside}." if aside else f"{file} is restored.")
        upgrade()
        if mark or not sqlite_file():
            restore.mark_in_place()
    click.echo(
        "Now start the shop. Payments since the backup may be missing: export the list of paid invoices from your"
    )
    click.echo("Amwal account, and run flask --app app compare FILE --all COUNT.")


@click.command("compare")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--all",
    "total",
    type=click.IntRange(0),
    metavar="COUNT",
    help="The file has all paid invoices, and so many: end the comparison after a restore. Count them in your account.",
)
def compare(file: BinaryIO, total: int | None) -> None:
    """Compare the gateway's list of paid invoices with the payments here. Exit code 1 if they differ.

    FILE is any text with invoice ids in it; - reads from the terminal. For "unpaid here", look at the payment in your
    account: the order can be confirmed by hand. "Unknown here" may be of an order that was lost: ask the buyer, or
    refund it.
    """
    with plain_errors():
        ids, without = reconcile.read_ids(reconcile.decode(file.read()))
        without = [NOT_SHOWN if repeats_a_secret(current_settings(), line) else line for line in without]
        if total is None and not ids:
            raise click.ClickException(
                "There is no invoice id in it. Copy the list of paid invoices from your account."
            )
        if total not in (None, len(ids)):
            lines = "".join(f"\n  {line[:100]}" for line in without[:LINES_SHOWN])
            raise click.ClickException(
                f"Invoice ids in it: {len(ids)}, not {total}. Lines without one: {len(without)}{lines}"
            )
        found = reconcile.compare(ids)
        if total is not None:
            reconcile.end_comparison(found)
    click.echo(f"Invoice ids: {len(ids)}. Lines without one: {len(without)}.")
    for order in found.unpaid:
        amount = to_decimal(order.total, order.currency)
        paid = f"{order.number}  {order.state.value}  {amount} {order.currency}"
        click.echo(f"unpaid here   {paid}  {order.invoice and order.invoice.gateway_id}")
    for gateway_id in found.unknown:
        click.echo(f"unknown here  {gateway_id}")
    click.echo(f"{len(found.paid)} paid here, {len(found.unpaid)} unpaid here, {len(found.unknown)} unknown here.")
    if total is not None:
        click.echo("The comparison is complete. What differs is flagged, and stands in the next digest e-mail.")
    sys.exit(1 if found.unpaid or found.unknown else 0)


@click.command()
@click.argument("email")
def forget(email: str) -> None:
    """Erase a customer's contact data. Exit code 1 if some of it is still needed."""
    with plain_errors():
        cleared, left = privacy.forget(email)
    if not cleared and not left:
        raise click.ClickException("No order has this address.")
    erased = ", ".join(order.number for order in cleared) or "nothing"
    click.echo(f"Erased: {erased}. Orders, payments and tax records are kept.")
    if left:
        click.echo(f"Kept: {', '.join(f'{order.number} ({order.state.value})' for order in left)}.")
        raise click.ClickException(
            "These orders still need the address. Run this again when they are delivered or closed."
        )
    click.echo("Sent e-mails, backups, exports and logs still contain it: delete it there yourself.")
