"""Each row of docs/faults.md is a test that carries the row's number, or stands here with the reason why not."""

import re
from pathlib import Path

ROWS = {*range(1, 70), 74, 75, 82, 88, 91, 97, 102, 106, 108}
TO_COME = {
    51: "session fixation and replay: there is nothing to sign in to yet",
    52: "guessing of passwords: there is nothing to sign in to yet",
}


def named_rows() -> set[int]:
    """The rows that names of tests begin with: `test_row_5_…`, `test_rows_17_and_18_…`, `test_rows_22_to_33_…`."""
    found = set()
    for file in Path(__file__).parent.rglob("test_*.py"):
        for text in re.findall(r"def test_rows?_((?:\d+_(?:and_|to_)?)+)", file.read_text(encoding="utf-8")):
            numbers = [int(number) for number in re.findall(r"\d+", text)]
            found |= set(range(numbers[0], numbers[-1] + 1)) if "_to_" in text else set(numbers)
    return found


def test_every_row_has_a_test_or_a_reason() -> None:
    assert named_rows() == ROWS - set(TO_COME)


def test_the_page_lists_every_row_once_and_says_what_is_to_come() -> None:
    page = (Path(__file__).parents[1] / "docs" / "faults.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", page, re.MULTILINE)
    assert [int(number) for number, _ in listed] == sorted(ROWS)
    assert {int(number) for number, must in listed if must.startswith("to come")} == set(TO_COME)
