"""Keeps one of the shop's processes alive: `python -m tests.faults.prefork web PORT` or `… worker`.

A killed process must be back at once, many times a minute, or the campaign would wait for Python to start most of the
time. So the program is loaded once, and each life of the process is a fork of it. What runs in the fork is what
`flask serve --no-worker` and `flask worker` run. The process id of the present life is printed, a line each.
"""

import gc
import logging
import os
import signal
import sys
import threading
import time

from flask import Flask
from werkzeug.test import TestResponse

from app import create_app
from shop import worker
from shop.db import db
from shop.gateway import THREADS
from shop.ops import server
from tests.faults.customer import CONTACT, hidden
from tests.pages import required_fields


def live(app: Flask, kind: str, port: int) -> None:
    """One life of the process, until SIGTERM ends it well or SIGKILL does not."""
    if kind == "web":
        server.run(app, "127.0.0.1", port, THREADS, lambda: None)
        return
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with app.app_context():
        worker.work(stop, pause=0.2)


def warm_up(app: Flask) -> None:
    """Do once, before the first fork, what each life would otherwise spend its first tenths of a second on.

    That is mostly compiling templates and queries. So somebody buys something, and cancels.
    """
    for name in app.jinja_env.list_templates(extensions=["html", "txt"]):
        app.jinja_env.get_template(name)
    browser = app.test_client()

    def ask(method: str, path: str, **form: str) -> TestResponse:
        return browser.open(path, method=method, data=form, base_url=app.extensions["settings"].public_url)

    ask("GET", "/")
    ask("POST", "/basket/items", product="stoneware-cup", quantity="1")
    page = ask("GET", "/checkout").text
    form = required_fields(page) | hidden(page) | CONTACT
    place = ask("POST", "/checkout", **form, delivery="standard").headers["Location"]
    token = hidden(ask("GET", place).text)["csrf_token"]
    ask("POST", f"{place}/cancellation", csrf_token=token)
    with app.app_context():
        worker.tick()
        db.session.remove()
        # No connection may be shared with a fork.
        for engine in db.engines.values():
            engine.dispose()


def main() -> None:
    """Fork a life, wait for its end, and fork the next, until SIGTERM."""
    kind, port = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s {kind} %(process)d %(name)s: %(message)s")
    app = create_app()
    warm_up(app)
    gc.freeze()  # a collection in a fork would copy the memory that it shares
    stopping = False
    child = 0

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        if child:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    while not stopping:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                live(app, kind, port)
            except OSError as error:  # the port of the life before is not free yet
                logging.warning("%s", error)
                time.sleep(0.05)
            os._exit(0)
        print(child, flush=True)
        if stopping:  # asked to stop between fork and here
            os.kill(child, signal.SIGTERM)  # type: ignore[unreachable]
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
