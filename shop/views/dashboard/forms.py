"""The forms of the dashboard."""

from flask_babel import lazy_gettext as _
from flask_wtf import FlaskForm
from wtforms import BooleanField, FileField, HiddenField, PasswordField
from wtforms.validators import DataRequired, Length

from shop.staff import MAX_PASSWORD, MIN_PASSWORD
from shop.text import plain
from shop.views.forms import email_line, line, paragraph


def password_line() -> PasswordField:
    """A field for one's own password."""
    present = DataRequired(_("Enter your password."))
    return PasswordField(
        _("Password"), [present, Length(max=MAX_PASSWORD)], render_kw={"autocomplete": "current-password"}
    )


def new_password_line() -> PasswordField:
    """A field for a password to be set."""
    text = _("Enter at least %(most)s characters.", most=MIN_PASSWORD)
    long = Length(MIN_PASSWORD, MAX_PASSWORD, message=text)
    return PasswordField(_("New password"), [DataRequired(text), long], render_kw={"autocomplete": "new-password"})


class SignInForm(FlaskForm):  # type: ignore[misc]
    """Address and password."""

    email = email_line()
    password = password_line()


class AddressForm(FlaskForm):  # type: ignore[misc]
    """The address of somebody who has forgotten the password."""

    email = email_line()


class NewPasswordForm(FlaskForm):  # type: ignore[misc]
    """A new password, by a link."""

    new_password = new_password_line()


class ChangePasswordForm(FlaskForm):  # type: ignore[misc]
    """A new password of one's own."""

    password = password_line()
    new_password = new_password_line()


class PersonForm(FlaskForm):  # type: ignore[misc]
    """A new member of staff; the password is of who adds them."""

    name = line(_("Name"), 120, "off", missing=_("Enter a name."))
    email = email_line()
    password = password_line()


class PasswordForm(FlaskForm):  # type: ignore[misc]
    """One's own password, asked again."""

    password = password_line()


class NoteForm(FlaskForm):  # type: ignore[misc]
    """A note about an order."""

    text = paragraph(_("Note"), 2000, missing=_("Enter a note."))


class SettleForm(FlaskForm):  # type: ignore[misc]
    """How something was settled."""

    note = line(_("Note"), 400, "off", missing=_("Enter what you did."))


class RefundForm(FlaskForm):  # type: ignore[misc]
    """Money that was sent back."""

    amount = line(_("Amount"), 20, "off", missing=_("Enter an amount such as 12.50."), clean=plain)
    reference = line(_("Reference of the transfer"), 200, "off")
    note = line(_("Note"), 400, "off", missing=_("Enter what you did."))
    password = password_line()


class DeliveryForm(FlaskForm):  # type: ignore[misc]
    """Where goods are."""

    carrier = line(_("Carrier"), 80, "off")
    tracking = line(_("Tracking link"), 500, "off", clean=plain)


class CompareForm(FlaskForm):  # type: ignore[misc]
    """The gateway's list of paid invoices, pasted or as a file."""

    ids = paragraph(_("Invoice ids"), 120_000)
    file = FileField(_("Or a file with them"))
    total = line(_("Number of paid invoices in your account"), 7, "off", clean=plain)


class ConfirmForm(FlaskForm):  # type: ignore[misc]
    """A payment that somebody saw in the gateway's account."""

    gateway_id = HiddenField()
    note = line(_("What you saw, and where"), 500, "off", missing=_("Enter what you saw."))
    password = password_line()


class CloseForm(FlaskForm):  # type: ignore[misc]
    """The sentence with which the shop is closed for a while."""

    why = line(_("A sentence for customers"), 300, "off", missing=_("Enter a sentence for customers."))


class SettingsForm(FlaskForm):  # type: ignore[misc]
    """What the merchant chooses."""

    mails_paid_orders = BooleanField(_("An e-mail for each paid order"))
