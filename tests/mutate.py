"""Small wrong changes: does `make test` notice them? `python -m tests.mutate --help`

Each change is tried in a copy of the checkout, with the quickest tests first that run the changed line, then with all
tests that run its file. What survives is printed as a diff: a test is missing, the code is not needed, or the change
makes no difference.
"""

import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import click
from coverage import CoverageData

from tests.children import ROOT, forget_settings

FAST = "not slow and not postgres and not browser"
FIRST = 40
"""So many of the quickest tests are tried first."""
SECONDS = 240
OPPOSITES: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}


@dataclass(frozen=True)
class Change:
    """A part of a file, and what takes its place."""

    file: str
    line: int
    start: int
    end: int
    """Positions in the file's text."""
    new: str

    def apply(self, text: str) -> str:
        """The file's text with the change."""
        return text[: self.start] + self.new + text[self.end :]

    def show(self, text: str) -> str:
        """The changed lines, before and after."""
        begin, end = text.rfind("\n", 0, self.start) + 1, text.find("\n", self.end)
        after = text[begin : self.start] + self.new + text[self.end : end]
        return f"{self.file}:{self.line}\n  - {text[begin:end].strip()}\n  + {after.strip()}"


class Changes:
    """All small changes of a file."""

    def __init__(self, file: str) -> None:
        self.file, self.text = file, (ROOT / file).read_text(encoding="utf-8")
        starts = [0]
        for line in self.text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._starts, self._lines = starts, self.text.splitlines(keepends=True)

    def __iter__(self) -> Iterator[Change]:
        for node in ast.walk(ast.parse(self.text)):
            for name in (type(node).__name__, "keywords" if isinstance(node, ast.Call) else ""):
                yield from getattr(self, f"_{name.lower()}", lambda _: ())(node)

    def _position(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._position(node.lineno, node.col_offset)
        return start, self._position(node.end_lineno, node.end_col_offset)

    def _replace(self, node: ast.expr | ast.stmt | ast.keyword, new: str) -> Iterator[Change]:
        yield Change(self.file, node.lineno, *self._span(node), new)

    def _between(self, left: ast.expr, right: ast.expr, new: str) -> Iterator[Change]:
        """Another operator between two operands."""
        start, end = self._span(left)[1], self._span(right)[0]
        found = self.text[start:end]
        if found.strip(" ()\n") and "#" not in found:
            core = found.strip(" ()\n")
            at = start + found.index(core)
            yield Change(self.file, left.end_lineno or left.lineno, at, at + len(core), new)

    def _compare(self, node: ast.Compare) -> Iterator[Change]:
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            yield from self._between(left, right, OPPOSITES[type(operator)])

    def _boolop(self, node: ast.BoolOp) -> Iterator[Change]:
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from self._between(left, right, "or" if isinstance(node.op, ast.And) else "and")

    def _binop(self, node: ast.BinOp) -> Iterator[Change]:
        other = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.FloorDiv: "*"}.get(type(node.op))
        if other and not isinstance(node.left, ast.Constant | ast.JoinedStr):
            yield from self._between(node.left, node.right, other)

    def _unaryop(self, node: ast.UnaryOp) -> Iterator[Change]:
        if isinstance(node.op, ast.Not):
            start, end = self._span(node.operand)
            yield from self._replace(node, f"({self.text[start:end]})")

    def _constant(self, node: ast.Constant) -> Iterator[Change]:
        if isinstance(node.value, bool):
            yield from self._replace(node, str(not node.value))
        elif isinstance(node.value, int):
            yield from self._replace(node, str(node.value + 1))

    def _expr(self, node: ast.Expr) -> Iterator[Change]:
        if isinstance(node.value, ast.Call):
            yield from self._replace(node, "pass")

    def _return(self, node: ast.Return) -> Iterator[Change]:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield from self._replace(node, "return None")

    def _keywords(self, node: ast.Call) -> Iterator[Change]:
        """A named argument left out."""
        for keyword in node.keywords if len(node.args) + len(node.keywords) > 1 else ():
            start, end = self._span(keyword)
            rest = len(self.text[end:]) - len(self.text[end:].lstrip(" ,\n"))
            before = self.text[:start].rstrip()
            if self.text[end : end + rest].count(","):
                yield Change(self.file, keyword.lineno, start, end + rest, "")
            elif before.endswith(","):
                yield Change(self.file, keyword.lineno, len(before) - 1, end, "")

    def _dict(self, node: ast.Dict) -> Iterator[Change]:
        """An entry left out."""
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None and len(node.keys) > 1:
                start, end = self._span(key)[0], self._span(value)[1]
                comma = self.text[end:].lstrip().startswith(",")
                yield Change(self.file, key.lineno, start, end + (self.text[end:].index(",") + 1 if comma else 0), "")

    def _functiondef(self, node: ast.FunctionDef) -> Iterator[Change]:
        for decorator in node.decorator_list:
            start, end = self._span(decorator)
            yield Change(self.file, decorator.lineno, start - 1, end, "")


# --- Which tests to run ----------------------------------------------------------------------------------------------


class Map:
    """Which tests run which lines, and how long they take."""

    def __init__(self, folder: Path) -> None:
        self._data = CoverageData(str(folder / "coverage"))
        self._data.read()
        self._seconds: dict[str, float] = defaultdict(float)
        for case in ET.parse(folder / "junit.xml").iter("testcase"):
            name = f"{case.get('classname')}.{str(case.get('name')).partition('[')[0]}"
            self._seconds[name] += float(case.get("time", 0))

    def tests(self, change: Change) -> tuple[list[str], list[str]]:
        """The tests that run the line, and all of the file, the quickest first."""
        by_line = self._data.contexts_by_lineno(str(ROOT / change.file))
        of_file = {name for names in by_line.values() for name in names if name}
        of_line = {name for name in by_line.get(change.line, []) if name}
        if not of_line:  # it may run in a program that a test starts, which was not recorded
            of_file |= starting_programs()
        return self._ids(of_line or of_file), self._ids(of_file)

    def _ids(self, contexts: set[str]) -> list[str]:
        known = sorted((name for name in contexts if name in self._seconds), key=self._seconds.__getitem__)
        return ["{}.py::{}".format(*name.rpartition(".")[::2]).replace(".", "/", name.count(".") - 1) for name in known]


def starting_programs() -> set[str]:
    """The tests that start the shop as a program of its own, by a fixture that does or by one of their module."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        needs = {node.name: {one.arg for one in node.args.args} for node in functions}
        starting = {"start", "serve"}
        while more := {name for name, needed in needs.items() if needed & starting} - starting:
            starting |= more
        found |= {f"{module}.{name}" for name in starting if name.startswith("test_")}
    return found


def record(folder: Path) -> None:
    """Run the fast tests once, and note which lines each runs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "coveragerc").write_text(
        f"[run]\ndata_file = {folder / 'coverage'}\ndynamic_context = test_function\nsource = .\n"
        "omit = tests/*\nconcurrency = thread\n"
    )
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={folder / 'coveragerc'}", "-m", "pytest", "-q"]
    command += ["-m", FAST, f"--junitxml={folder / 'junit.xml'}"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise click.ClickException("first make these tests pass as they are")


# --- Trying ----------------------------------------------------------------------------------------------------------


def copy_of_the_checkout(folder: Path) -> Path:
    """A copy to change, with the same virtual environment."""
    unneeded = shutil.ignore_patterns(".venv", "instance", "node_modules", "__pycache__", ".*_cache", ".env")
    shutil.copytree(ROOT, folder, ignore=unneeded)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def passes(checkout: Path, tests: list[str]) -> bool:
    """Whether these tests pass there. What hangs does not."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", FAST, *tests]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    try:
        ran = subprocess.run(
            command,
            cwd=checkout,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0


def verdict(change: Change, checkout: Path, known: Map) -> str:
    """`caught`, `survived`, or `no test` runs the file."""
    of_line, of_file = known.tests(change)
    if not of_file:
        return "no test"
    file = checkout / change.file
    before = file.read_text(encoding="utf-8")
    try:
        file.write_text(change.apply(before), encoding="utf-8")
        first = of_line[:FIRST]
        rest = [test for test in (*of_line, *of_file) if test not in first]
        for tests in filter(None, (first, list(dict.fromkeys(rest)))):
            if not passes(checkout, tests):
                return "caught"
    finally:
        file.write_text(before, encoding="utf-8")
    return "survived"


@click.command()
@click.argument("files", nargs=-1)
@click.option("--sample", default=100, show_default=True, help="How many changes to try; 0 for all.")
@click.option("--seed", default=1, show_default=True, help="Another seed draws other changes.")
@click.option("--jobs", default=os.cpu_count() or 2, show_default=True, help="How many at the same time.")
@click.option("--again", is_flag=True, help="Use the last run's record of which tests run which lines.")
def main(files: tuple[str, ...], sample: int, seed: int, jobs: int, again: bool) -> None:
    """Try small wrong changes of FILES, by default `amwal.py` and all of `shop/`."""
    forget_settings()
    folder = ROOT / "instance" / "mutations"
    if not again:
        record(folder)
    known = Map(folder)
    paths = files or ("amwal.py", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "shop").rglob("*.py")))
    changes = [change for path in paths for change in Changes(path)]
    drawn = changes if not sample else random.Random(seed).sample(changes, min(sample, len(changes)))
    click.echo(f"{len(drawn)} of {len(changes)} changes, seed {seed}")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(jobs) as pool:
        free: Queue[Path] = Queue()
        for number in range(jobs):
            free.put(copy_of_the_checkout(Path(temporary) / str(number)))

        def judge(change: Change) -> tuple[Change, str]:
            checkout = free.get()
            try:
                return change, verdict(change, checkout, known)
            finally:
                free.put(checkout)

        for number, (change, found) in enumerate(pool.map(judge, drawn), 1):
            counts[change.file][found] += 1
            if found != "caught":
                text = (ROOT / change.file).read_text(encoding="utf-8")
                click.echo(f"{number}. {found}: {change.show(text)}")
    total = sum(counts.values(), Counter[str]())
    for name, count in [*sorted(counts.items()), ("all", total)]:
        click.echo(f"{name:32} tried {count.total():4}  caught {count['caught']:4}  survived {count['survived']:4}")
    sys.exit(1 if total["survived"] + total["no test"] else 0)


if __name__ == "__main__":
    main()
