"""The stylesheet: the files of `static/css/` in one response, since a browser waits for each before it paints."""

import hashlib
from functools import cache
from pathlib import Path

from flask import Flask

from shop.config import settings_of

FIRST = ("tokens.css", "base.css")
"""They set the order of the layers, which decides between rules of different files."""


def style(app: Flask) -> str:
    """Return all rules, with the shop's accent colour."""
    return _join(Path(app.root_path, "static", "css"), f"{app.static_url_path}/", settings_of(app).shop_accent)


def style_mark(app: Flask) -> str:
    """Return ten digits of the stylesheet's digest, for its address."""
    return hashlib.sha256(style(app).encode()).hexdigest()[:10]


@cache
def _join(folder: Path, static_url: str, accent: str) -> str:
    files = [folder / name for name in FIRST]
    files += sorted(set(folder.glob("*.css")) - set(files))
    rules = "\n".join(file.read_text(encoding="utf-8") for file in files).replace("../", static_url)
    if accent:  # a lighter shade in dark mode, for the same contrast
        rules += f":root {{ --brand: light-dark({accent}, color-mix(in oklab, {accent}, white 55%)); }}\n"
    return rules
