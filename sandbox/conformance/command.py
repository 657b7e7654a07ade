"""The command `conformance`."""

import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from shlex import quote
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import click
import requests
from waitress.server import create_server

from sandbox.app import create_app
from sandbox.conformance import report
from sandbox.conformance import run as run_module
from sandbox.conformance.judges import ALL, logged
from sandbox.conformance.run import SHOP_LOG, Result, Run, Verdict
from sandbox.conformance.shops import AnyShop, Dukkan, Shop, ShopError
from sandbox.delivery import browser, certificate_error
from sandbox.server import LARGEST_READ, address, listen, web_address
from sandbox.trouble import replies
from sandbox.web import store

ENDINGS = ("", "-wal", "-shm", "-journal")
"""Of the files of an SQLite database."""
START_SECONDS = 15 * 60
"""How long to wait for a shop, which somebody may start by hand."""
DUKKAN = "conformance-shop.db"
"""The database of a Dukkan, in the run's folder."""
NAIVE = Path(__file__).parents[2] / "examples" / "naive" / "naive_shop.py"
given = click.Path(exists=True, dir_okay=False, path_type=Path)


def _command(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Check an option: a command line."""
    try:
        if not value or shlex.split(value):
            return value
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error
    raise click.BadParameter("must be a command.")


def _to_write(_context: click.Context, _option: click.Parameter, value: Path | None) -> Path | None:
    """Check an option: a file in a folder that there is, or nothing."""
    if value and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.absolute().parent}.")
    return value


command = partial(click.option, metavar="CMD", default="", callback=_command)
to_write = partial(click.option, type=click.Path(dir_okay=False, writable=True, path_type=Path), callback=_to_write)


@click.command()
@click.option("--listen", "port", default=8001, type=click.IntRange(1, 65535), help="Port for the gateway [8001].")
@click.option("--callback-url", callback=web_address, help="Your shop's address for callbacks.")
@command("--start", help="Command that starts your shop; the settings are in its environment.")
@click.option("--dukkan", is_flag=True, help="Your shop is a Dukkan or a fork: place orders through its forms.")
@command("--place", help="Command that places an order and prints its page's address.")
@command("--cancel", help="Command that cancels an order, given its page's address.")
@command("--retry", help="Command that asks for an order's invoice again, given its page's address.")
@command("--payments", help="Command that prints how many payments are stored.")
@command("--deliveries", help="Command that prints how many deliveries were started.")
@click.option("--paid-text", default="", help="Text that only the page of a paid order shows.")
@click.option("--retry-text", default="try again", help="Text that offers another try [try again].")
@click.option("--late", type=click.IntRange(0, 100_000), help="Minutes that your shop reserves goods; 0 for ever.")
@click.option("--ca", type=given, help="Certificate of your own authority, if your shop's is from there (PEM).")
@to_write("--junit", help="JUnit XML file to write.")
@to_write("--html", help="Page with the results to write.")
@to_write("--badge", help="SVG to write, plainly self-issued.")
@click.option("--folder", default="instance/conformance", type=click.Path(path_type=Path), help="Data of the run.")
@click.option("--fresh", is_flag=True, help="Start over, with a new project and API key.")
@click.option("--self-test", is_flag=True, help="Run a shop with known faults, to see each of them found.")
def conformance(**options: Any) -> None:
    """Act as the gateway of a running shop, and check every case.

    An interrupted run resumes when it is started again. The exit code is 1 if a case failed.
    """
    if options["dukkan"] and options["place"]:
        raise click.UsageError("Give either --dukkan or --place.")
    if options["self_test"]:
        options |= _self_test(options["folder"].with_name(f"{options['folder'].name}-self-test"))
    if not (options["dukkan"] or options["place"]):
        raise click.UsageError("Give --place, or --dukkan for a Dukkan or a fork.")
    if not options["callback_url"]:
        raise click.UsageError("Missing option '--callback-url'.")
    for name in ("SIGTERM", "SIGHUP"):  # so that a shop that was started here is stopped
        with suppress(AttributeError):
            signal.signal(getattr(signal, name), lambda *_: sys.exit(1))
    try:
        with ExitStack() as stack:
            results = _run(stack, **options)
    except (sqlite3.Error, OSError) as error:
        raise click.ClickException(f"{error}. When that is mended, run this again: it goes on.") from error
    if options["self_test"]:
        _compare_with_announced(results)
    failed = any(result.verdict is Verdict.FAILED for result in results)
    sys.exit(failed or all(result.verdict is Verdict.NOT_RUN for result in results))


def _run(stack: ExitStack, *, port: int, callback_url: str, folder: Path, **options: Any) -> list[Result]:
    """Serve the gateway, run all cases that are left, and report."""
    os.umask(0o077)  # the folder holds keys and secrets
    database, kept, here = folder / "sandbox.sqlite3", folder / "results.json", address("127.0.0.1", port)
    listener = listen("127.0.0.1", port, "--listen")
    if options["start"] and _answers(callback_url, options["ca"]):
        said = f"Something answers at {callback_url} already, perhaps the shop of a run that was killed."
        raise click.ClickException(f"{said} Stop it first.")
    try:
        stack.enter_context(_locked(folder))
        old = [folder / SHOP_LOG]  # another run's: it may have secrets that this run doesn't know of
        if options["fresh"]:
            old += [kept, *(folder / f"sandbox.sqlite3{ending}" for ending in ENDINGS)]
        if options["start"] and (options["fresh"] or not kept.exists()):
            # A Dukkan would refuse a network that left many orders unpaid.
            old += [folder / f"{DUKKAN}{ending}" for ending in ENDINGS]
        for file in old:
            file.unlink(missing_ok=True)
        app = create_app(database=database, callback_url=callback_url, public_url=here, ca=options["ca"])
    except (sqlite3.Error, OSError) as error:
        raise click.ClickException(f"Can't use the folder {folder}: {error}. --fresh starts over.") from error
    server = create_server(app, sockets=[listener], threads=16, ident="sandbox", max_request_body_size=LARGEST_READ)
    threading.Thread(target=server.run, daemon=True).start()
    stack.enter_context(app.app_context())
    late = options["late"] if options["late"] is not None or not options["dukkan"] else 1
    settings, process = _settings(here, callback_url, folder if options["dukkan"] else None, late), None
    os.environ |= settings  # for all commands
    as_lines = "\n".join(f"  {name}={value}" for name, value in settings.items())
    if options["start"]:
        process = stack.enter_context(_started(options["start"], folder / SHOP_LOG))
    else:
        click.echo("Start your shop with these settings (named as in Dukkan), and keep it running:")
        click.echo(as_lines)
    _wait_for(callback_url, options["ca"], process, folder)
    shop = _shop(settings["PUBLIC_URL"], **options, folder=folder)
    run = Run(shop, callback_url=callback_url, late_minutes=late, folder=folder, ca=options["ca"])
    results = _do(run, process)
    if any(result.verdict is Verdict.FAILED for result in results):
        serve = click.get_current_context().command_path.replace("conformance", "serve")
        click.echo("To repeat a failed case, start the shop with these settings, and the gateway:")
        click.echo(as_lines)
        click.echo(f"  {serve} --port {port} --database {quote(str(database))} --callback-url {quote(callback_url)}")
    if options["junit"]:
        report.write_junit(options["junit"], results)
    if options["html"]:
        report.write_page(options["html"], results, "conformance.html")
    if options["badge"]:
        report.write_page(options["badge"], results, "badge.svg")
    kept.unlink(missing_ok=True)  # complete: the next run starts over
    return results


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, and this run out of a folder that holds anything else. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "conformance.lock"
    if not file.exists() and any(folder.iterdir()):
        raise click.ClickException(f"The folder {folder} holds other files. Give a new one with --folder.")
    with closing(sqlite3.connect(file, timeout=0)) as lock:  # the system unlocks it if this is killed
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            said = f"Another run uses the folder {folder} ({error}). Give another with --folder."
            raise click.ClickException(said) from error
        yield


def _settings(here: str, callback_url: str, dukkan: Path | None, late: int | None) -> dict[str, str]:
    """Return the settings for the shop; for a Dukkan those of a database in this folder, too."""
    project = store().project()
    settings = {
        "AMWAL_PROJECT_URL": f"{here}/projects/{project.id}",
        "AMWAL_API_KEY": project.api_key,
        "AMWAL_PAYMENT_ORIGINS": here,
        "PUBLIC_URL": "{0.scheme}://{0.netloc}".format(urlsplit(callback_url)),
    }
    if dukkan:
        settings["DATABASE_URL"] = f"sqlite:///{dukkan.resolve() / DUKKAN}"
        settings |= {"RESERVATION_MINUTES": str(late)} if late else {}
    return settings


def _shop(origin: str, *, folder: Path, dukkan: bool, **options: Any) -> Shop:
    if dukkan:
        return Dukkan(origin, folder / DUKKAN, options["ca"])
    names = ("place", "paid_text", "retry_text", "payments", "deliveries", "cancel", "retry", "ca")
    return AnyShop(*(options[name] for name in names))


def _do(run: Run, process: "subprocess.Popen[bytes] | None") -> list[Result]:
    """Run the cases that are left, and print and return all results."""
    started, todo = monotonic(), [case for name, case in ALL.items() if name not in run.results]
    try:
        run.count()
        if run.late_minutes and "late" not in run.results:
            run.place_late()
    except ShopError as error:
        raise click.ClickException(f"{error}.") from error
    for number, case in enumerate(todo, 1):
        if case.name == "late" and run.late_minutes:
            click.echo(f"Waiting until the reservation of {run.late_minutes:g} minutes has run out …")
        result = run.do(case)
        if process and process.poll() is not None:
            said = f"The shop has stopped in the case {case.name} (a shop must {case.must}): see {run.log}."
            raise click.ClickException(f"{said} Then run this again: it goes on.")
        run.keep(result)
        click.echo(f"[{number:2}/{len(todo)}] {report.line(result)}")
    run.count()
    if run.came_later and all(result.verdict is not Verdict.FAILED for result in run.results.values()):
        run.results["duplicate"] = Result("duplicate", Verdict.FAILED, "; ".join(run.came_later), "run this again")
    if leak := logged(run):
        run.results["secret"] = leak
    results = [run.results[name] for name in ALL]
    click.echo(f"\n{report.table(results)}, in {monotonic() - started:.0f} s")
    return results


def _self_test(folder: Path) -> dict[str, Any]:
    """Return the options for a run of the naive shop."""
    if not NAIVE.exists():
        raise click.ClickException("The shop with known faults is in Dukkan's repository: run this there.")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        gateway, port = one.getsockname()[1], other.getsockname()[1]
    here, database = f"http://127.0.0.1:{port}", folder / "naive.db"
    database.unlink(missing_ok=True)
    os.environ["DATABASE"] = str(database.resolve())
    python = f"{sys.executable} -c"
    query = "print(*sqlite3.connect(os.environ['DATABASE']).execute('SELECT count(*) FROM {}').fetchone())"
    count = f'{python} "import os, sqlite3; {query}"'
    replies.DRIP_SECONDS, run_module.PAID_SECONDS = 8, 1  # enough to see what is wrong there
    run_module.LINGER_SECONDS, run_module.BACKGROUND_SECONDS = 0, 1
    return {
        "port": gateway,
        "callback_url": f"{here}/amwal/callback",
        "start": f"{sys.executable} -m flask --app {NAIVE} run --port {port}",
        "place": f"{python} \"from urllib.request import urlopen; print(urlopen('{here}/orders', b'').url)\"",
        "cancel": f"{python} \"import sys; from urllib.request import urlopen; urlopen(sys.argv[1] + '/cancel', b'')\"",
        "payments": count.format("payments"),
        "deliveries": count.format("deliveries"),
        "paid_text": "Paid. Thank you",
        "late": 0,
        "folder": folder,
        "fresh": True,
    }


def _compare_with_announced(results: list[Result]) -> None:
    """End with an error unless the failed cases are those that the naive shop's comments name."""
    announced = {
        name
        for names in re.findall(r"wrong: .*\(([a-z0-9, -]+)\)$", NAIVE.read_text(), re.MULTILINE)
        for name in names.split(", ")
    }
    failed = {result.name for result in results if result.verdict is Verdict.FAILED}
    click.echo(f"The comments of {NAIVE.name} announce {len(announced)} failed cases; {len(failed)} failed.")
    if failed != announced:
        wrong = f"Not found: {sorted(announced - failed)}. Not announced: {sorted(failed - announced)}."
        raise click.ClickException(wrong)
    sys.exit(0)


@contextmanager
def _started(command: str, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a shop, and stop it at the end."""
    with log.open("wb") as output:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}  # the log is read
        try:
            process = subprocess.Popen(
                shlex.split(command), stdout=output, stderr=output, env=environment, start_new_session=True
            )
        except OSError as error:
            raise click.ClickException(f"Can't start the shop: {error}.") from error
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):  # the latter for what has outlived the first process
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(10)


def _wait_for(callback_url: str, ca: Path | None, process: "subprocess.Popen[bytes] | None", folder: Path) -> None:
    """Wait until the shop answers, or end with an error."""
    until = monotonic() + START_SECONDS
    click.echo(f"Waiting for the shop at {callback_url} …")
    while not _answers(callback_url, ca):
        if process and process.poll() is not None:
            raise click.ClickException(f"The shop has stopped: see {folder / SHOP_LOG}.")
        if monotonic() > until:
            raise click.ClickException("The shop did not start. Start it, and run this again.")
        sleep(0.2)


def _answers(url: str, ca: Path | None) -> bool:
    """Return whether a server answers at this address, whatever it says."""
    try:
        with browser(ca) as session:
            session.get(url, timeout=5, allow_redirects=False)
    except requests.exceptions.SSLError as error:
        raise click.ClickException(f"The shop's certificate: {certificate_error(error)}.") from error
    except requests.RequestException:
        return False
    return True
