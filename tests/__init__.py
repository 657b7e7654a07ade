"""Tests of the shop, the sandbox and the stage."""
