"""A verdict for continuous integration: as JUnit XML, which CI servers show as tests, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from xml.etree import ElementTree

import click

if TYPE_CHECKING:
    from qonnx_pipe.core.verdict import Gate, Result, Verdict

Command = TypeVar("Command", bound=Callable[..., object])

NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd]")
"""Characters that XML cannot hold, such as a terminal's colours in a provider's message."""


def verdict_options(command: Command) -> Command:
    """--baseline, --junit and --markdown."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--baseline", type=path, help="An earlier verdict.json: what is worse beyond noise exits with 1."),
        click.option("--markdown", type=path, help="Write the verdict as Markdown to this file."),
        click.option("--junit", type=path, help="Write gates and failures as JUnit XML to this file."),
    ):
        command = option(command)
    return command


def conclude(verdict: Verdict, *, junit: Path | None, markdown: Path | None) -> None:
    """Write the files that were asked for, then raise the failure that the verdict stands for, if any.

    To be called last, when the verdict itself is written and shown: raises as `core.files.writing` does, too.
    """
    from qonnx_pipe.cli.verdict_table import failure
    from qonnx_pipe.core.files import write_atomic

    if junit is not None:
        write_atomic(junit, junit_xml(verdict))
    if markdown is not None:
        write_atomic(markdown, markdown_text(verdict))
    if (error := failure(verdict)) is not None:
        raise error


def junit_xml(verdict: Verdict) -> str:
    """A test case for each gate, failed where it was missed, and for each model on a provider, an error if it broke."""
    failed = sum(not gate.passed for gate in verdict.gates)
    broken = sum(bool(result.error) for result in verdict.results)
    counts = {
        "tests": str(len(verdict.gates) + len(verdict.results)),
        "failures": str(failed),
        "errors": str(broken),
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "qpipe", **counts})
    for gate in verdict.gates:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "qpipe.gates", "name": gate.name})
        if not gate.passed:
            ElementTree.SubElement(case, "failure", {"message": _said(gate)})
    for result in verdict.results:
        name = {"classname": f"qpipe.{result.provider}", "name": f"{result.model} model"}
        case = ElementTree.SubElement(suite, "testcase", name)
        if result.error:
            ElementTree.SubElement(case, "error", {"message": NO_XML.sub("?", result.error)})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def markdown_text(verdict: Verdict) -> str:
    """The verdict's word, its gates, its results: what a pull request's comment should say."""
    size = verdict.size
    parts = [
        f"**{'passed' if verdict.passed else 'not passed'}**: {size.quantized_bytes / 1e6:.1f} MB of "
        f"{size.float_bytes / 1e6:.1f} MB, {size.ratio:.2f}× smaller"
    ]
    if verdict.gates:
        rows = [(gate.name, *_measured(gate), "passed" if gate.passed else "**failed**") for gate in verdict.gates]
        parts.append(_table(("gate", "measured", "limit", ""), rows))
    parts.append(_table(("provider", "model", "accuracy", "SQNR dB", "int8 MatMuls", "speed-up"), _rows(verdict)))
    parts += [f"{one.provider}, {one.model} model: {_plain(one.error)}" for one in verdict.results if one.error]
    return "\n\n".join(parts) + "\n"


def _said(gate: Gate) -> str:
    measured, limit = _measured(gate)
    return f"{gate.name}: {measured}, must be {limit}"


def _measured(gate: Gate) -> tuple[str, str]:
    from qonnx_pipe.cli.verdict_table import gate_sign, gate_value

    return gate_value(gate.name, gate.value), f"{gate_sign(gate.name)} {gate_value(gate.name, gate.limit)}"


def _rows(verdict: Verdict) -> Iterator[tuple[str, ...]]:
    from qonnx_pipe.cli.verdict_table import metric_value

    for one in verdict.results:
        accuracy = metric_value(one.accuracy)
        sqnr = f"{one.fidelity.sqnr_db:.1f}" if one.fidelity else "–"
        kernels = f"{one.kernels.integer} of {one.kernels.total}" if one.kernels else "–"
        yield one.provider, one.model, accuracy, sqnr, kernels, _speedups(one)


def _speedups(result: Result) -> str:
    """By shape: 2.31× at 8×128."""
    found = [(f"{seen.batch}×{seen.sequence}", seen.speedup) for seen in result.latency if seen.speedup is not None]
    return ", ".join(f"{speedup:.2f}× at {shape}" for shape, speedup in found) or "–"


def _table(columns: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
