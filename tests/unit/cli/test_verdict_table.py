"""The verdict's table says the metric by its name and unit, and which class loses most."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from qonnx_pipe.cli.verdict_table import verdict_table
from qonnx_pipe.core.verdict import ClassDrop, Fidelity, Metric, Result, Size, SizeParts, Verdict

SIZE = Size(400, 100, SizeParts(60, 20, 5, 15))


def shown(*results: Result) -> list[list[str]]:
    """The table's lines as words."""
    console = Console(file=io.StringIO(), width=100)
    console.print(verdict_table(Verdict((), SIZE, results)))
    return [line.split() for line in console.file.getvalue().splitlines()]


def quantized(accuracy: Metric, drop: Metric, *classes: ClassDrop) -> Result:
    return Result(
        "cpu",
        "quantized",
        accuracy=accuracy,
        accuracy_drop=drop,
        fidelity=Fidelity(30.0, 0.99),
        class_drops=tuple(classes),
    )


def test_accuracy_stays_accuracy() -> None:
    lines = shown(
        Result("cpu", "float", accuracy=Metric("nn_class_accuracy", 0.9, "fraction", 9, (0.8, 1.0))),
        quantized(
            Metric("nn_class_accuracy", 0.85, "fraction", 9, (0.7, 0.9)), Metric("accuracy_drop", 0.05, "fraction", 9)
        ),
    )
    assert ["accuracy", "90.00%", "[80.00%,", "100.00%]", "85.00%", "[70.00%,", "90.00%]"] in lines
    assert not any(line[:2] == ["loses", "most"] for line in lines)


def test_the_class_that_loses_most_beyond_noise() -> None:
    f1 = Metric("tag_f1", 0.9, "fraction", 9, (0.8, 1.0), also={"token_accuracy": 0.95})
    drop = Metric("accuracy_drop", 0.05, "fraction", 9, (0.0, 0.1))
    noise, lost = ClassDrop("PER", 0.2, (-0.1, 0.5), 3), ClassDrop("LOC", 0.1, (0.05, 0.2), 90)
    lines = shown(Result("cpu", "float", accuracy=f1), quantized(f1, drop, noise, lost))
    assert ["tag_f1", "90.00%", "[80.00%,", "100.00%]", "90.00%", "[80.00%,", "100.00%]"] in lines
    assert ["token_accuracy", "95.00%", "95.00%"] in lines
    assert ["loses", "most", "–", "LOC", "10.00%"] in lines
    assert ["loses", "most", "–", "none", "beyond", "noise"] in shown(
        Result("cpu", "float"), quantized(f1, drop, noise)
    )


def test_correlations_are_no_percentages() -> None:
    rank = Metric("spearman", 0.876, "correlation", 9, (0.8, 0.9), also={"pearson": 0.5})
    lines = shown(quantized(rank, Metric("accuracy_drop", -0.01, "correlation", 9, (-0.02, 0.0))))
    assert ["spearman", "0.876", "[0.800,", "0.900]"] in lines
    assert ["drop", "-0.010", "[-0.020,", "0.000]"] in lines
    assert ["pearson", "0.500"] in lines


def test_what_was_trained_stands_beside_what_is_executed() -> None:
    score = Metric("accuracy", 0.9, "fraction", 9, (0.8, 1.0))
    trained = replace(
        quantized(score, Metric("accuracy_drop", 0.0, "fraction", 9)), fidelity=Fidelity(30.0, 0.99, 43.5)
    )
    assert ["to", "the", "trained", "–", "43.5", "dB"] in shown(Result("cpu", "float", accuracy=score), trained)
    assert not any(line[:1] == ["to"] for line in shown(Result("cpu", "float", accuracy=score)))
