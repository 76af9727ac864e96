"""Tuning: what the search for faster settings tried, a row each, with the speed-up drawn beside its interval."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from qonnx_pipe.charts import svg, wording
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.tuning import Tuning


@dataclass(frozen=True)
class TrialRow:
    """One trial in words; `drawing` is None where nothing was timed."""

    name: str
    speedup: str
    between: str
    drawing: Markup | None
    sqnr: str
    kept: bool
    reason: str


@dataclass(frozen=True)
class Search:
    """A search for readers: where it ran, the SQNR that it started from and its limit, its trials."""

    provider: str
    shape: str
    start: str
    least: str
    kept: int
    trials: tuple[TrialRow, ...]


def summarise(tuning: Tuning) -> Search:
    """The search with all its trials on one axis."""
    found = [end for trial in tuning.trials for end in (trial.speedup, *(trial.interval or ())) if end is not None]
    axis = Axis.around([1.0, *found])
    rows = tuple(
        TrialRow(
            trial.name,
            wording.times(trial.speedup),
            wording.between(trial.interval, wording.times),
            None if trial.speedup is None else _drawn(axis, trial.speedup, trial.interval, kept=trial.kept),
            _decibels(trial.sqnr_db),
            trial.kept,
            trial.reason,
        )
        for trial in tuning.trials
    )
    batch, sequence = tuning.shape
    start, least = _decibels(tuning.sqnr_db), _decibels(tuning.least_sqnr_db)
    return Search(tuning.provider, f"{batch} × {sequence}", start, least, len(tuning.kept), rows)


def _drawn(axis: Axis, speedup: float, interval: tuple[float, float] | None, *, kept: bool) -> Markup:
    return svg.interval(axis, speedup, interval, kind="quantized" if kept else "float", zero=1.0, limit=None)


def _decibels(value: float | None) -> str:
    return wording.MISSING if value is None else f"{value:.1f} dB"
