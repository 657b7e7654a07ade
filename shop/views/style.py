"""The two stylesheets: the files of `static/css/` in one response, since a browser waits for each before it paints,
and those of `static/css/dashboard/`, which only the dashboard's pages need."""

import hashlib
from functools import cache
from pathlib import Path

from flask import Flask

from shop.config import settings_of

FIRST = ("tokens.css", "base.css")
"""They set the order of the layers, which decides between rules of different files."""


def style(app: Flask, name: str = "style") -> str:
    """Return all rules of `style` or `dashboard`; the first has the shop's accent colour."""
    folder = Path(app.root_path, "static", "css")
    if name == "dashboard":
        return _join(folder / name, "", "")
    return _join(folder, f"{app.static_url_path}/", settings_of(app).shop_accent)


def style_mark(app: Flask, name: str = "style") -> str:
    """Return ten digits of a stylesheet's digest, for its address."""
    return hashlib.sha256(style(app, name).encode()).hexdigest()[:10]


@cache
def _join(folder: Path, static_url: str, accent: str) -> str:
    found = set(folder.glob("*.css"))
    first = [folder / name for name in FIRST if folder / name in found]
    files = first + sorted(found - set(first))
    rules = "\n".join(file.read_text(encoding="utf-8") for file in files).replace("../", static_url)
    if accent:  # a lighter shade in dark mode, for the same contrast
        rules += f":root {{ --brand: light-dark({accent}, color-mix(in oklab, {accent}, white 55%)); }}\n"
    return rules
