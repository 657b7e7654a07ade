"""A simulated amwal.exchange gateway, for testing a shop without real money.

It speaks the documented merchant protocol over HTTP, has its own database and imports nothing from the shop: a bug in
shared code would be on both sides and stay hidden. Start it with `python -m sandbox serve`.
"""
