"""Telling the shop: the retry schedule, sending a callback, and the thread that sends those that are due
("The callback")."""

import logging
import threading
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
TIMEOUT_SECONDS = 10  # for the connection, and again for the answer
REPLY_BYTES_KEPT = 2048
AT_ONCE = 8

log = logging.getLogger(__name__)


def seconds_after_first(attempt: int) -> int:
    """Return when attempt 1 to 30 is due, in seconds after the first.

    The documentation says "30 times over 3 days" and leaves the spacing open. Here it grows with the cube of the
    attempt's number: the sum of the first n cubes is (n(n+1)/2)², which makes the 29 gaps add up to exactly 3 days. The
    first gaps are 1, 11, 37 and 88 seconds, so that a restarted shop is told soon; the last is 9 hours.
    """
    gaps = attempt - 1
    all_gaps = MAX_ATTEMPTS - 1
    return round(TRYING_SECONDS * (gaps * (gaps + 1) / (all_gaps * (all_gaps + 1))) ** 2)


def next_attempt_at(attempt: Attempt, speed: float) -> datetime | None:
    """Return when to try again after a failed attempt (UTC), or None after the last; `speed` divides the waiting."""
    if attempt.number >= MAX_ATTEMPTS:
        return None
    gap = seconds_after_first(attempt.number + 1) - seconds_after_first(attempt.number)
    return attempt.started_at + timedelta(seconds=gap / speed)


class DeliveryWorker:
    """Sends the callbacks that are due, up to 8 side by side, so that a slow answer holds up no other.

    All that must outlive the process is in the store: a new worker goes on where the last one ended. An attempt that
    was cut off midway is made again, which a shop has to bear from the real gateway too.
    """

    def __init__(self, store: Store, *, speed: float = 1.0, mails: Path | None = None) -> None:
        """Prepare; `speed` divides the waiting between attempts, and `mails` is where failure e-mails go."""
        self._store = store
        self._speed = speed
        self._mails = mails
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
        self._attempts: dict[int, threading.Thread] = {}

    def start(self) -> None:
        """Begin to deliver; call it once."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Return whether it was started and not stopped."""
        return self._thread.is_alive()

    def stop(self, seconds: float = 5.0) -> None:
        """Begin no further attempt, and wait up to `seconds` for those that are under way."""
        self._stopping.set()
        self._store.delivery_changed.set()
        deadline = monotonic() + seconds
        self._thread.join(seconds)
        for thread in list(self._attempts.values()):
            thread.join(max(0.0, deadline - monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Cleared before looking: what comes in while we look then wakes us at once.
            self._store.delivery_changed.clear()
            try:
                pause = self._start_due()
            except Exception:
                log.exception("The deliveries can't be read; trying again in a second")
                pause = 1.0
            self._store.delivery_changed.wait(pause)

    def _start_due(self) -> float:
        """Start the attempts that are due; return how many seconds nothing else will be, at most one.

        Not longer, as another process may have changed the database.
        """
        if self._store.clock_is_moving and not self._attempts:
            self._store.step_clock()
        # Listed before reading: an attempt that ends in between must not be started again from what was read before.
        under_way = list(self._attempts)
        if not self._store.project().tells:
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
            send(self._store, delivery, speed=self._speed, mails=self._mails)
        except Exception:
            log.exception("An attempt couldn't be recorded; it will be made again")
            self._stopping.wait(1.0)
        finally:
            del self._attempts[delivery.id]
            self._store.delivery_changed.set()


def send(store: Store, delivery: Delivery, *, speed: float, mails: Path | None) -> Attempt:
    """Make one attempt at a callback, and record it with the time of the next (none for what is sent once)."""
    project = store.project()
    attempt = post(delivery, project.callback_url, store.now())
    again_at = None if attempt.succeeded or delivery.once else next_attempt_at(attempt, speed)
    store.record_attempt(attempt, next_attempt_at=again_at)
    goes_on = "" if attempt.succeeded or delivery.once else ", given up"
    if again_at:
        goes_on = f", again at {again_at:%H:%M:%S} UTC"
    what = f"callback {attempt.number} of {MAX_ATTEMPTS} for invoice {delivery.invoice_id}"
    log.info("%s: %s%s", what, attempt.status or attempt.error, goes_on)
    if project.failure_mails_on and mails and not attempt.succeeded and not delivery.once:
        try:
            mail.tell_of_failure(mails, delivery, attempt, again_at)
        except OSError:  # a full disk must not stop the callbacks
            log.exception("The e-mail about it couldn't be written")
    return attempt


def post(delivery: Delivery, url: str, started_at: datetime) -> Attempt:
    """Send a callback once and return what came of it; a shop's misbehaviour never raises."""
    clock = monotonic()
    status, reply, error = None, b"", ""
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no .netrc: straight to the shop, with nothing added
            with session.post(
                url,
                data=delivery.body.encode("utf-8", "surrogateescape"),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                timeout=TIMEOUT_SECONDS,
                allow_redirects=False,
                stream=True,
            ) as answer:
                status = answer.status_code
                # Piece by piece, as the timeout alone lets a dripping answer run on.
                while monotonic() < clock + TIMEOUT_SECONDS and len(reply) < REPLY_BYTES_KEPT:
                    piece = answer.raw.read1(REPLY_BYTES_KEPT - len(reply))
                    if not piece:
                        break
                    reply += piece
    except requests.Timeout:
        error = f"no answer within {TIMEOUT_SECONDS} seconds"
    except requests.ConnectionError:
        error = "no connection"
    # HTTPError: a reply that breaks off or drips after its status came; the status counts all the same.
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
