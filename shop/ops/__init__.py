"""Operators' tools: commands, checks, audit, backup, logs, the web server."""
