"""The pages, one module per area.

A view loads what it needs, calls one business function and responds.
"""

from flask import Flask

from shop.views import basket, callback, catalogue, checkout, dashboard, order, site
from shop.views.dashboard import sign_in


def register(app: Flask) -> None:
    """Register the blueprints of all areas."""
    for area in (site, catalogue, basket, checkout, order, callback, sign_in, dashboard):
        app.register_blueprint(area.bp)
