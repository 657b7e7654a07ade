"""One demonstration: three programs, one folder, one address."""

import os
import re
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from stage.network import LOOPBACK, free_port, lan_address

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60
END_SECONDS = 20
WATCH_SECONDS = 1.0
SPEED = 60
"""How much faster than documented the sandbox repeats a failed callback: its three days pass in 72 minutes."""


class StageError(Exception):
    """The demonstration cannot go on; the text says why and what to do."""


class Demo:
    """Shop, worker and sandbox gateway, run as separate programs just as in production."""

    def __init__(self, folder: Path, port: int, *, local: bool, say: Callable[[str], object]) -> None:
        """Choose the address; nothing is started yet."""
        self.folder = folder.resolve()
        self.say = say
        self.local = local
        self.host = LOOPBACK if local else lan_address()
        self.shop_port = self._port(port)
        self.sandbox_port = self._port(max(port + 1, self.shop_port + 1))
        self.shop_url = f"http://{self.host}:{self.shop_port}"
        self.sandbox_url = f"http://{self.host}:{self.sandbox_port}"
        self.programs: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *, fresh: bool, stop: threading.Event) -> None:
        """Start everything and say where it is. Returns early if all is to stop.

        Raises:
            StageError: if a program does not come up.
        """
        self._prepare_folder(fresh=fresh)
        api_key = f"demo-{secrets.token_hex(16)}"
        self._run("sandbox", self._sandbox_command(api_key), {})
        project_url = self._wait_for_project_url(stop)
        if stop.is_set():
            return
        settings = self._shop_settings(project_url, api_key)
        flask = [sys.executable, "-m", "flask", "--app", "app"]
        self._run("setup", [*flask, "sample-shop"], settings)
        if self.programs.pop("setup").wait() and not stop.is_set():
            raise StageError(f"the sample shop could not be set up. {self._last_words('setup')}")
        if stop.is_set():
            return
        listen = LOOPBACK if self.local else "0.0.0.0"  # noqa: S104  (phones are to reach it)
        self._run("shop", [*flask, "serve", "--no-worker", "--host", listen, "--port", str(self.shop_port)], settings)
        self._run("worker", [*flask, "worker"], settings)
        self._wait_until_ready(stop)
        if not stop.is_set():
            self._say_where()

    def watch(self, stop: threading.Event) -> None:
        """Wait for the end; say so when a program ends by itself or this machine's address changes.

        Raises:
            StageError: if a program ended.
        """
        told = self.host
        while not stop.wait(WATCH_SECONDS):
            for name, program in self.programs.items():
                if program.poll() is not None:
                    raise StageError(f"the {name} has ended by itself. {self._last_words(name)}")
            address = self.host if self.local else lan_address()
            if address != told:
                told = address
                self.say(
                    f"\nThis machine's address is {address} now; the QR codes lead to {self.host}."
                    + ("" if address == self.host else " Press Ctrl-C and start again to use the new one.")
                )

    def end(self) -> None:
        """End the programs. Each finishes what it is at; one that does not is killed."""
        running = [program for program in reversed(self.programs.values()) if program.poll() is None]
        if running:
            self.say("\nClosing …")
        for program in running:
            program.terminate()
        until = time.monotonic() + END_SECONDS
        for program in running:
            try:
                program.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    # --- the pieces ---

    def _port(self, wanted: int) -> int:
        try:
            port = free_port(self.host, wanted)
        except OSError as error:
            raise StageError(f"{error}: end what uses them, or choose others with --port.") from None
        if port != wanted:
            self.say(f"Port {wanted} is in use, so {port} is taken.")
        return port

    def _prepare_folder(self, *, fresh: bool) -> None:
        """Start afresh where the address has changed: stored QR codes would lead to the old one.

        Raises:
            StageError: if another demonstration is using the folder.
        """
        address = self.folder / "address"
        before = address.read_text() if address.exists() else ""
        # Two demonstrations would delete each other's databases.
        if before and self._answers(f"http://{LOOPBACK}:{before.split()[0].rpartition(':')[2]}/healthz"):
            raise StageError(
                f"a demo seems to be running already, at {before.split()[0]}. End it first, or choose another --folder."
            )
        here = f"{self.shop_url} {self.sandbox_url}"
        if before and before != here:
            self._set_aside("The address has changed since the last time, so the demo starts with an empty order book.")
        elif fresh:
            self._set_aside("The demo starts with an empty order book.")
        elif not self._can_be_upgraded():
            self._set_aside("The database is of another version of the shop, so the demo starts with an empty one.")
        self.folder.mkdir(parents=True, exist_ok=True)
        address.write_text(here)

    def _set_aside(self, why: str) -> None:
        """Move databases, mails and logs of the last demonstration to a folder beside this one, and say so."""
        aside = self.folder.with_name(f"{self.folder.name}-{time.strftime('%Y-%m-%d-%H%M%S')}")
        # Our own files only: the folder may hold somebody's others.
        own = [path for pattern in ("*.db*", "*mail/*.eml", "*.log") for path in self.folder.glob(pattern)]
        for path in own:
            target = aside / path.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        if own:
            self.say(f"{why} The last one is kept in {self._named(aside)}.")

    def _can_be_upgraded(self) -> bool:
        """Whether the database is empty, or of a revision that the migrations know."""
        try:
            with closing(sqlite3.connect(f"file:{self.folder / 'shop.db'}?mode=ro", uri=True)) as database:
                found = {revision for (revision,) in database.execute("SELECT version_num FROM alembic_version")}
        except sqlite3.Error:  # there is none, or it has no tables yet
            return True
        scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "migrations/versions").glob("*.py"))
        return found <= set(re.findall(r"""^revision(?:: str)? = ["'](\w+)""", scripts, re.MULTILINE))

    def _sandbox_command(self, api_key: str) -> list[str]:
        listen = LOOPBACK if self.local else "0.0.0.0"  # noqa: S104  (phones pay there)
        return [
            *(sys.executable, "-u", "-m", "sandbox", "serve", "--host", listen, "--port", str(self.sandbox_port)),
            *("--database", str(self.folder / "sandbox.db"), "--api-key", api_key, "--public-url", self.sandbox_url),
            *("--callback-url", f"{self.shop_url}/amwal/callback", "--speed", str(SPEED)),
            *("--mails", str(self.folder / "sandbox-mail")),
        ]

    def _shop_settings(self, project_url: str, api_key: str) -> dict[str, str]:
        """The shop's environment. Nothing of the user's own shop may leak into the demo, or the other way round."""
        own = ("AMWAL_", "SHOP_", "SECRET_KEY", "RESERVATION_", "CONFIRMATION_", "TRUSTED_PROXIES", "DATABASE_")
        from_outside = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        return from_outside | {
            "DUKKAN_DOTENV": os.devnull,
            "FLASK_SKIP_DOTENV": "1",
            "DEMO": "on",
            "PUBLIC_URL": self.shop_url,
            "AMWAL_PROJECT_URL": project_url,
            "AMWAL_API_KEY": api_key,
            "AMWAL_PAYMENT_ORIGINS": self.sandbox_url,
            "DATABASE_URL": f"sqlite:///{self.folder / 'shop.db'}",
            "MAIL_URL": str(self.folder / "mail"),
            "MERCHANT_EMAIL": "merchant@example.com",
            "SHOP_CONTACT": "hello@example.com",
        }

    def _run(self, name: str, command: list[str], settings: dict[str, str]) -> None:
        # A session of its own: Ctrl-C reaches the stage alone, which then ends the programs in order.
        with self._log(name).open("wb") as log:
            self.programs[name] = subprocess.Popen(
                command, cwd=ROOT, env=settings or None, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_for_project_url(self, stop: threading.Event) -> str:
        """The sandbox prints the address to PUT to, as the real gateway shows it on its settings page."""
        for _ in self._while_starting("sandbox", stop):
            printed = re.search(r"Project URL\s+(\S+)", self._log("sandbox").read_text(errors="replace"))
            if printed:
                return printed[1]
        if stop.is_set():
            return ""
        raise StageError(f"the sandbox did not start. {self._last_words('sandbox')}")

    def _wait_until_ready(self, stop: threading.Event) -> None:
        for _ in self._while_starting("shop", stop):
            if self.programs["worker"].poll() is not None:
                raise StageError(f"the worker has ended by itself. {self._last_words('worker')}")
            if self._answers(f"http://{LOOPBACK}:{self.shop_port}/readyz"):
                return
        if not stop.is_set():
            raise StageError(f"the shop did not start. {self._last_words('shop')}")

    def _while_starting(self, name: str, stop: threading.Event) -> Iterator[None]:
        """Ten times a second, until the program has ended, too much time has passed, or all is to stop."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.programs[name].poll() is None and not stop.is_set():
            yield
            stop.wait(0.1)

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  (our own address)
                return bool(answer.status == 200)
        except OSError:
            return False

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _named(self, path: Path) -> str:
        """A path as short as it can be said."""
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines()[-3:]
        return " ".join([*lines, f"(All of it: {self._named(self._log(name))})"])

    def _say_where(self) -> None:
        phones = "" if self.local or self.host == LOOPBACK else "  (phones in this network, too)"
        self.say(
            f"""
  Shop              {self.shop_url}/{phones}
  Sandbox gateway   http://{LOOPBACK}:{self.sandbox_port}/  (the merchant's account there; this machine only)
  E-mails           {self._named(self.folder / "mail")}

  Try this first: put something into the basket, check out with any name and address, and pay on the sandbox's page.
  The order turns to Paid when the gateway's callback arrives. No real money moves. Ctrl-C ends it.
"""
        )
