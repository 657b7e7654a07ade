"""E-mails: rendered from `templates/email/`, sent by SMTP or written as .eml files (`MAIL_URL`)."""

import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import format_datetime, formataddr
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from flask import current_app
from flask_babel import force_locale

from models import Order, OutboxMessage
from shop.config import settings

SMTP_TIMEOUT = 20  # seconds
ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
"""An e-mail address. No `=` or `?` before the @: together they could be read as an encoded word."""


def order_link(order: Order) -> str:
    """Return the address that shows all of an order to whoever holds it. Only for the customer's mailbox."""
    return f"{settings.public_url}{order.path}?key={order.key}"


def send(message: OutboxMessage, to: str, locale: str, **context: Any) -> None:
    """Render a mail in a language and send it.

    Args:
        message: of the outbox; its kind names the template, whose first line is the subject. A repeated send has the
            same Message-ID, so that mailboxes can deduplicate.
        to: one address.
        locale: language code.
        context: variables of the template.

    Raises:
        OSError, smtplib.SMTPException: it could not be sent; the outbox retries.
    """
    with force_locale(locale):
        text = current_app.jinja_env.get_template(f"email/{message.kind.value}.txt").render(**context)
    subject, _, body = text.strip().partition("\n")
    host = urlsplit(settings.public_url).hostname or "localhost"
    mail = EmailMessage()
    mail["Subject"] = " ".join(subject.split())
    mail["From"] = formataddr((settings.shop_name, _sender(host)))
    mail["To"] = to
    mail["Date"] = format_datetime(message.created_at)
    mail["Message-ID"] = f"<{message.key.replace(':', '.')}.{message.created_at:%Y%m%d%H%M%S%f}@{host}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(re.sub(r"\n{3,}", "\n\n", body.strip()) + "\n")
    mail["Content-Language"] = locale
    if settings.mail_url.startswith(("smtp://", "smtps://")):
        with mail_server(urlsplit(settings.mail_url), SMTP_TIMEOUT) as server:
            # The recipient is given explicitly: a parser could read more than one address in the header.
            server.send_message(mail, to_addrs=[to])
    else:
        folder = Path(settings.mail_url)
        folder.mkdir(parents=True, exist_ok=True)
        # Named after the message: sent twice, it is still one file.
        (folder / f"{re.sub('[^a-z0-9]', '-', message.key)}.eml").write_bytes(mail.as_bytes())


def _sender(host: str) -> str:
    contact = str(settings.shop_contact)
    return contact if ADDRESS.fullmatch(contact) else f"orders@{host}"


@contextmanager
def mail_server(url: SplitResult, timeout: float) -> Iterator[smtplib.SMTP]:
    """Connect to a mail server and log in; `timeout` is in seconds, for each step.

    Raises:
        OSError, smtplib.SMTPException: no connection, no encrypted one for the password, or the login failed.
    """
    host, context = url.hostname or "localhost", ssl.create_default_context()
    if url.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, url.port or 465, timeout=timeout, context=context)
    else:
        server = smtplib.SMTP(host, url.port or 25, timeout=timeout)
    with server:
        server.ehlo()  # tells the server's extensions
        if url.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=context)
        elif url.scheme == "smtp" and url.username:
            raise smtplib.SMTPException("the mail server offers no encryption, so the password is not sent")
        if url.username:
            server.login(unquote(url.username), unquote(url.password or ""))
        yield server
