"""E-mails: rendered from `templates/email/`, sent by SMTP or laid down as .eml files, as `MAIL_URL` says."""

import re
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime, formataddr
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flask import current_app
from flask_babel import force_locale

from models import Order, now

SMTP_TIMEOUT = 20  # seconds


def order_link(order: Order) -> str:
    """The address that opens the whole order to whoever holds it. It goes to the customer's mailbox only."""
    return f"{current_app.config['PUBLIC_URL']}/orders/{order.token}?key={order.key}"


def send(to: str, template: str, locale: str, key: str, **context: Any) -> None:
    """Render a mail in a language and send it.

    Args:
        to: one address.
        template: a name in `templates/email/`; the first line of that text is the subject.
        locale: language code.
        key: names this mail for good. A repeated send has the same Message-ID, so that mailboxes can drop it.
        context: what the template needs.

    Raises:
        OSError, smtplib.SMTPException: it could not be handed over; the outbox tries again.
    """
    config = current_app.config
    with force_locale(locale):
        text = current_app.jinja_env.get_template(f"email/{template}.txt").render(**context)
    subject, _, body = text.strip().partition("\n")
    host = urlsplit(config["PUBLIC_URL"]).hostname
    message = EmailMessage()
    message["Subject"] = " ".join(subject.split())
    message["From"] = formataddr((config["SHOP_NAME"], _sender(host or "localhost")))
    message["To"] = to
    message["Date"] = format_datetime(now())
    message["Message-ID"] = f"<{re.sub(r'[^a-z0-9]', '.', key)}@{host}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(re.sub(r"\n{3,}", "\n\n", body.strip()) + "\n")
    message["Content-Language"] = locale
    _hand_over(message, config["MAIL_URL"], key)


def _sender(host: str) -> str:
    contact = str(current_app.config["SHOP_CONTACT"])
    return contact if "@" in contact else f"orders@{host}"


def _hand_over(message: EmailMessage, url: str, key: str) -> None:
    if not url.startswith(("smtp://", "smtps://")):
        folder = Path(url)
        folder.mkdir(parents=True, exist_ok=True)
        # Named after its key: sent twice, it is still one file.
        (folder / f"{re.sub(r'[^a-z0-9]', '-', key)}.eml").write_bytes(message.as_bytes())
        return
    parts = urlsplit(url)
    client = smtplib.SMTP_SSL if parts.scheme == "smtps" else smtplib.SMTP
    with client(parts.hostname or "localhost", parts.port or 0, timeout=SMTP_TIMEOUT) as server:
        if parts.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        server.send_message(message)
