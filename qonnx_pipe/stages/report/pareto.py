"""Pareto: every model on every provider as a point of accuracy, speed and size, and which ones no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qonnx_pipe.charts import plot, wording
from qonnx_pipe.charts.plot import Plane, Point
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.verdict import Interval, Result, Verdict

LARGEST = 15.0
"""Radius in pixels of the largest file; areas are as the files' bytes."""

EXACT_DB = 100.0
"""SQNR from which on two float models are equal: what is left is the rounding of float32."""

Shape = tuple[int, int]


@dataclass(frozen=True)
class Candidate:
    """One model on one provider, in run number `series`.

    `speed`: times as fast as the float model on the first provider of its own run that did not fail. `score`: accuracy,
    or agreement with float where there are no labels. `sqnr_db` None for the float model that all are compared with.
    """

    series: int
    run: str
    provider: str
    model: str
    score: float
    interval: Interval | None
    sqnr_db: float | None
    milliseconds: float
    speed: float
    size: int

    def beats(self, other: Candidate) -> bool:
        """Whether it is nowhere worse, and somewhere better, in score, SQNR, speed and size.

        SQNR counts because accuracies differ by chance where noise does not.
        """
        pairs = tuple(zip(self._figures, other._figures, strict=True))
        return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)

    @property
    def _figures(self) -> tuple[float, ...]:
        sqnr = EXACT_DB if self.sqnr_db is None else min(self.sqnr_db, EXACT_DB)
        return self.score, sqnr, self.speed, -float(self.size)


@dataclass(frozen=True)
class Entry:
    """A candidate with its number in the drawing; `best`: no other one beats it."""

    number: int
    candidate: Candidate
    best: bool


@dataclass(frozen=True)
class Pareto:
    """The drawing and what stands in it, timed at `shape`; `base`: the provider whose float model has speed 1."""

    shape: Shape
    base: str
    metric: str
    entries: tuple[Entry, ...]
    plane: Plane


def pareto(runs: Sequence[tuple[str, Verdict]]) -> Pareto | None:
    """All models of all runs at the largest shape that was timed in each; None where there are not two to compare."""
    shapes = [_shapes(verdict) for _, verdict in runs]
    common = set.intersection(*shapes) if shapes else set()
    if not common:
        return None
    shape = max(common, key=lambda pair: pair[0] * pair[1])
    labelled = all(one.accuracy for _, verdict in runs for one in verdict.results if _timed(one, shape))
    once: dict[object, Candidate] = {}
    for series, (name, verdict) in enumerate(runs):
        for one in _candidates(series, name, verdict, shape, labelled=labelled):
            once.setdefault(_identity(one), one)
    found = tuple(once.values())
    if len(found) < 2:
        return None
    entries = tuple(
        Entry(number, one, not any(other.beats(one) for other in found)) for number, one in enumerate(found, 1)
    )
    return Pareto(shape, _base(runs[0][1]), "Accuracy" if labelled else "Agreement", entries, _drawing(entries))


def _base(verdict: Verdict) -> str:
    """The first provider that timed both models; "" where there is none."""
    failed = {result.provider for result in verdict.results if result.error or not result.latency}
    return next((result.provider for result in verdict.results if result.provider not in failed), "")


def _shapes(verdict: Verdict) -> set[Shape]:
    """Shapes at which both models were timed on the provider that speeds are relative to."""
    base = _base(verdict)
    timed = [
        {(seen.batch, seen.sequence) for seen in result.latency}
        for result in verdict.results
        if result.provider == base
    ]
    return set.intersection(*timed) if len(timed) == 2 else set()


def _timed(result: Result, shape: Shape) -> float | None:
    """Median in ms."""
    return next((seen.p50_ms for seen in result.latency if (seen.batch, seen.sequence) == shape), None)


def _candidates(series: int, name: str, verdict: Verdict, shape: Shape, *, labelled: bool) -> list[Candidate]:
    base = next(one for one in verdict.results if one.model == "float" and one.provider == _base(verdict))
    unit = _timed(base, shape)
    found = []
    for one in verdict.results:
        time, score = _timed(one, shape), _score(one, labelled=labelled)
        if unit is None or time is None or score is None:
            continue
        paired = _speedup(one, shape) if one.provider == base.provider else None
        size = verdict.size.float_bytes if one.model == "float" else verdict.size.quantized_bytes
        interval = one.accuracy.interval if one.accuracy and labelled else None
        sqnr = one.fidelity.sqnr_db if one.fidelity else None
        speed = paired or unit / time
        found.append(Candidate(series, name, one.provider, one.model, score, interval, sqnr, time, speed, size))
    return found


def _score(result: Result, *, labelled: bool) -> float | None:
    if labelled:
        return result.accuracy.value if result.accuracy else None
    return result.fidelity.agreement if result.fidelity else 1.0 if result.model == "float" else None


def _speedup(result: Result, shape: Shape) -> float | None:
    """What the verdict says, from paired rounds."""
    return next((seen.speedup for seen in result.latency if (seen.batch, seen.sequence) == shape), None)


def _identity(one: Candidate) -> object:
    """Float models of the same file and accuracy are one; every quantized model is its own."""
    return (one.provider, one.size, one.score) if one.model == "float" else (one.series, one.provider)


def _drawing(entries: Sequence[Entry]) -> Plane:
    largest = max(entry.candidate.size for entry in entries)
    points = [
        Point(
            x=entry.candidate.speed,
            y=entry.candidate.score,
            kind="float" if entry.candidate.model == "float" else f"s{entry.candidate.series + 1}",
            name=str(entry.number),
            radius=LARGEST * float(entry.candidate.size / largest) ** 0.5,
            span=entry.candidate.interval,
            best=entry.best,
        )
        for entry in entries
    ]
    speeds = [point.x for point in points]
    wide = 0.12 * (max(speeds) - min(speeds)) or 0.5
    across = Axis(min(speeds) - wide, max(speeds) + wide)
    scores = [end for point in points for end in (point.y, *(point.span or ()))]
    high = Axis.around(scores)
    return plot.scatter(points, across, high, (_times, lambda at: f"{wording.tick(at * 100)} %"))


def _times(value: float) -> str:
    return f"{wording.tick(value)}×"
