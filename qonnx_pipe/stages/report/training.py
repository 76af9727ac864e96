"""Training: how the epochs of a QAT went, drawn as losses and the metric over the epochs, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qonnx_pipe.charts import plot, wording
from qonnx_pipe.charts.plot import Line, Plane
from qonnx_pipe.charts.svg import Axis

ROOM = 8
"""Numbers along the x axis at most."""


@dataclass(frozen=True)
class Course:
    """The drawings, and a row an epoch: (its number, training loss, held-out loss, metric); 0 is before the training.

    `score`: the name of the metric and its drawing, None without labels. `kept`: number of the epoch whose weights the
    file holds, the best `by` one of the held-out figures.
    """

    losses: Plane
    score: tuple[str, Plane] | None
    rows: tuple[tuple[int, str, str, str], ...]
    kept: int
    by: str


def course(facts: Mapping[str, Any]) -> Course:
    """What `qat.json` tells; KeyError where it lacks something."""
    epochs, judged = facts["epochs"], facts["accuracy"]["validation"]
    name, unit = (judged["name"], judged["unit"]) if judged else ("", "")

    def score(value: float) -> str:
        return wording.metric(value, unit)

    def row(number: int, epoch: Mapping[str, float | None]) -> tuple[int, str, str, str]:
        figures = [(epoch["loss"], wording.real), (epoch["held_out_loss"], wording.real), (epoch["accuracy"], score)]
        learned, held, scored = (wording.MISSING if value is None else word(value) for value, word in figures)
        return number, learned, held, scored

    rows = tuple(row(number, one) for number, one in enumerate([{"loss": None, **facts["untrained"]}, *epochs]))
    kept, by = facts["chosen"]["epoch"], facts["chosen"]["by"]
    losses = _plane([_line("s2", epochs, "held_out_loss"), _line("s1", epochs, "loss")], kept, wording.tick)
    drawn = (name, _plane([_line("s2", epochs, "accuracy")], kept, score)) if judged else None
    return Course(losses, drawn, rows, kept, name if by == "accuracy" else "loss")


def _line(kind: str, epochs: Sequence[Mapping[str, float]], key: str) -> Line:
    return Line(kind, tuple((float(number), epoch[key]) for number, epoch in enumerate(epochs, start=1)))


def _plane(lines: Sequence[Line], kept: int, word: plot.Wording) -> Plane:
    """Lines over the epochs; numbers that would stand too near to that of the kept one are left out."""
    last = len(lines[0].dots)
    step = -(-last // ROOM)
    shown = [number for number in range(1, last + 1, step) if abs(number - kept) >= step]
    ticks = [*([(float(kept), f"{kept}, kept")] if kept else []), *((float(number), str(number)) for number in shown)]
    values = [value for line in lines for _, value in line.dots]
    return plot.lines(lines, Axis(0.9, last + 0.1), Axis.around(values), sorted(ticks), word)
