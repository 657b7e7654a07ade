"""Refusals: what isn't possible, in the words of whoever asked for it, a customer or staff."""

from collections.abc import Sequence

from flask_babel import LazyString
from flask_babel import lazy_gettext as _

from models import Order, Product, localized


class Refusal(Exception):
    """What was asked for isn't possible. Nothing was changed."""

    unpaid: Sequence[tuple[str, str]] = ()
    """Token and number of the browser's own unpaid orders, to pay or cancel first."""

    def __init__(self, message: LazyString) -> None:
        super().__init__(message)
        self.message = message


class BasketChanged(Refusal):
    """The basket differs from the one the checkout form showed."""

    def __init__(self) -> None:
        super().__init__(_("Your basket has changed. Please check it again."))


class TotalChanged(Refusal):
    """The total differs from the one the customer saw."""

    def __init__(self) -> None:
        super().__init__(_("The total has changed. Please confirm the new one."))


class SoldOut(Refusal):
    """Less of a product is left than requested."""

    def __init__(self, product: Product) -> None:
        texts = product.name  # read while the transaction is open
        name = LazyString(lambda: localized(texts))
        super().__init__(_("Not enough %(name)s left.", name=name))


class TooManyUnpaid(Refusal):
    """The limit of unpaid orders is reached.

    Reserving costs nothing, so without a limit one visitor could reserve all stock.
    """

    def __init__(self, message: LazyString, own: Sequence[Order]) -> None:
        super().__init__(message)
        self.unpaid = [(order.token, order.number) for order in own]


class TooManyUnits(Refusal):
    """More of a product than a network may reserve that reserved goods in vain before."""

    def __init__(self, product: Product, most: int) -> None:
        texts = product.name  # read while the transaction is open
        name = LazyString(lambda: localized(texts))
        super().__init__(
            _(
                "You can order at most %(most)s of %(name)s for now, as earlier orders from your internet connection "
                "weren't paid.",
                most=most,
                name=name,
            )
        )
