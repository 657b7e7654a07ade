"""The shop's rules. Read docs/architecture.md for the map; the payment flow starts in views/checkout.py."""
