"""Shows how a payment is lost: `python -m tests.faults.lose` lists the ways, `… lose NAME` shows one.

A shop in a temporary folder, with the sandbox as its gateway, is asked to keep a promise: first as it is, then with the
bug in it, and where a constraint of the database steps in, also without that.
"""

import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app import create_app
from shop.db import db
from shop.ops import audit
from tests.children import forget_settings
from tests.conftest import CheckingClient, OrderFactory, fill, sandbox_in, settings_for
from tests.faults.bugs import BUGS, PATIENCE, Bug, Shop, refused_by_constraints
from tests.test_audit import lose_constraints


@contextmanager
def new_shop() -> Iterator[Shop]:
    """A shop with products and without orders."""
    with tempfile.TemporaryDirectory() as name, sandbox_in(Path(name)) as store:
        settings = settings_for(Path(name), store.project_url)
        fill(settings)
        app = create_app(settings)
        app.test_client_class, app.testing = CheckingClient, True
        with app.app_context():
            yield Shop(app, CheckingClient(app, app.response_class), OrderFactory(store), store)
            db.session.remove()
            for engine in db.engines.values():
                engine.dispose()


def tell(bug: Bug) -> None:
    """Print what becomes of the promise."""
    print(f"The bug:     {bug.switch.__doc__}")
    print(f"The promise: {bug.check.__doc__}")
    with new_shop() as shop:
        print(f"As it is:    {outcome(bug, shop)}")
        shop.patience = PATIENCE
        with bug.switch(shop), refused_by_constraints() as refused:
            print(f"With it:     {outcome(bug, shop)}")
        print(f"The audit:   {findings()}")
        if not bug.without:
            return
        print(f"The database refused it: {refused[0]}")
        for table in bug.without:
            lose_constraints(table)
        with bug.switch(shop):
            print(f"Without that constraint: {outcome(bug, shop)}")
        print(f"The audit:   {findings()}")


def outcome(bug: Bug, shop: Shop) -> str:
    """What the check says."""
    try:
        bug.check(shop)
    except AssertionError as error:
        return f"broken: {str(error).splitlines()[0]}"
    return "kept"


def findings() -> str:
    """What `flask audit` reports."""
    return "; ".join(str(found) for found in audit.violations()) or "finds nothing"


def main() -> None:
    """Show a way, or list them."""
    names = [bug.name for bug in BUGS]
    if len(sys.argv) != 2 or sys.argv[1] not in names:
        print("Give one of these:", *(f'"{name}"' for name in names), sep="\n  ")
        sys.exit(2 if len(sys.argv) > 1 else 0)
    forget_settings()
    logging.disable()
    tell(next(bug for bug in BUGS if bug.name == sys.argv[1]))


if __name__ == "__main__":
    main()
