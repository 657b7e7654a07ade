"""Conformance: puts a running shop, in whatever language, through every case, and says what it did well and badly.

It knows nothing of the shop's inside: it sees what the shop asks the gateway for, what it answers to callbacks, and
the page that a customer sees. Read `checks.py` (what is checked, and why), `run.py` (how), `shops.py` (how orders are
placed), `report.py`.
"""
