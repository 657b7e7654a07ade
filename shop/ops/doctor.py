"""`flask --app app doctor`: checks a shop's configuration, and says how to fix what is wrong.

`CHECKS`, at the end, has the checks in their order. They leave traces: the test callback stays in the inbox, the test
invoice in the log of calls and in the gateway's account. Messages of other programs (gateway, mail server, database)
could contain a secret: they are only shown by `Case.quote`. What the gateway sees is in `doctor_gateway`.
"""

import re
import smtplib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from flask import current_app
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from models import DeliveryMethod, Heartbeat, now
from shop import gateway
from shop.config import current_settings, settings
from shop.db import db, engine, sqlite_file, sqlite_library
from shop.mail import mail_server
from shop.ops import health, server
from shop.ops.doctor_gateway import check_api_key, check_callback, check_clock, check_gateway, check_public_url
from shop.ops.probe import Case, Finding, ask, file_system, is_local

SMTP_TIMEOUT = 6.0  # seconds for each step
THROW_AWAY = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs", "overlay", "aufs"})
"""File systems that last as long as the power or the container."""
LOCAL = re.compile("ext[234]|xfs|btrfs|zfs|f2fs|jfs|reiserfs|bcachefs|apfs|hfs|ufs|ntfs3?|vfat|exfat")
NETWORK = re.compile("nfs4?|cifs|smb\\w+|ceph|glusterfs|lustre|afs|gfs2|ocfs2|gpfs|beegfs|orangefs")
"""File systems of this machine alone, and of several. SQLite's write-ahead log needs one of this machine alone."""


def check_settings(case: Case) -> Iterator[Finding]:
    """Settings with which a shop starts, but shouldn't sell. (Missing and malformed ones stop the start.)"""
    yield Finding("ok", "all are read, and none is missing or misspelt")
    if find_spec("dotenv"):
        text = "python-dotenv is installed: with it, Flask reads any .env from the working directory up"
        yield Finding("warn", text, "uninstall it; the shop reads its .env by itself")
    if not case.settings.merchant_email:
        text = "MERCHANT_EMAIL is empty: nobody is told when a payment needs a decision"
        yield Finding("warn", text, "set it to your e-mail address")
    if not case.settings.shop_contact:
        text = "SHOP_CONTACT is empty: customers cannot reach you"
        yield Finding("warn", text, "set it to an e-mail address or a phone number")
    if case.settings.public_url.startswith("https:") and not case.settings.trusted_proxies:
        text = "TRUSTED_PROXIES is 0: if a proxy does the https, all customers share its address, and so the limit of "
        text += "unpaid orders for each address"
        yield Finding("warn", text, "set it to the number of proxies that stand before the shop")
    could_be_sandbox = not case.gateway.status and is_local(case.settings.amwal_project_url)
    if case.settings.demo and (case.is_sandbox or could_be_sandbox):
        yield Finding("warn", "DEMO is on, for demonstrations only", "set DEMO=off before you sell anything")
    elif case.settings.demo:
        fix = "set DEMO=off, or AMWAL_PROJECT_URL to the sandbox's"
        yield Finding("FAIL", "DEMO is on, but the gateway is not the sandbox", fix)


def check_database(case: Case) -> Iterator[Finding]:
    """Whether it answers and can be written to: the writing engine takes and releases the lock."""
    file = sqlite_file()
    try:
        if file and not file.exists():  # connecting would leave an empty file behind
            raise FileNotFoundError(f"there is no file {file}")
        with engine().connect() as connection:
            said = connection.exec_driver_sql("PRAGMA journal_mode" if file else "SHOW server_version").scalar_one()
    except (SQLAlchemyError, OSError) as error:
        server = "check user, password, host and port in DATABASE_URL, and that the server runs"
        fix = "run flask --app app db upgrade if the shop is new; else correct DATABASE_URL, or who may write there"
        yield Finding("FAIL", f"no answer ({case.quote(error)})", fix if file else server)
        return
    if found := _other_currency(case):
        yield found
    version = f"SQLite {sqlite_library().sqlite_version}" if file else f"PostgreSQL {said}"
    if file and said != "wal":
        fix = "use pysqlite3 or a Python with SQLite 3.51.3 or newer, and a local disk; or PostgreSQL"
        yield Finding("warn", f"{version} with {said} journal: readers and the writer block each other", fix)
    else:
        yield Finding("ok", version + (" with write-ahead log: readers don't block the writer" if file else ""))


def _other_currency(case: Case) -> Finding | None:
    with suppress(SQLAlchemyError), engine().connect() as connection:
        priced = "EXISTS (SELECT 1 FROM product) OR EXISTS (SELECT 1 FROM orders)"
        stored = connection.exec_driver_sql(f"SELECT currency FROM shop WHERE {priced}").scalar()  # noqa: S608
        if stored and stored != case.settings.shop_currency:
            text = f"its prices are in {stored}, and SHOP_CURRENCY is {case.settings.shop_currency}"
            return Finding("FAIL", text, f"set SHOP_CURRENCY={stored}")
    return None


def check_disk(case: Case) -> Iterator[Finding]:
    """Whether orders survive a restart and the next deploy, as far as this can be seen."""
    file, mounts = sqlite_file(), Path("/proc/mounts")
    kind = file_system(file.resolve(), mounts.read_text(errors="replace")) if file and mounts.exists() else ""
    fix = "set DATABASE_URL to a file on a lasting disk, or to PostgreSQL"
    if not case.settings.database_url_given:
        yield Finding("warn", "orders are kept in instance/, which some hosts throw away at each deploy", fix)
    if kind in THROW_AWAY:
        yield Finding("warn", f"{file} lies on {kind}, which is thrown away at a restart or deploy", fix)
    elif kind and not LOCAL.fullmatch(kind):
        text = f"{file} lies on {kind}, and SQLite's write-ahead log needs a local disk"
        yield Finding(
            "FAIL" if NETWORK.fullmatch(kind) else "warn",
            text,
            "set DATABASE_URL to a file on a local disk, or to PostgreSQL",
        )
    elif kind:
        yield Finding("ok", f"the database lies on {kind}")
    else:
        why = "this system does not list its disks" if file else "PostgreSQL has its own"
        yield Finding("skip", f"not checked: {why}")


def check_connections(_case: Case) -> Iterator[Finding]:
    """Whether `flask serve` can have all of its connections, if it is started as this command was."""
    files = server.raise_file_limit()
    limit = server.connection_limit(files, gateway.THREADS)
    if limit >= server.CONNECTIONS:
        yield Finding("ok", f"flask serve can have {limit} at once")
    else:
        fix = "raise the limit, by ulimit -n 4096, or LimitNOFILE=4096 for systemd"
        yield Finding("warn", f"flask serve can have only {limit} at once: the limit of open files is {files}", fix)


def check_migrations(_case: Case) -> Iterator[Finding]:
    """Whether the database has the revision that this version expects."""
    current, newest = health.current_revision(), health.newest_revision()
    if current == newest:
        yield Finding("ok", f"at the newest, {newest}")
    elif health.is_outdated(current):
        text = f"the database is at {current or 'none'}, the program at {newest}"
        yield Finding("FAIL", text, "run flask --app app db upgrade")
    else:
        text = f"the database is at {current}, which this version doesn't know: a later one has upgraded it"
        yield Finding("warn", text, "start that version; this one goes on until you do")


def check_worker(_case: Case) -> Iterator[Finding]:
    """Whether a worker is running: it sends the e-mails and ends reservations."""
    beat = db.session.scalar(select(Heartbeat.at).filter_by(name="worker"))
    if health.worker_is_alive(beat):
        yield Finding("ok", "it runs")
        return
    text = f"it was last alive on {beat:%Y-%m-%d at %H:%M:%S} UTC" if beat else "it has never run"
    if beat and beat > now():
        text += ", which is in the future: a clock was wrong"
    yield Finding("FAIL", text, "start flask --app app serve, which starts one, or flask --app app worker")


def check_delivery(_case: Case) -> Iterator[Finding]:
    """Whether there is a delivery method, without which nobody can order."""
    count = db.session.scalar(select(func.count()).select_from(DeliveryMethod).filter_by(active=True)) or 0
    if count:
        yield Finding("ok", f"delivery methods to choose from: {count}")
    else:
        fix = "add one by flask --app app sample-shop FILE: see docs/make-it-yours.md"
        yield Finding("FAIL", "no delivery method is active, so nobody can order", fix)


def check_restore(_case: Case) -> Iterator[Finding]:
    """Whether a restored backup still waits for the comparison with the gateway."""
    if since := health.uncompared_since():
        fix = "run flask --app app compare FILE --all COUNT with the list of paid invoices of your Amwal account"
        yield Finding("FAIL", f"a backup was restored: payments since {since} may be missing", fix)
    else:
        yield Finding("ok", "none waits for the comparison with the gateway")


def check_mail(case: Case) -> Iterator[Finding]:
    """Whether mails can be sent. None is."""
    target = str(case.settings.mail_url)
    by_smtp = target.startswith(("smtp://", "smtps://"))
    fix = "check host and port in MAIL_URL" if by_smtp else "let MAIL_URL name a folder that can be written to"
    try:
        if by_smtp:
            with mail_server(urlsplit(target), SMTP_TIMEOUT) as server:
                server.noop()
        else:  # the folder, or the nearest existing one above it
            folder = Path(target).absolute()
            tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())).close()
    except smtplib.SMTPAuthenticationError as error:
        fix = "correct user and password in MAIL_URL (with %40 for an @ in them, for example)"
        yield Finding("FAIL", f"the login is refused ({case.quote(error)})", fix)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        yield Finding("FAIL", f"mails can't be sent ({case.quote(error)})", fix)
    else:
        if by_smtp or case.settings.demo:
            yield Finding("ok", "the mail server takes mails" if by_smtp else f"mails are put into {target}")
        else:
            fix = "set MAIL_URL to smtp://user:password@host"
            yield Finding("warn", "customers get no mail: it is put into a folder", fix)


def check_pages(_case: Case) -> Iterator[Finding]:
    """Whether the pages that a merchant must write still carry the sample's notice."""
    files = sorted(Path(current_app.root_path, "templates", "pages").glob("*.html"))
    samples = [file.name for file in files if re.search(r"sample_text\s*\(", file.read_text(encoding="utf-8"))]
    for name in samples:
        fix = f"write your own into templates/pages/{name}, and take {{{{ sample_text() }}}} out"
        yield Finding("warn", f"{name.removesuffix('.html')} is still the sample's text", fix)
    if not samples:
        yield Finding("ok", "none is the sample's any more")


# --- All of them -----------------------------------------------------------------------------------------------------

CHECKS: dict[str, tuple[Callable[[Case], Iterator[Finding]], set[str]]] = {
    "settings": (check_settings, set()),
    "database": (check_database, set()),
    "disk": (check_disk, set()),
    "connections": (check_connections, set()),
    "migrations": (check_migrations, {"database"}),
    "worker": (check_worker, {"migrations"}),
    "delivery": (check_delivery, {"migrations"}),
    "restore": (check_restore, {"migrations"}),
    "gateway": (check_gateway, set()),
    "clock": (check_clock, {"gateway"}),
    "API key": (check_api_key, {"gateway"}),
    "PUBLIC_URL": (check_public_url, set()),
    "callback": (check_callback, {"PUBLIC_URL", "migrations"}),
    "mail": (check_mail, set()),
    "pages": (check_pages, set()),
}
"""The checks by subject, each with the subjects that must not have failed before."""


def examine(create_test_invoice: bool, record: Path | None = None) -> Iterator[tuple[str, Finding]]:
    """Run all checks, and yield each finding with its subject at once.

    Args:
        create_test_invoice: create an invoice even if the gateway isn't the sandbox.
        record: a new file for the shape of its reply.
    """
    project = settings.amwal_project_url
    gateway = ask("GET", urljoin(project, "/healthz" if is_local(project) else "/"))
    case, failed = Case(current_settings(), gateway, create_test_invoice, record), set[str]()
    for subject, (check, needed) in CHECKS.items():
        if lacking := sorted(needed & failed):
            failed.add(subject)
            yield subject, Finding("skip", f"not checked: fix {lacking[0]} first")
            continue
        try:
            for finding in check(case):
                if finding.level == "FAIL":
                    failed.add(subject)
                yield subject, finding
        except Exception as error:  # an error in one check must not hide the findings of the others
            failed.add(subject)
            text = f"could not be checked ({type(error).__name__}: {case.quote(error)})"
            yield subject, Finding("FAIL", text, "fix what else failed; if nothing did, report this line")
