"""The e-mail after a failed attempt, a switch of the project ("The callback"): a file that a mail program opens."""

from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from sandbox.records import Attempt, Delivery


def tell_of_failure(folder: Path, delivery: Delivery, attempt: Attempt, again_at: datetime | None) -> None:
    """Write the e-mail for an attempt that failed. The secret is not in it. Raises `OSError` if it can't be kept."""
    message = EmailMessage()
    message["From"] = "Sandbox gateway <sandbox@example.com>"
    message["To"] = "The merchant <merchant@example.com>"
    message["Date"] = format_datetime(attempt.started_at)
    message["Subject"] = f"Callback attempt {attempt.number} failed for invoice {delivery.invoice_id}"
    answer = f"HTTP {attempt.status}" if attempt.status else attempt.error
    goes_on = "That was the last attempt. Send it again from your account, or mark the order paid in your shop by hand."
    if again_at:
        goes_on = f"The next attempt follows at {again_at:%Y-%m-%d %H:%M:%S} UTC; you need do nothing for it."
    message.set_content(
        f"Invoice {delivery.invoice_id} is paid, but your shop did not take the callback that says so.\n\n"
        f"Sent to: {attempt.url}\nAnswer: {answer} (expected: HTTP 200)\n\n{goes_on}\n"
        "\nThis comes from a sandbox: no real money moved.\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{delivery.invoice_id}-{delivery.id}-{attempt.number:02}.eml").write_bytes(bytes(message))
