"""The test vectors of docs/vectors, as bytes."""

import base64
import json
from typing import Any

import pytest

from tests.children import ROOT


def read(name: str) -> Any:
    """A file of vectors."""
    return json.loads((ROOT / "docs" / "vectors" / name).read_text(encoding="utf-8"))


def each(name: str) -> pytest.MarkDecorator:
    """Run a test with each vector of a file."""
    vectors = read(name)["vectors"]
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def body(vector: dict[str, Any]) -> bytes:
    """A vector's body."""
    pieces = vector["body"] if isinstance(vector["body"], list) else [vector["body"]]
    return b"".join(map(_piece, pieces))


def _piece(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    return base64.b64decode(piece["base64"]) if "base64" in piece else piece["repeat"].encode() * piece["times"]
