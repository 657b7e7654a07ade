"""Conformance run: checks how a running shop, in any language, handles every case.

It sees the shop's requests for invoices, its answers to callbacks, the customer's page, and two numbers: how many
payments and deliveries are stored. Read `judges.py` (what is checked, and how), `run.py` (placing orders, and judging
what came of them), `shops.py` (the shop as its customers use it), `report.py`.
"""
