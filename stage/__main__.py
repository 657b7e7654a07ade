"""`python -m stage`, which `make demo` runs: shop, worker and sandbox gateway, until Ctrl-C."""

import signal
import sys
import threading

import click

from stage.demo import Demo, StageError


@click.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65000), help="Port of the shop.")
@click.option("--local", is_flag=True, help="Answer to this machine alone, not to phones in the same network.")
@click.option("--fresh", is_flag=True, help="Forget the orders of the last demonstration.")
def main(port: int, local: bool, fresh: bool) -> None:
    """Start the shop, its worker and the sandbox gateway, and end them with Ctrl-C.

    No account and no network are needed. Everything is kept in instance/demo/.
    """
    stop = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    demo = Demo(port, local=local, say=click.echo)
    try:
        demo.start(fresh=fresh, stop=stop)
        demo.watch(stop)
    except StageError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    finally:
        demo.end()


if __name__ == "__main__":
    main(prog_name="python -m stage")
