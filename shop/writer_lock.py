"""One machine at a time writes to an SQLite database.

SQLite's own locks and its write-ahead log don't reach across machines: two that mount one folder both acknowledge
commits, of which half are lost. So a file beside the database names the machine that writes, by the id that its kernel
chose when it started. Containers of one machine share that id, and may share the database.
"""

import logging
import os
import secrets
import socket
import time
from pathlib import Path

from sqlalchemy.exc import OperationalError

log = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A lock that wasn't renewed for so long is a dead machine's. The worker's heartbeat renews it."""
LOG_SECONDS = 60.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class OtherMachine(OperationalError):
    """Another machine writes to this database. Nothing was written."""

    def __init__(self, text: str) -> None:
        super().__init__(None, None, Exception(text))
        self.text = text


class WriterLock:
    """The lock of one database, as this process holds it. Systems without a boot id (macOS, Windows) have none."""

    def __init__(self, database: Path) -> None:
        self.file = database.with_name(f"{database.name}.lock")
        self.ours = f"{BOOT_ID.read_text().strip()} {socket.gethostname()}\n" if BOOT_ID.exists() else ""
        self.renewed = self.logged = float("-inf")

    def hold(self, _connection: object = None) -> None:
        """Take or renew the lock. To be called before each write: it looks at the file every 10 seconds.

        Raises:
            OtherMachine: it is another machine's, or can't be taken.
        """
        if not self.ours or time.monotonic() < self.renewed + RENEW_SECONDS:
            return
        try:
            self._take()
        except FileExistsError:  # another process was faster: this machine's, or another's
            holder = self._read() or ""
            if _id(holder) != _id(self.ours):
                raise self._elsewhere(holder) from None
        except OSError as error:
            raise self._refusal(f"{self.file} can't be written: {error.strerror}") from error
        self.renewed = time.monotonic()

    def _take(self) -> None:
        holder = self._read()
        if holder is None:
            self._create(self.file)
        elif _id(holder) == _id(self.ours):
            os.utime(self.file)
        elif self._age(self.file) < STALE_SECONDS:
            raise self._elsewhere(holder)
        else:
            self._take_over(holder)

    def _take_over(self, stale: str) -> None:
        """Replace a dead machine's lock. Of several machines at once, the one that creates the second file does."""
        guard = self.file.with_name(f"{self.file.name}.taking-over")
        try:
            self._create(guard)
        except FileExistsError:
            if self._age(guard) > STALE_SECONDS:  # it was killed meanwhile
                guard.unlink(missing_ok=True)
            raise
        if self._read() != stale:
            guard.unlink()
            raise FileExistsError
        guard.rename(self.file)

    def _create(self, file: Path) -> None:
        number = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(number, "w") as lock:
            lock.write(self.ours)
            lock.flush()
            os.fsync(number)

    def _read(self) -> str | None:
        """Return what the file says; None if there is none. It is empty only while another process writes it."""
        said = ""
        for _ in range(10):
            try:
                said = self.file.read_text(errors="replace")
            except FileNotFoundError:
                return None
            if said:
                break
            time.sleep(0.02)
        return said

    def _age(self, file: Path) -> float:
        """Return how long ago a file was touched, in seconds, by the file system's own clock."""
        probe = self.file.with_name(f"{self.file.name}.{secrets.token_hex(8)}")
        probe.touch()
        try:
            return probe.stat().st_mtime - file.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    def _elsewhere(self, holder: str) -> OtherMachine:
        name = holder.partition(" ")[2].strip() or "another machine"
        return self._refusal(
            f"{name} writes to this database, and two machines would destroy it. Stop the shop there and wait for a "
            f"minute, or use PostgreSQL. (If it is dead for good and {self.file} stays, delete that file.)"
        )

    def _refusal(self, text: str) -> OtherMachine:
        if time.monotonic() > self.logged + LOG_SECONDS:
            self.logged = time.monotonic()
            log.error("%s", text)
        return OtherMachine(text)


def _id(holder: str) -> str:
    return holder.partition(" ")[0]
