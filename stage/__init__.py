"""Starts, watches and ends the programs of a demonstration. It imports neither shop nor sandbox: it runs them."""
