"""The optional e-mail after a failed attempt ("The callback"), as an .eml file."""

from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from sandbox.records import Attempt, Delivery


def write_failure_mail(folder: Path, delivery: Delivery, attempt: Attempt, again_at: datetime | None) -> None:
    """Write the e-mail about a failed attempt, without the secret.

    `again_at` is the time of the retry (UTC), None after the last attempt. Raises `OSError`.
    """
    message = EmailMessage()
    message["From"] = "Sandbox gateway <sandbox@example.com>"
    message["To"] = "The merchant <merchant@example.com>"
    message["Date"] = format_datetime(attempt.started_at)
    message["Subject"] = f"Callback attempt {attempt.number} failed for invoice {delivery.invoice_id}"
    answer = f"HTTP {attempt.status}" if attempt.status else attempt.error
    outlook = "This was the last attempt. Send the callback from your account, or mark the order paid in your shop."
    if again_at:
        outlook = f"The next attempt follows at {again_at:%Y-%m-%d %H:%M:%S} UTC. You don't need to do anything."
    message.set_content(
        f"Invoice {delivery.invoice_id} is paid, but your shop did not accept the callback.\n\n"
        f"Sent to: {attempt.url}\nAnswer: {answer} (expected: HTTP 200)\n\n{outlook}\n"
        "\nThis is a sandbox: no real money moved.\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{delivery.invoice_id}-{delivery.id}-{attempt.number:02}.eml").write_bytes(bytes(message))
