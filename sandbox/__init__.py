"""The sandbox: a stand-in for the amwal.exchange gateway, to try a shop out without an account or real money.

It speaks the documented merchant protocol over real HTTP, keeps its own database and imports nothing of the shop:
code shared by both sides would hide a mistake that both sides share. Start it with `python -m sandbox serve`.
"""
