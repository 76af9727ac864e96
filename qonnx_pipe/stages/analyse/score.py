"""Score: how far a variant's outputs are from the float model's, with intervals over the same resampled examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qonnx_pipe.core.bootstrap import Doubles, interval, resampled
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.core.scores import Measure
from qonnx_pipe.core.verdict import Interval

NO_NOISE_DB = 200.0
"""SQNR of equal tensors (it would be infinite, which JSON does not have)."""

MOST_BLOCKS = 2000
"""Rows that follow each other are drawn together where there are more (tokens): their sum stands for them."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """The float model over n examples: compared rows [m, k], answers, labels in the model's words."""

    rows: FloatArray
    answers: tuple[str, ...]
    labels: tuple[str | None, ...]
    measure: Measure

    @property
    def accuracy(self) -> float | None:
        """The task's metric; None without labels."""
        return _value(self, self.answers)


@dataclass(frozen=True)
class Score:
    """One variant beside the float model on the same examples, intervals 95 %.

    `gain_db`: SQNR over that of the variant it is compared with, if any. `accuracy_drop`: float accuracy minus its own,
    a fraction, None without labels.
    """

    sqnr_db: float
    sqnr_interval: Interval
    agreement: float
    accuracy: float | None = None
    accuracy_drop: float | None = None
    accuracy_drop_interval: Interval | None = None
    gain_db: float | None = None
    gain_interval: Interval | None = None


def score(baseline: Baseline, rows: FloatArray, answers: Sequence[str], *, beside: FloatArray | None = None) -> Score:
    """Judge the rows [m, k] and the answers of a variant; `beside`: rows that its gain is counted from."""
    again = _resampled_sqnr(baseline.rows, rows)
    own = bounded_sqnr(baseline.rows, rows)
    gain = gain_interval = None
    if beside is not None:
        gain = own - bounded_sqnr(baseline.rows, beside)
        gain_interval = interval(again - _resampled_sqnr(baseline.rows, beside))
    lost = baseline.measure.drop(baseline.answers, answers, baseline.labels)
    return Score(
        own,
        interval(again),
        baseline.measure.agreement(baseline.answers, answers),
        _value(baseline, answers),
        lost[0].value if lost else None,
        lost[0].interval if lost else None,
        gain,
        gain_interval,
    )


def bounded_sqnr(reference: FloatArray, rows: FloatArray) -> float:
    """SQNR in dB, at most NO_NOISE_DB either way."""
    return float(np.clip(sqnr_db(reference, rows), -NO_NOISE_DB, NO_NOISE_DB))


def _resampled_sqnr(reference: FloatArray, rows: FloatArray) -> Doubles:
    """SQNR of each resample, dB."""
    exact = reference.astype(np.float64)
    energies = [_blocks(np.square(part).sum(axis=1)) for part in (exact, exact - rows)]

    def of(draws: Doubles) -> Doubles:
        signal, noise = (draws @ energy for energy in energies)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 10.0 * np.log10(signal / noise)
        return np.clip(np.where(noise == 0.0, NO_NOISE_DB, found), -NO_NOISE_DB, NO_NOISE_DB)

    return resampled(of, len(energies[0]))


def _blocks(energy: Doubles) -> Doubles:
    """Sums over runs of rows, MOST_BLOCKS at most."""
    each = -(-len(energy) // MOST_BLOCKS)
    return np.add.reduceat(energy, np.arange(0, len(energy), each))


def _value(baseline: Baseline, answers: Sequence[str]) -> float | None:
    found = baseline.measure.score(answers, baseline.labels)
    return found.value if found else None
