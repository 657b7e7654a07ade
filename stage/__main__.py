"""The command `python -m stage`, which `make demo` runs."""

import signal
import sys
import threading
from pathlib import Path

import click

from stage.demo import Demo
from stage.folder import ROOT, StageError


@click.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65000), help="Port of the shop.")
@click.option("--local", is_flag=True, help="Serve only this machine, no phones in the network.")
@click.option(
    "--folder",
    default=ROOT / "instance" / "demo",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for databases, e-mails and logs.  [default: instance/demo]",
)
@click.option("--fresh", is_flag=True, help="Start without the orders of the last demo.")
def main(port: int, local: bool, folder: Path, fresh: bool) -> None:
    """Run the shop, its worker and the sandbox gateway until Ctrl-C.

    Needs neither an account nor a network.
    """
    stop = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    demo, failure = None, ""
    try:
        demo = Demo(folder, port, local=local, say=click.echo)
        demo.start(fresh=fresh, stop=stop)
        demo.watch(stop)
    except (StageError, OSError, RuntimeError) as error:  # such as a folder that can't be created, a closed terminal
        failure = f"Error: {error}"
    finally:
        if demo is not None:
            demo.end()
    if failure:
        click.echo(failure, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m stage")
