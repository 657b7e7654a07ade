"""Each row of docs/faults.md is a test that carries the row's number."""

import re
from pathlib import Path


def listed_rows() -> list[tuple[int, str]]:
    """Number and last cell of each row of the page's tables."""
    page = (Path(__file__).parents[1] / "docs" / "faults.md").read_text(encoding="utf-8")
    return [(int(number), must) for number, must in re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", page, re.MULTILINE)]


def named_rows() -> set[int]:
    """The rows that names of tests begin with: `test_row_5_…`, `test_rows_17_and_18_…`, `test_rows_22_to_33_…`."""
    found = set()
    for file in Path(__file__).parent.rglob("test_*.py"):
        for text in re.findall(r"def test_rows?_((?:\d+_(?:and_|to_)?)+)", file.read_text(encoding="utf-8")):
            numbers = [int(number) for number in re.findall(r"\d+", text)]
            found |= set(range(numbers[0], numbers[-1] + 1)) if "_to_" in text else set(numbers)
    return found


def test_every_row_has_a_test_and_every_test_its_row() -> None:
    rows = {number for number, _ in listed_rows()}
    assert len(rows) >= 73
    assert named_rows() == rows


def test_the_page_lists_every_row_once() -> None:
    numbers = [number for number, _ in listed_rows()]
    assert len(set(numbers)) == len(numbers)
