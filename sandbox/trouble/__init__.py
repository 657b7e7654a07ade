"""Fault cases on demand: what happens to real payments sooner or later.

`replies.py` has the faulty answers to a request for an invoice, `callbacks.py` the faulty callbacks, `cases.py` what a
case is, `views.py` the endpoint that starts them.
"""

from sandbox.trouble import callbacks, replies
from sandbox.trouble.cases import CASES, Case

__all__ = ["BUTTONS", "CASES", "Case", "callbacks", "replies"]

BUTTONS = tuple(CASES[name] for name in ("duplicate", "late", "forged", "slow", "last-unit", "never"))
"""The cases with a button in the account: the ones that are easy to understand."""
