"""The commands `flask --app app staff …`: who may sign in to the dashboard."""

import click
from flask.cli import AppGroup

from shop import staff as accounts
from shop.mail import ADDRESS
from shop.ops.errors import plain_errors
from shop.text import one_line


@click.group("staff", cls=AppGroup)
def staff() -> None:
    """Add members of staff, set their passwords, and disable them."""


def _address(_context: click.Context, _parameter: click.Parameter, typed: str) -> str:
    email = accounts.clean_email(typed)
    if not ADDRESS.fullmatch(email):
        raise click.BadParameter("write an e-mail address, like name@example.com")
    return email


def _password(_context: click.Context, _parameter: click.Parameter, typed: str) -> str:
    if not accounts.MIN_PASSWORD <= len(typed) <= accounts.MAX_PASSWORD:
        raise click.BadParameter(f"give {accounts.MIN_PASSWORD} characters or more, such as four words")
    return typed


email_argument = click.argument("email", callback=_address)
password_option = click.option(
    "--password",
    prompt=True,
    hide_input=True,
    confirmation_prompt=True,
    callback=_password,
    help="Asked for if not given: others on this machine can read a command line.",
)


@staff.command("add")
@email_argument
@click.option("--name", prompt=True, help="As others read it in the history of orders.")
@password_option
def add(email: str, name: str, password: str) -> None:
    """Add somebody who may sign in at /dashboard/, or let somebody sign in again."""
    if not one_line(name):
        raise click.BadParameter("give a name", param_hint="--name")
    with plain_errors():
        added = accounts.add(email, one_line(name)[:120], password)
    if not added:
        raise click.ClickException(f"{email} can sign in already. To set a password: flask staff password {email}")
    click.echo(f"{email} can sign in at /dashboard/.")


@staff.command("password")
@email_argument
@password_option
def set_password(email: str, password: str) -> None:
    """Set somebody's password. They are signed out everywhere."""
    with plain_errors():
        person = accounts.find(email)
        done = person is not None and accounts.set_password(person, password)
    if not done:
        raise click.ClickException(f"Nobody can sign in as {email}. To add somebody: flask staff add {email}")
    click.echo(f"The password of {email} is set. They are signed out everywhere.")


@staff.command("disable")
@email_argument
def disable(email: str) -> None:
    """Let somebody no longer sign in. What they did keeps their name."""
    with plain_errors():
        person = accounts.find(email)
        if person is None:
            raise click.ClickException(f"Nobody can sign in as {email}.")
        accounts.disable(person.id)
    click.echo(f"{email} is signed out everywhere, and can't sign in any more.")
