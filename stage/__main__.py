"""`python -m stage`, which `make demo` runs: shop, worker and sandbox gateway, until Ctrl-C."""

import signal
import sys
import threading
from pathlib import Path

import click

from stage.demo import ROOT, Demo, StageError


@click.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65000), help="Port of the shop.")
@click.option("--local", is_flag=True, help="Answer to this machine alone, not to phones in the same network.")
@click.option(
    "--folder",
    default=ROOT / "instance" / "demo",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where its databases, mails and logs are kept.  [default: instance/demo]",
)
@click.option("--fresh", is_flag=True, help="Forget the orders of the last demonstration.")
def main(port: int, local: bool, folder: Path, fresh: bool) -> None:
    """Start the shop, its worker and the sandbox gateway, and end them with Ctrl-C.

    No account and no network are needed.
    """
    stop = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    demo = None
    try:
        demo = Demo(folder, port, local=local, say=click.echo)
        demo.start(fresh=fresh, stop=stop)
        demo.watch(stop)
    except StageError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    finally:
        if demo is not None:
            demo.end()


if __name__ == "__main__":
    main(prog_name="python -m stage")
