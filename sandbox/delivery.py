"""Callback delivery: retry schedule, sending and worker thread ("The callback")."""

import logging
import re
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic

import requests
from urllib3.exceptions import HTTPError

from sandbox import mail
from sandbox.records import Attempt, Delivery
from sandbox.store import Store

MAX_ATTEMPTS = 30
TRYING_SECONDS = 3 * 24 * 60 * 60
TIMEOUT_SECONDS = 10  # to connect, and again for the answer
REPLY_BYTES_KEPT = 2048
AT_ONCE = 8

log = logging.getLogger(__name__)


def seconds_after_first(attempt: int) -> int:
    """Return when attempt 1 to 30 is due, in seconds after the first.

    The documentation says "30 times over 3 days", but not at which intervals. Here the gaps grow with the cube of their
    number: the sum of the first n cubes is (n(n+1)/2)², so the 29 gaps add up to exactly 3 days. The first gaps are 1,
    11, 37 and 88 seconds, so that a restarted shop is notified soon; the last is 9 hours.
    """
    gaps = attempt - 1
    all_gaps = MAX_ATTEMPTS - 1
    return round(TRYING_SECONDS * (gaps * (gaps + 1) / (all_gaps * (all_gaps + 1))) ** 2)


def next_attempt_at(attempt: Attempt, speed: float) -> datetime | None:
    """Return when to retry after a failed attempt (UTC), or None after the last.

    `speed` divides the time between attempts.
    """
    if attempt.number >= MAX_ATTEMPTS:
        return None
    gap = seconds_after_first(attempt.number + 1) - seconds_after_first(attempt.number)
    return attempt.started_at + timedelta(seconds=gap / speed)


@dataclass(frozen=True)
class Sending:
    """How callbacks are sent."""

    speed: float = 1.0
    """Divides the time between attempts."""
    mails: Path | None = None
    """The folder for failure e-mails; None for none."""
    ca: Path | None = None
    """The certificates that a shop on https may have (PEM); None for the usual ones."""


class DeliveryWorker:
    """Thread that sends due callbacks, up to 8 at once.

    All state is in the store: after a restart, a new worker continues, and repeats interrupted attempts. Shops must
    handle such duplicates from the real gateway, too.
    """

    def __init__(self, store: Store, sending: Sending = Sending()) -> None:
        """Create a stopped worker for the store's callbacks."""
        self._store = store
        self._sending = sending
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
        self._attempts: dict[int, threading.Thread] = {}

    def start(self) -> None:
        """Start the thread; call this only once."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def stop(self, seconds: float = 5.0) -> None:
        """Start no new attempts, and wait up to `seconds` for running ones."""
        self._stopping.set()
        self._store.delivery_changed.set()
        deadline = monotonic() + seconds
        self._thread.join(seconds)
        for thread in list(self._attempts.values()):
            thread.join(max(0.0, deadline - monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Cleared before reading, so that a callback added meanwhile wakes the worker at once.
            self._store.delivery_changed.clear()
            try:
                pause = self._start_due()
            except Exception:
                log.exception("Can't read the callbacks; retrying in 1 s")
                pause = 1.0
            self._store.delivery_changed.wait(pause)

    def _start_due(self) -> float:
        """Start due attempts; return the seconds until the next one.

        At most 1 s, as another process may change the database.
        """
        if self._store.clock_is_moving and not self._attempts:
            self._store.step_clock()
        # Listed before reading the store: an attempt that ends in between must not start again from a stale row.
        under_way = list(self._attempts)
        if not self._store.project().sends_callbacks:
            return 1.0
        now = self._store.now()
        for delivery in self._store.waiting_deliveries(limit=2 * AT_ONCE):
            if delivery.id in under_way:
                continue
            due_in = (delivery.next_attempt_at - now).total_seconds() if delivery.next_attempt_at else 0.0
            if due_in > 0:
                return min(due_in, 1.0)
            if len(self._attempts) >= AT_ONCE:
                break
            thread = threading.Thread(
                target=self._attempt, args=(delivery,), name=f"delivery {delivery.id}", daemon=True
            )
            self._attempts[delivery.id] = thread
            thread.start()
        return 1.0

    def _attempt(self, delivery: Delivery) -> None:
        try:
            send(self._store, delivery, self._sending)
        except Exception:
            log.exception("Can't store a callback attempt; it will be repeated")
            self._stopping.wait(1.0)
        finally:
            del self._attempts[delivery.id]
            self._store.delivery_changed.set()


def send(store: Store, delivery: Delivery, sending: Sending) -> Attempt:
    """Make and store one attempt of a callback, and schedule its retry if one is due."""
    project = store.project()
    attempt = post(delivery, project.callback_url, store.now(), sending.ca)
    again_at = None if attempt.succeeded or delivery.once else next_attempt_at(attempt, sending.speed)
    store.record_attempt(attempt, next_attempt_at=again_at)
    outlook = "" if attempt.succeeded or delivery.once else ", given up"
    if again_at:
        outlook = f", retry at {again_at:%H:%M:%S} UTC"
    what = f"callback {attempt.number} of {MAX_ATTEMPTS} for invoice {delivery.invoice_id}"
    log.info("%s: %s%s", what, attempt.status or attempt.error, outlook)
    if project.failure_mails_on and sending.mails and not attempt.succeeded and not delivery.once:
        try:
            mail.write_failure_mail(sending.mails, delivery, attempt, again_at)
        except OSError:  # a full disk must not stop the callbacks
            log.exception("Can't write the failure e-mail")
    return attempt


def browser(ca: Path | None = None) -> requests.Session:
    """Return a session that takes nothing from the environment: no proxy, no .netrc, no certificates."""
    session = requests.Session()
    session.trust_env = False
    session.verify = str(ca) if ca else True
    return session


def certificate_error(error: requests.exceptions.SSLError) -> str:
    """Return why a TLS connection failed, and what to do."""
    text = str(error)
    reason = re.search(r"certificate verify failed: ([^(,]+[a-z])", text) or re.search(r"\[SSL: (\w+)\]", text)
    said = reason[1] if reason else "unknown reason"
    return f"TLS: {said}; if the certificate is of your own authority, give that one's with --ca FILE"


def post(delivery: Delivery, url: str, started_at: datetime, ca: Path | None = None) -> Attempt:
    """Send a callback once and return the attempt; errors of the shop never raise.

    `started_at` is the time on the project's clock. `ca`: see `Sending`.
    """
    clock = monotonic()
    status, reply, error = None, b"", ""
    try:
        with (
            browser(ca) as session,
            session.post(
                url,
                data=delivery.body.encode("utf-8", "surrogateescape"),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                timeout=TIMEOUT_SECONDS,
                allow_redirects=False,
                stream=True,
            ) as answer,
        ):
            status = answer.status_code
            # In pieces, because the timeout restarts with each byte.
            while monotonic() < clock + TIMEOUT_SECONDS and len(reply) < REPLY_BYTES_KEPT:
                piece = answer.raw.read1(REPLY_BYTES_KEPT - len(reply))
                if not piece:
                    break
                reply += piece
    except requests.Timeout:
        error = f"no answer within {TIMEOUT_SECONDS} seconds"
    except requests.exceptions.SSLError as problem:
        error = certificate_error(problem)
    except requests.ConnectionError:
        error = "no connection"
    # HTTPError: the body breaks off or times out after the status, which still counts.
    except (requests.RequestException, HTTPError, OSError, ValueError) as problem:
        error = f"no usable answer ({type(problem).__name__})"
    return Attempt(
        delivery_id=delivery.id,
        number=delivery.attempts_made + 1,
        started_at=started_at,
        url=url,
        seconds=round(monotonic() - clock, 3),
        status=status,
        reply=reply.decode(errors="replace"),
        error=error,
    )
