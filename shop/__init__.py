"""The shop's rules. Read `architecture` in docs/ for the map; the money's way starts in views/checkout.py."""
