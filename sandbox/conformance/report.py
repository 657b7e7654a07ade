"""A run's results as text, as JUnit XML, as a page, and as a badge."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import click
from flask import render_template

from sandbox.conformance.judges import ALL
from sandbox.conformance.run import Result, Verdict

COLOURS = {Verdict.PASSED: "green", Verdict.ANSWER_ONLY: "cyan", Verdict.FAILED: "red", Verdict.NOT_RUN: "yellow"}
RULES = (
    "Store the order first, then ask for the invoice, with an exact amount",
    "Show a payment link only from an answer that is right in every field",
    "Limit how long you wait and how much you read",
    "When the outcome is unknown, ask again",
    "Keep the secret secret",
    "Only the callback marks an order paid",
    "Find the order by the secret, and by nothing else",
    "Answer 200 only after the commit",
    "Expect everything twice",
    "Never refuse money",
)
"""The headlines of the ten rules, in docs/any-language.md."""


def rule_of(result: Result) -> str:
    """Return the rule that a case checks, with its place in the documentation."""
    number = ALL[result.name].rule
    return f"rule {number}: {RULES[number - 1]} (docs/any-language.md#rule-{number})"


def line(result: Result) -> str:
    """Return a result as one line of progress."""
    return f"{click.style(f'{result.verdict.value:11}', fg=COLOURS[result.verdict])} {result.name:15} {result.seen}"


def summary(results: Sequence[Result]) -> str:
    """Return how many results there are of each verdict."""
    count = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    return ", ".join(f"{number} {verdict.value}" for verdict, number in count.items())


def table(results: Sequence[Result]) -> str:
    """Return what did not pass, with what was expected, and why, and the counts of all results."""
    lines = []
    for result in results:
        if result.verdict is not Verdict.PASSED:
            case = ALL[result.name]
            lines += [line(result), *(f"{'':12}{text}" for text in (f"a shop must {case.must}", case.why))]
            lines += [f"{'':12}{rule_of(result)}", f"{'':12}again: {result.again or 'run this again'}", ""]
    return "\n".join([*lines, summary(results)])


def write_junit(file: Path, results: Sequence[Result]) -> None:
    """Write the results as JUnit XML, for CI systems. Raises `OSError`."""
    suite = ElementTree.Element("testsuite", name="conformance", tests=str(len(results)))
    for verdict, name in ((Verdict.FAILED, "failures"), (Verdict.NOT_RUN, "skipped")):
        suite.set(name, str(sum(result.verdict is verdict for result in results)))
    for result in results:
        element = ElementTree.SubElement(suite, "testcase", classname="conformance", name=result.name)
        if result.verdict is Verdict.FAILED:
            message = f"expected: {ALL[result.name].must}; seen: {result.seen}"
            text = f"{ALL[result.name].why}\n{rule_of(result)}\n{result.again}"
            ElementTree.SubElement(element, "failure", message=_in_xml(message)).text = _in_xml(text)
        elif result.verdict is Verdict.NOT_RUN:
            ElementTree.SubElement(element, "skipped", message=result.seen)
        else:
            ElementTree.SubElement(element, "system-out").text = f"{result.verdict.value}: {result.seen}"
    ElementTree.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)


def _in_xml(text: str) -> str:
    """Return a text without what XML can't have: a shop's page may hold any character."""
    return re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd]", "\N{REPLACEMENT CHARACTER}", text)


def write_page(file: Path, results: Sequence[Result], template: str) -> None:
    """Write the results with a template of the sandbox: a page, or a badge. Raises `OSError`.

    The badge says that whoever shows it has issued it: nobody else has seen the run.
    """
    rows = [(result, ALL[result.name], rule_of(result)) for result in results]
    passed = sum(result.verdict is Verdict.PASSED for result in results)
    text = render_template(
        template,
        rows=rows,
        passed=passed,
        summary=summary(results),
        failed=any(result.verdict is Verdict.FAILED for result in results),
        today=f"{datetime.now(UTC):%Y-%m-%d}",
    )
    file.write_text(text, encoding="utf-8")
