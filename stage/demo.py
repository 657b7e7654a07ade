"""The demo: shop, worker and sandbox gateway with one folder and one address."""

import os
import re
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from stage.folder import ROOT, Folder, StageError, short
from stage.network import LOOPBACK, free_port, lan_address, time_zone

START_SECONDS = 60
END_SECONDS = 20
WATCH_SECONDS = 1.0
MERCHANT = "merchant@example.com"
SPEED = 60
"""Speed-up of callback retries in the sandbox: the documented three days take 72 minutes."""


class Demo:
    """Shop, worker and sandbox gateway, as separate programs like in production."""

    def __init__(self, folder: Path, port: int, *, local: bool, say: Callable[[str], object]) -> None:
        """Choose address and ports, without starting anything.

        Args:
            folder: where databases, e-mails and logs are stored.
            port: the shop's port, if it's free; the sandbox takes the next free one.
            local: serve only this machine, no phones in the network.
            say: prints a message to the user.

        Raises:
            StageError: if no port is free, or the database's address can't hold the folder's name.
        """
        self._folder = Folder(folder, say)
        self.folder = self._folder.path
        self.say = say
        self.local = local
        self.host = LOOPBACK if local else lan_address()
        self.shop_port = self._port(port)
        self.sandbox_port = self._port(max(port + 1, self.shop_port + 1))
        self.shop_url = f"http://{self.host}:{self.shop_port}"
        self.sandbox_url = f"http://{self.host}:{self.sandbox_port}"
        self.programs: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *, fresh: bool, stop: threading.Event) -> None:
        """Start all programs and print their addresses; return early if `stop` is set.

        `fresh` starts without the orders of the last demo.

        Raises:
            StageError: if a program fails to start, or another demo uses the folder.
        """
        self._folder.open(fresh=fresh)
        api_key = f"demo-{secrets.token_hex(16)}"
        self._run("sandbox", self._sandbox_command(api_key), {})
        project_url = self._wait_for_project_url(stop)
        if stop.is_set():
            return
        settings = self._shop_settings(project_url, api_key)
        flask = [sys.executable, "-m", "flask", "--app", "app"]
        self._run("setup", [*flask, "sample-shop"], settings)
        if self.programs.pop("setup").wait() and not stop.is_set():
            raise StageError(f"creating the sample shop failed. {self._log_end('setup')}")
        if stop.is_set():
            return
        self._add_merchant(flask, settings)
        self._folder.use_addresses(self.shop_url, self.sandbox_url)
        listen = LOOPBACK if self.local else "0.0.0.0"  # noqa: S104  (for phones)
        parent = ["--parent", str(os.getpid())]
        self._run(
            "shop", [*flask, "serve", "--no-worker", "--host", listen, "--port", str(self.shop_port), *parent], settings
        )
        self._run("worker", [*flask, "worker", *parent], settings)
        self._wait_until_ready(stop)
        self._keep_password()
        if not stop.is_set():
            self._print_addresses()

    def watch(self, stop: threading.Event) -> None:
        """Wait for `stop`; report when this machine's address changes.

        Raises:
            StageError: if a program exits.
        """
        reported = self.host
        while not stop.wait(WATCH_SECONDS):
            for name, program in self.programs.items():
                if program.poll() is not None:
                    raise StageError(f"the {name} exited unexpectedly. {self._log_end(name)}")
            address = self.host if self.local else lan_address()
            if address != reported:
                reported = address
                self.say(
                    f"\nThis machine's address is now {address}; the QR codes lead to {self.host}."
                    + ("" if address == self.host else " Press Ctrl-C and start again to use the new address.")
                )

    def end(self) -> None:
        """Stop the programs with SIGTERM, and kill those that take too long."""
        running = [program for program in reversed(self.programs.values()) if program.poll() is None]
        for program in running:
            program.terminate()
        if running:
            with suppress(OSError):  # the terminal may be closed
                self.say("\nStopping …")
        until = time.monotonic() + END_SECONDS
        for program in running:
            try:
                program.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        self._folder.close()

    # --- helpers ---

    def _port(self, wanted: int) -> int:
        try:
            port = free_port(self.host, wanted)
        except OSError as error:
            raise StageError(f"{error}. Stop the programs that use them, or choose another --port.") from None
        if port != wanted:
            self.say(f"Port {wanted} is in use; using {port} instead.")
        return port

    def _sandbox_command(self, api_key: str) -> list[str]:
        listen = LOOPBACK if self.local else "0.0.0.0"  # noqa: S104  (for phones)
        return [
            *(sys.executable, "-u", "-m", "sandbox", "serve", "--host", listen, "--port", str(self.sandbox_port)),
            *("--database", str(self.folder / "sandbox.db"), "--api-key", api_key, "--public-url", self.sandbox_url),
            *("--callback-url", f"{self.shop_url}/amwal/callback", "--speed", str(SPEED)),
            *("--mails", str(self.folder / "sandbox-mail"), "--parent", str(os.getpid())),
        ]

    def _shop_settings(self, project_url: str, api_key: str) -> dict[str, str]:
        """Return the shop's environment, without settings of the user's own shop."""
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
            "MERCHANT_EMAIL": MERCHANT,
            "SHOP_CONTACT": "hello@example.com",
            "SHOP_TIMEZONE": time_zone(),
        }

    def _add_merchant(self, flask: list[str], settings: dict[str, str]) -> None:
        """Let the demo's merchant sign in to the dashboard. The password is kept for the next demo in this folder."""
        file = self.folder / "dashboard-password"
        self.password = file.read_text(errors="replace").strip() if file.exists() else ""
        if not self.password:
            self.password = "-".join(secrets.token_hex(2) for _ in range(4))
            command = ["staff", "add", MERCHANT, "--name", "Merchant", "--password", self.password]
            self._run("staff", [*flask, *command], settings)

    def _keep_password(self) -> None:
        """Keep the password of a merchant who was just added."""
        adding = self.programs.pop("staff", None)
        if adding is None:
            return
        if adding.wait() == 0:
            file = self.folder / "dashboard-password"
            file.touch(mode=0o600)
            file.write_text(f"{self.password}\n")
        else:  # an account without its file: whoever set the password knows it
            self.password = ""

    def _run(self, name: str, command: list[str], settings: dict[str, str]) -> None:
        # In its own session, so that Ctrl-C only reaches the stage, which stops the programs in order. They end by
        # themselves when the stage has been killed.
        with self._log(name).open("wb") as log:
            self.programs[name] = subprocess.Popen(
                command, cwd=ROOT, env=settings or None, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_for_project_url(self, stop: threading.Event) -> str:
        """Return the project URL that the sandbox prints; "" if `stop` is set."""
        for _ in self._while_starting("sandbox", stop):
            printed = re.search(r"Project URL\s+(\S+)", self._log("sandbox").read_text(errors="replace"))
            if printed:
                return printed[1]
        if stop.is_set():
            return ""
        raise StageError(f"the sandbox did not start. {self._log_end('sandbox')}")

    def _wait_until_ready(self, stop: threading.Event) -> None:
        for _ in self._while_starting("shop", stop):
            if self.programs["worker"].poll() is not None:
                raise StageError(f"the worker exited unexpectedly. {self._log_end('worker')}")
            if self._answers(f"http://{LOOPBACK}:{self.shop_port}/statusz"):
                return
        if not stop.is_set():
            raise StageError(f"the shop did not start. {self._log_end('shop')}")

    def _while_starting(self, name: str, stop: threading.Event) -> Iterator[None]:
        """Yield every 0.1 s until the program exits, the time is up, or `stop` is set."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.programs[name].poll() is None and not stop.is_set():
            yield
            stop.wait(0.1)

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  (always HTTP)
                return bool(answer.status == 200)
        except OSError:
            return False

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _log_end(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines()[-3:]
        return " ".join([*lines, f"(Full log: {short(self._log(name))})"])

    def _print_addresses(self) -> None:
        phones = "" if self.local or self.host == LOOPBACK else "  (also for phones in this network)"
        self.say(
            f"""
  Shop              {self.shop_url}/{phones}
  Dashboard         {self.shop_url}/dashboard/  ({MERCHANT}{f", password {self.password}" if self.password else ""})
  Sandbox gateway   http://{LOOPBACK}:{self.sandbox_port}/  (the merchant's account, only on this machine)
  E-mails           {short(self.folder / "mail")}

  Try this first: add a product to the basket, check out with any name and address, and pay on the sandbox's page.
  The order is paid as soon as the gateway's callback arrives. No real money moves. Press Ctrl-C to stop.
"""
        )
