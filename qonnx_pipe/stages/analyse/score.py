"""Score: how far a variant's outputs are from the float model's, with intervals over the same resampled examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.core.scores import agreement
from qonnx_pipe.core.verdict import Interval

NO_NOISE_DB = 200.0
"""SQNR of equal tensors (it would be infinite, which JSON does not have)."""

RESAMPLES, SEED = 1000, 0
"""Bootstrap (Efron 1979): how often the examples are drawn again, and the seed of the draws."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """The float model over n examples: compared rows [n, k], predicted classes, labels in the model's words."""

    rows: FloatArray
    classes: tuple[str, ...]
    labels: tuple[str | None, ...]

    @property
    def accuracy(self) -> float | None:
        """Share of labelled examples that it gets right; None without labels."""
        return _accuracy(self.classes, self.labels)


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


def score(baseline: Baseline, rows: FloatArray, classes: Sequence[str], *, beside: FloatArray | None = None) -> Score:
    """Judge the rows [n, k] and predicted classes of a variant; `beside`: rows that its gain is counted from."""
    draws = _draws(len(rows))
    resampled = _resampled_sqnr(baseline.rows, rows, draws)
    own = bounded_sqnr(baseline.rows, rows)
    gain = gain_interval = None
    if beside is not None:
        gain = own - bounded_sqnr(baseline.rows, beside)
        gain_interval = _interval(resampled - _resampled_sqnr(baseline.rows, beside, draws))
    drop, drop_interval = _drop(baseline, classes, draws)
    return Score(
        own,
        _interval(resampled),
        agreement(baseline.classes, classes),
        _accuracy(classes, baseline.labels),
        drop,
        drop_interval,
        gain,
        gain_interval,
    )


def bounded_sqnr(reference: FloatArray, rows: FloatArray) -> float:
    """SQNR in dB, at most NO_NOISE_DB either way."""
    return float(np.clip(sqnr_db(reference, rows), -NO_NOISE_DB, NO_NOISE_DB))


def _draws(n: int) -> npt.NDArray[np.float64]:
    """How often each of n examples is in each of the resamples, shape (RESAMPLES, n)."""
    return np.random.default_rng(SEED).multinomial(n, np.full(n, 1.0 / n), RESAMPLES).astype(np.float64)


def _resampled_sqnr(reference: FloatArray, rows: FloatArray, draws: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """SQNR of each resample, dB, shape (RESAMPLES,)."""
    exact = reference.astype(np.float64)
    signal, noise = (draws @ np.square(part).sum(axis=1) for part in (exact, exact - rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 10.0 * np.log10(signal / noise)
    return np.clip(np.where(noise == 0.0, NO_NOISE_DB, found), -NO_NOISE_DB, NO_NOISE_DB)


def _drop(
    baseline: Baseline, classes: Sequence[str], draws: npt.NDArray[np.float64]
) -> tuple[float | None, Interval | None]:
    """Float accuracy minus the variant's over labelled examples, and its paired interval."""
    labelled = np.array([label is not None for label in baseline.labels], np.float64)
    if not labelled.any():
        return None, None
    triples = zip(baseline.classes, classes, baseline.labels, strict=True)
    lost = np.array([(first == label) - (second == label) for first, second, label in triples], np.float64) * labelled
    drops = (draws @ lost) / np.maximum(draws @ labelled, 1.0)
    return float(lost.sum() / labelled.sum()), _interval(drops)


def _accuracy(classes: Sequence[str], labels: Sequence[str | None]) -> float | None:
    hits = [found == label for found, label in zip(classes, labels, strict=True) if label is not None]
    return sum(hits) / len(hits) if hits else None


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
