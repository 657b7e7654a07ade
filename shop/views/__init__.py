"""The pages, a file an area. A view loads, calls one rule named for its intention, and responds."""

from flask import Flask

from shop.views import basket, callback, catalogue, checkout, order, site


def register(app: Flask) -> None:
    """Mount all pages."""
    for area in (site, catalogue, basket, checkout, order, callback):
        app.register_blueprint(area.bp)
