"""Staff: accounts and their passwords, and the sessions of browsers that are signed in to the dashboard.

Hashing a password takes a processor for a tenth of a second, so guesses are counted before, and hashed one at a time:
see `PasswordGuard`.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum, auto
from functools import cache

from flask import Flask, current_app
from flask_babel import lazy_gettext as _
from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session, contains_eager
from werkzeug.security import check_password_hash, generate_password_hash

from models import OutboxMessage, Staff, StaffSession, digest, new_token, now
from shop.config import settings
from shop.db import db, upsert, write
from shop.limits import (
    MAX_LINKS_PER_HOUR,
    MAX_TRIES,
    MAX_TRIES_FOR_ACCOUNT,
    MAX_TRIES_PER_MINUTE,
    MAX_WAITING,
    RateLimiter,
)
from shop.refusals import Refusal
from shop.states import OutboxKind
from shop.text import email_address

log = logging.getLogger(__name__)

MIN_PASSWORD, MAX_PASSWORD = 12, 200  # characters
IDLE = timedelta(hours=8)
"""How long a session lasts without a request, and how long at most."""
LONGEST = timedelta(days=14)
SEEN_EVERY = timedelta(minutes=5)  # how often a session's last request is stored
KNOWN_FOR = timedelta(days=365)  # since a browser's last request in a session; then its sessions are deleted
LINK_SECONDS = 30 * 60


class WrongPassword(Refusal):
    """The password, or the address, is wrong."""


class TooManyTries(Refusal):
    """Too many passwords were tried, or too many wait to be hashed."""

    def __init__(self) -> None:
        super().__init__(_("Too many people are signing in. Please try again in a moment."))


# --- Guessing --------------------------------------------------------------------------------------------------------


class Lane(Enum):
    """Who tries a password. Each kind waits for its own turn, so that a flood of one doesn't keep the others out."""

    NEW_BROWSER = auto()
    KNOWN_BROWSER = auto()
    """It has signed in before."""
    SIGNED_IN = auto()
    """The password is asked again, for what moves money."""


class PasswordGuard:
    """Limits how many passwords are tried in this process.

    Tries are counted before hashing. In each lane one is hashed at a time and `MAX_WAITING` wait; whoever comes then is
    refused at once. If all waited, some forty guessers would keep callbacks waiting for seconds.
    """

    def __init__(self) -> None:
        quarter = 15 * 60
        self._tries = RateLimiter(MAX_TRIES, quarter)
        self._accounts = RateLimiter(MAX_TRIES_FOR_ACCOUNT, quarter)
        self._all = RateLimiter(MAX_TRIES_PER_MINUTE, 60)
        self.links = RateLimiter(MAX_LINKS_PER_HOUR, 3600)
        self._places = {lane: threading.BoundedSemaphore(1 + MAX_WAITING) for lane in Lane}
        self._turns = {lane: threading.Lock() for lane in Lane}

    @contextmanager
    def turn(self, lane: Lane, who: str) -> Iterator[None]:
        """Count a try, and wait for its turn.

        Args:
            lane: who tries.
            who: the network of a new browser; what identifies a known browser or a session.

        Raises:
            TooManyTries: the limit is reached, or the lane is full.
        """
        allowed = self._tries.allows(f"{lane.name} {who}") and (lane is not Lane.NEW_BROWSER or self._all.allows())
        if not allowed or not self._places[lane].acquire(blocking=False):
            raise TooManyTries
        try:
            with self._turns[lane]:
                yield
        finally:
            self._places[lane].release()

    def is_full(self, network: str) -> bool:
        """Whether a new browser of this network would be refused now. Counts nothing."""
        return self._all.is_full() or self._tries.is_full(f"{Lane.NEW_BROWSER.name} {network}")

    def count_for(self, person: Staff) -> None:
        """Count a try of a new browser for somebody's account. Raises TooManyTries."""
        if not self._accounts.allows(str(person.id)):
            raise TooManyTries


def init_staff(app: Flask) -> None:
    """Create this process's guard."""
    app.extensions["password_guard"] = PasswordGuard()


def _guard() -> PasswordGuard:
    guard: PasswordGuard = current_app.extensions["password_guard"]
    return guard


# --- Accounts --------------------------------------------------------------------------------------------------------


def add(email: str, name: str, password: str | None = None) -> bool:
    """Add a member of staff, or let a disabled one sign in again.

    Args:
        email: as it is typed.
        name: as others read it in the history of orders.
        password: None for somebody who will set one by a link, see `mail_link`.

    Returns:
        False if there is an active one with this address. Nothing was changed.
    """
    hashed = generate_password_hash(password) if password else _no_password()
    with write() as session:
        person = session.scalar(select(Staff).filter_by(email=clean_email(email)).with_for_update())
        if person is None:
            person = Staff(email=clean_email(email), active=False)
            session.add(person)
        if person.active:
            return False
        person.name, person.password_hash, person.active = name, hashed, True
        return True


def clean_email(typed: str) -> str:
    """An address as accounts have it: the same in any case."""
    return email_address(typed).casefold()


def find(email: str) -> Staff | None:
    """The active member of staff with this address, or None."""
    return db.session.scalar(select(Staff).filter_by(email=clean_email(email), active=True))


def everybody() -> list[Staff]:
    """All members of staff, those who may sign in first."""
    return list(db.session.scalars(select(Staff).order_by(Staff.active.desc(), Staff.name, Staff.id)))


def disable(staff_id: int) -> None:
    """Let somebody no longer sign in, and end their sessions. What they did keeps their name."""
    with write() as session:
        session.execute(update(Staff).filter_by(id=staff_id).values(active=False, password_hash=_no_password()))
        _end(session, StaffSession.staff_id == staff_id)
    log.info("staff %d was disabled", staff_id)


def set_password(person: Staff, password: str) -> bool:
    """Set a password and end all sessions of its owner.

    Args:
        person: as loaded when the present password, or a link, was checked.
        password: of `MIN_PASSWORD` characters or more.

    Returns:
        False if the password was changed meanwhile, or the account disabled.
    """
    hashed = generate_password_hash(password)
    same = {"id": person.id, "password_hash": person.password_hash, "active": True}
    with write() as session:
        changed = update(Staff).filter_by(**same).values(password_hash=hashed).returning(Staff.id)
        if session.scalar(changed) is None:
            return False
        _end(session, StaffSession.staff_id == person.id)
    log.info("staff %d set a password", person.id)
    return True


def _no_password() -> str:
    """What no password matches. It differs each time, as links name it."""
    return f"!{new_token()}"


# --- A forgotten password --------------------------------------------------------------------------------------------


def mail_link(email: str, network: str, locale: str) -> None:
    """Queue the e-mail with a link for a new password, if somebody has this address: at most one in ten minutes.

    Raises:
        TooManyTries: the network asked for too many.
    """
    if network and not _guard().links.allows(network):
        raise TooManyTries
    person = find(email)
    if person is None:
        return
    ten_minutes = f"{now():%Y%m%d%H%M}"[:-1]
    kind = OutboxKind.MAIL_NEW_PASSWORD
    row = {"key": f"{kind.value}:{person.id}.{ten_minutes}", "kind": kind}
    with write() as session:
        queued = upsert(session, OutboxMessage).values(**row, payload={"staff_id": person.id, "locale": locale})
        session.execute(queued.on_conflict_do_nothing(index_elements=["key"]))


def new_link(person: Staff) -> str:
    """The token of a link for a new password. A password that was set makes it worthless, so it works once."""
    return _signer().dumps([person.id, digest(person.password_hash)])


def read_link(token: str) -> Staff | None:
    """Whose password a link may set; None if it is too old, was used, or isn't ours."""
    try:
        staff_id, was = _signer().loads(token, max_age=LINK_SECONDS)
    except BadSignature:
        return None
    person = db.session.scalar(select(Staff).filter_by(id=staff_id, active=True))
    return person if person and digest(person.password_hash) == was else None


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer([*settings.secret_key_fallbacks, settings.secret_key], salt="new password")


# --- Sessions --------------------------------------------------------------------------------------------------------


def sign_in(email: str, password: str, network: str, cookie: str, browser: str) -> str:
    """Check a password, and begin a session.

    Args:
        email: as it was typed.
        password: likewise.
        network: the digest of the browser's network.
        cookie: the token that the browser has from an earlier session, or "".
        browser: its name, for the list of sessions.

    Returns:
        The token for the browser's cookie.

    Raises:
        WrongPassword, TooManyTries.
    """
    lane, who = (Lane.KNOWN_BROWSER, digest(cookie)) if _is_known(cookie) else (Lane.NEW_BROWSER, network)
    with _guard().turn(lane, who):
        person = find(email)
        if person and lane is Lane.NEW_BROWSER:
            _guard().count_for(person)
        is_right = check_password_hash(_hash_of(person), password)
    if not person or not is_right:
        raise WrongPassword(_("The e-mail address or the password is wrong."))
    return begin(person, browser)


def refuse_early(network: str, cookie: str) -> None:
    """Raise TooManyTries if the limits for new browsers are used up, before the form is even read."""
    if _guard().is_full(network) and not _is_known(cookie):
        raise TooManyTries


def begin(person: Staff, browser: str) -> str:
    """Begin a session, and return the token for the browser's cookie.

    Raises:
        WrongPassword: the password was changed, or the account disabled, since the person was loaded.
    """
    token = new_token()
    same = {"id": person.id, "password_hash": person.password_hash, "active": True}
    with write() as session:
        if session.scalar(select(Staff.id).filter_by(**same).with_for_update()) is None:
            raise WrongPassword(_("The e-mail address or the password is wrong."))
        session.add(StaffSession(staff_id=person.id, token_digest=digest(token), browser=browser))
    log.info("staff %d signed in", person.id)
    return token


def ask_again(of: StaffSession, password: str) -> None:
    """Check the password of somebody who is signed in once more.

    Raises:
        WrongPassword, TooManyTries.
    """
    with _guard().turn(Lane.SIGNED_IN, str(of.id)):
        if not check_password_hash(of.staff.password_hash, password):
            raise WrongPassword(_("The password is wrong."))


def find_session(token: str) -> StaffSession | None:
    """The session of a browser's cookie, unless it was ended, was idle for too long, or its owner is disabled."""
    wanted = select(StaffSession).join(StaffSession.staff).options(contains_eager(StaffSession.staff))
    found = db.session.scalar(wanted.where(StaffSession.token_digest == digest(token), Staff.active, *_lasting()))
    if found is not None and found.seen_at < now() - SEEN_EVERY:
        with write() as session:
            session.execute(update(StaffSession).filter_by(id=found.id).values(seen_at=now()))
    return found


def sessions_of(person: Staff) -> list[StaffSession]:
    """The sessions of somebody in which they are signed in, the newest first."""
    theirs = select(StaffSession).where(StaffSession.staff_id == person.id, *_lasting())
    return list(db.session.scalars(theirs.order_by(StaffSession.id.desc())))


def end_sessions(person: Staff, session_id: int | None = None) -> None:
    """End one session of somebody, or all."""
    with write() as session:
        one = [StaffSession.id == session_id] if session_id is not None else []
        _end(session, StaffSession.staff_id == person.id, *one)


def tidy() -> None:
    """Delete the sessions of browsers that don't count as known any more. For the worker's hourly chores."""
    with write() as session:
        session.execute(delete(StaffSession).where(StaffSession.seen_at < now() - KNOWN_FOR))


def _is_known(cookie: str) -> bool:
    """Whether a browser has signed in before: its cookie is kept when a session ends."""
    of_active = select(StaffSession.id).join(StaffSession.staff).where(Staff.active)
    known = of_active.where(StaffSession.token_digest == digest(cookie))
    return bool(cookie) and db.session.scalar(known) is not None


def _lasting() -> list[ColumnElement[bool]]:
    return [
        StaffSession.revoked_at.is_(None),
        StaffSession.seen_at > now() - IDLE,
        StaffSession.created_at > now() - LONGEST,
    ]


def _end(session: Session, *which: ColumnElement[bool]) -> None:
    session.execute(update(StaffSession).where(*which, StaffSession.revoked_at.is_(None)).values(revoked_at=now()))


def _hash_of(person: Staff | None) -> str:
    """The hash to compare with. Without an account, or without a password, it takes as long."""
    return person.password_hash if person and not person.password_hash.startswith("!") else _hash_of_nobody()


@cache
def _hash_of_nobody() -> str:
    return generate_password_hash(new_token())
