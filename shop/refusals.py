"""What a customer is told when an order can't be placed or resumed as asked."""

from collections.abc import Sequence

from flask_babel import LazyString
from flask_babel import lazy_gettext as _

from models import Order, Product, localized


class Refusal(Exception):
    """An order that cannot be placed or resumed as asked. Nothing was changed; the text is for the customer."""

    unpaid: Sequence[tuple[str, str]] = ()
    """Token and number of the customer's own orders that stand in the way."""

    def __init__(self, message: LazyString) -> None:
        """Keep what the customer reads."""
        super().__init__(message)
        self.message = message


class BasketChanged(Refusal):
    """The basket is no longer what the checkout form showed."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__(_("Your basket has changed since. Please look at it once more."))


class TotalChanged(Refusal):
    """The order would now cost something else than the customer saw."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__(_("The total has changed since. Please confirm the new one."))


class SoldOut(Refusal):
    """There is less of a product left than is wanted."""

    def __init__(self, product: Product) -> None:
        """Name the product."""
        texts = product.name  # read while the transaction is open
        name = LazyString(lambda: localized(texts))
        super().__init__(_("There is not enough left of %(name)s.", name=name))


class TooManyUnpaid(Refusal):
    """Goods are held in as many unpaid orders as one may have. Holding costs nothing, and could empty the shop."""

    def __init__(self, message: LazyString, own: Sequence[Order]) -> None:
        """Keep which of these orders are this browser's own, which it can pay or cancel."""
        super().__init__(message)
        self.unpaid = [(order.token, order.number) for order in own]
