"""The demo's launcher. It runs shop and sandbox as programs and imports neither."""
