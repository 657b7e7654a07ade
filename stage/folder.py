"""The demo's folder: databases, e-mails and logs, for one demo at a time."""

import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path

import segno

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

ROOT = Path(__file__).resolve().parent.parent
OWN_FILES = (
    *("shop.db", "shop.db-*", "shop.db.lock*", "sandbox.db", "sandbox.db-*", "mail/*.eml", "sandbox-mail/*.eml"),
    *("setup.log", "staff.log", "shop.log", "worker.log", "sandbox.log", "dashboard-password"),
)
"""What a demo writes into its folder, which may hold somebody's other files."""


class StageError(Exception):
    """The demo can't start or continue; the text says why and what to do."""


class Folder:
    """The folder, locked while a demo runs. The file `address` in it says where the last demo's shop and sandbox were.

    Stored invoices lead to these addresses.
    """

    def __init__(self, path: Path, say: Callable[[str], object]) -> None:
        """Take the folder, without touching it. Raises StageError if the database's address can't hold its name."""
        self.path = path.resolve()
        if set("?%") & set(str(self.path)):
            raise StageError(f"{self.path} has a ? or a % in its name. Choose another --folder.")
        self.say = say
        self._before = ""

    def open(self, *, fresh: bool) -> None:
        """Create and lock the folder, and move old data away if it's unusable or `fresh` is set.

        Raises:
            StageError: if another demo uses the folder, or it holds such files that no demo wrote.
        """
        address, lock = self.path / "address", self.path / "demo.lock"
        text = address.read_text(errors="replace") if address.exists() else ""
        known = re.fullmatch(r"http://[^\s/@]+:\d+ http://[^\s/@]+:\d+", text)
        self._before = text if known else ""
        if not known and not lock.exists() and (text or self._own_files()):
            raise StageError(f"{short(self.path)} holds files that no demo wrote. Choose another --folder.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        if fresh:
            self._set_aside("The demo starts without orders.")
        elif not self._can_be_upgraded():
            self._set_aside("The database belongs to another version of the shop, so the demo starts without orders.")

    def use_addresses(self, shop: str, sandbox: str) -> None:
        """Lead the unpaid orders of the last demo to these addresses. The shop must not run yet.

        Only the invoices hold addresses: in the shop's database the link to the payment page and its QR code, in the
        sandbox's the links back.

        Raises:
            StageError: if a database can't be written.
        """
        if self._before and self._before != f"{shop} {sandbox}":
            old_shop, old_sandbox = self._before.split()
            try:
                self._rewrite_links_back(f"{old_shop}/", f"{shop}/")
                rewritten = self._rewrite_payment_links(f"{old_sandbox}/", f"{sandbox}/")
            except sqlite3.Error as error:
                raise StageError(
                    f"the orders of the last demo cannot be led to its new address ({error}). "
                    "Start with --fresh to set them aside."
                ) from None
            self.say(
                "The address has changed since the last demo. "
                f"Unpaid orders ({rewritten}) now lead to the new one; older e-mails still have the old one."
            )
        part = self.path / "address.part"  # renamed when complete
        part.write_text(f"{shop} {sandbox}")
        part.replace(self.path / "address")

    def close(self) -> None:
        """Unlock the folder."""
        if hasattr(self, "_lock_file"):
            self._lock_file.close()

    # --- helpers ---

    def _lock(self) -> None:
        """Lock the folder until this process ends, however it ends."""
        self._lock_file = (self.path / "demo.lock").open("a+")
        try:
            if sys.platform == "win32":
                msvcrt.locking(self._lock_file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.seek(0)
            process = self._lock_file.read().strip()
            self._lock_file.close()
            raise StageError(
                f"a demo is running in {short(self.path)} already: process {process or 'unknown'}"
                f"{', at ' + self._before.split()[0] if self._before else ''}. Stop it, or choose another --folder."
            ) from None
        self._lock_file.truncate(0)
        self._lock_file.write(str(os.getpid()))
        self._lock_file.flush()

    def _set_aside(self, why: str) -> None:
        """Move the last demo's databases, e-mails and logs to a folder next to this one."""
        self._before = ""
        aside = self.path.with_name(f"{self.path.name}-{time.strftime('%Y-%m-%d-%H%M%S')}")
        while aside.exists():
            aside = aside.with_name(f"{aside.name}-again")
        own = self._own_files()
        for path in own:
            target = aside / path.relative_to(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        if own:
            self.say(f"{why} The last demo's data is in {short(aside)}.")

    def _own_files(self) -> list[Path]:
        return [path for pattern in OWN_FILES for path in self.path.glob(pattern)]

    def _can_be_upgraded(self) -> bool:
        """Return whether the database is empty or has a known migration revision."""
        try:
            with closing(sqlite3.connect(f"{(self.path / 'shop.db').as_uri()}?mode=ro", uri=True)) as database:
                found = {revision for (revision,) in database.execute("SELECT version_num FROM alembic_version")}
        except sqlite3.Error:  # no file or no tables yet
            return True
        scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "migrations/versions").glob("*.py"))
        return found <= set(re.findall(r"""^revision(?:: str)? = ["'](\w+)""", scripts, re.MULTILINE))

    def _rewrite_links_back(self, old: str, new: str) -> None:
        with closing(sqlite3.connect(self.path / "sandbox.db")) as database, database:
            for column in ("success_url", "cancel_url"):
                database.execute(
                    f"UPDATE invoices SET {column} = ? || substr({column}, ?)"  # noqa: S608  (one of two names)
                    f" WHERE paid_at IS NULL AND instr({column}, ?) = 1",
                    (new, len(old) + 1, old),
                )

    def _rewrite_payment_links(self, old: str, new: str) -> int:
        """Return how many unpaid orders had the old address."""
        query = (
            "SELECT invoice.id, url FROM invoice JOIN orders ON orders.id = order_id"
            " WHERE state IN ('awaiting_payment', 'expired') AND instr(url, ?) = 1"
        )
        with closing(sqlite3.connect(self.path / "shop.db")) as database, database:
            unpaid = database.execute(query, (old,)).fetchall()
            for invoice, url in unpaid:
                rewritten, picture = new + url.removeprefix(old), BytesIO()
                segno.make(rewritten, error="m", micro=False).save(picture, kind="png", scale=8, border=4)
                values = (rewritten, picture.getvalue(), invoice)
                database.execute("UPDATE invoice SET url = ?, qr = ? WHERE id = ?", values)
        return len(unpaid)


def short(path: Path) -> str:
    """Return a path, relative to the checkout if it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
