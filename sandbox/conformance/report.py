"""A run's results as text and as JUnit XML."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import click

from sandbox.conformance.checks import ALL, Result, Verdict

COLOURS = {Verdict.PASSED: "green", Verdict.FAILED: "red", Verdict.NOT_RUN: "yellow"}
NOT_SEEN = "its shared order was not placed"


def complete(results: Mapping[str, Result]) -> list[Result]:
    """Return a result per check, in the order of `ALL`; missing ones are *not run*."""
    return [results.get(check.name, Result(check.name, Verdict.NOT_RUN, NOT_SEEN)) for check in ALL]


def line(result: Result) -> str:
    """Return a result as one line of progress."""
    return f"{click.style(f'{result.verdict.value:8}', fg=COLOURS[result.verdict])} {result.name:15} {result.seen}"


def table(results: list[Result]) -> str:
    """Return all results with their expectations and reasons, and the counts."""
    lines = []
    for check, result in zip(ALL, results, strict=True):
        lines += [line(result), f"         expected: {check.expected}", f"         why: {check.why}"]
    count = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    return "\n".join([*lines, "", ", ".join(f"{number} {verdict.value}" for verdict, number in count.items())])


def write_junit(file: Path, results: list[Result]) -> None:
    """Write the results as JUnit XML, for CI systems. Raises `OSError`."""
    suite = ElementTree.Element("testsuite", name="conformance", tests=str(len(results)))
    for verdict, name in ((Verdict.FAILED, "failures"), (Verdict.NOT_RUN, "skipped")):
        suite.set(name, str(sum(result.verdict is verdict for result in results)))
    for check, result in zip(ALL, results, strict=True):
        case = ElementTree.SubElement(suite, "testcase", classname="conformance", name=check.name)
        if result.verdict is Verdict.FAILED:
            message = f"expected: {check.expected}; seen: {result.seen}"
            ElementTree.SubElement(case, "failure", message=message).text = check.why
        elif result.verdict is Verdict.NOT_RUN:
            ElementTree.SubElement(case, "skipped", message=result.seen)
    ElementTree.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)
