"""Conformance run: checks how a running shop, in any language, handles every case.

It sees only the shop's requests for invoices, its answers to callbacks and the customer's page. Read `checks.py` (what
is checked, and why), `run.py` (how), `shops.py` (how orders are placed), `report.py`.
"""
