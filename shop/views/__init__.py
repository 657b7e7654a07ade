"""The pages, one module per area.

A view loads what it needs, calls one business function and responds.
"""

from flask import Flask

from shop.views import basket, callback, catalogue, checkout, order, site


def register(app: Flask) -> None:
    """Register the blueprints of all areas."""
    for area in (site, catalogue, basket, checkout, order, callback):
        app.register_blueprint(area.bp)
