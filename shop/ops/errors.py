"""Errors of the commands, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from shop.db import sqlite_file


@contextmanager
def plain_errors(file: Path | str = "", *, must_exist: bool = True) -> Iterator[None]:
    """Report errors in one line. A missing database isn't opened, which would create an empty one."""
    if must_exist and (database := sqlite_file()) and not database.exists():
        raise click.ClickException(f"There is no database {database}. See flask --app app doctor.")
    try:
        yield
    except SQLAlchemyError as error:
        raise click.ClickException("The database does not answer. See flask --app app doctor.") from error
    except OSError as error:
        raise click.ClickException(f"{file or error.filename}: {error.strerror}.") from None
