"""A web process killed around a commit: `python -m tests.faults.crash_at_commit PORT before-commit|after-commit`.

The moment is the commit that stores a payment. The process dies by SIGKILL, as in a power cut or an out-of-memory kill.
"""

import os
import signal
import sys

from sqlalchemy import event
from sqlalchemy.orm import Session

from app import create_app
from models import Payment
from shop.ops import server


def die(*_: object) -> None:
    """End without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Serve until a payment is stored, or nearly."""
    port, moment = int(sys.argv[1]), sys.argv[2]

    @event.listens_for(Session, "before_commit" if moment == "before-commit" else "after_commit")
    def _at_commit(session: Session) -> None:
        if session.info.get("pays"):
            die()

    @event.listens_for(Session, "after_flush")
    def _after_flush(session: Session, _context: object) -> None:
        if any(isinstance(row, Payment) for row in session.new):
            session.info["pays"] = True

    server.run(create_app(), "127.0.0.1", port, 4, lambda: None)


if __name__ == "__main__":
    main()
