"""What a CI server reads: JUnit XML that parses and counts, Markdown tables that hold."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qonnx_pipe.cli.verdict_files import conclude, junit_xml, markdown_text
from qonnx_pipe.core.verdict import Gate
from qonnx_pipe.errors import ProviderError
from tests.unit.core.test_verdict import FLOAT, QUANTIZED, VERDICT

MISSED = Gate("accuracy_drop", 0.005, 0.01, False)
BROKEN = replace(QUANTIZED, provider="openvino", error="provider failed: \x1b[31mred|\nline", latency=())
VERDICTS = replace(VERDICT, gates=(*VERDICT.gates, MISSED), results=(FLOAT, QUANTIZED, BROKEN))


def test_junit_has_a_case_for_every_gate_and_every_result():
    suite = ElementTree.fromstring(junit_xml(VERDICTS)).find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
    }
    cases = {(case.get("classname"), case.get("name")): case for case in suite}
    assert len(cases) == 5
    assert list(cases["qpipe.gates", "speedup"]) == []
    (failure,) = cases["qpipe.gates", "accuracy_drop"]
    assert (failure.tag, failure.get("message")) == ("failure", "accuracy_drop: 1.00%, must be ≤ 0.50%")
    (error,) = cases["qpipe.openvino", "quantized model"]
    assert error.tag == "error"
    assert "provider failed: ?[31mred|" in error.get("message", "")


def test_markdown_says_the_same_in_tables():
    lines = markdown_text(VERDICTS).splitlines()
    assert lines[0] == "**not passed**: 0.0 MB of 0.0 MB, 4.00× smaller"
    assert "| speedup | 2.40 | ≥ 2.00 | passed |" in lines
    assert "| accuracy_drop | 1.00% | ≤ 0.50% | **failed** |" in lines
    assert "| cpu | quantized | 94.00% | 31.2 | 1 of 2 | 2.70× at 1×128, 2.40× at 8×128 |" in lines
    assert lines[-1].startswith("openvino, quantized model: provider failed: ")
    assert "red\\| line" in lines[-1], "neither a bar nor a line's end breaks a table or a list"
    for table in ("gate", "provider"):
        start = next(i for i, line in enumerate(lines) if line.startswith(f"| {table}"))
        rows = lines[start : lines.index("", start)]
        assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_a_verdict_that_passed_has_no_failure():
    suite = ElementTree.fromstring(junit_xml(VERDICT))
    assert suite.findall(".//failure") == suite.findall(".//error") == []
    assert markdown_text(VERDICT).startswith("**passed**")


def test_only_what_was_asked_for_is_written(tmp_path: Path):
    conclude(VERDICT, junit=None, markdown=tmp_path / "new" / "verdict.md")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["verdict.md"]
    conclude(VERDICT, junit=tmp_path / "verdict.xml", markdown=None)
    assert (tmp_path / "verdict.xml").read_text(encoding="utf-8").startswith("<?xml version='1.0'")


def test_a_failure_is_raised_when_the_files_are_written(tmp_path: Path):
    with pytest.raises(ProviderError):
        conclude(VERDICTS, junit=tmp_path / "verdict.xml", markdown=tmp_path / "verdict.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["verdict.md", "verdict.xml"]
