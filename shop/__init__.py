"""The shop's rules. Read docs/architecture.md for the map; the money's way starts in views/checkout.py."""
