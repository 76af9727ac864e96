"""Correlation: how well numbers follow the labels' (Spearman 1904, Pearson 1895), with paired bootstrap intervals."""

from __future__ import annotations

import numpy as np

from qonnx_pipe.core.bootstrap import Doubles, interval, resampled
from qonnx_pipe.core.scores import Answers, Drop, Labels, Measure
from qonnx_pipe.core.verdict import Metric


def pearson(x: Doubles, y: Doubles) -> float:
    """Linear correlation of two vectors [n]; 0 where one of them is constant."""
    a, b = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def spearman(x: Doubles, y: Doubles) -> float:
    """Correlation of the ranks; equal numbers share the mean of theirs."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: Doubles) -> Doubles:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _pairs(answers: Answers, labels: Labels) -> tuple[Doubles, Doubles] | None:
    found = [(float(a), float(label)) for a, label in zip(answers, labels, strict=True) if label is not None]
    if not found:
        return None
    x, y = np.array(found).T
    return x, y


def _resampled(x: Doubles, y: Doubles) -> Doubles:
    """Spearman of each resample; ranks are taken anew in each."""

    def of(draws: Doubles) -> Doubles:
        indices = [np.repeat(np.arange(len(x)), row.astype(int)) for row in draws]
        return np.array([spearman(x[one], y[one]) for one in indices])

    return resampled(of, len(x))


def _score(answers: Answers, labels: Labels) -> Metric | None:
    pairs = _pairs(answers, labels)
    if pairs is None:
        return None
    ends, also = interval(_resampled(*pairs)), {"pearson": pearson(*pairs)}
    return Metric("spearman", spearman(*pairs), "correlation", len(pairs[0]), ends, also=also)


def _drop(reference: Answers, candidate: Answers, labels: Labels) -> Drop | None:
    first, second = _pairs(reference, labels), _pairs(candidate, labels)
    if first is None or second is None:
        return None
    ends = interval(_resampled(*first) - _resampled(*second))
    value = spearman(*first) - spearman(*second)
    return Metric("accuracy_drop", value, "correlation", len(first[0]), ends), ()


def _agreement(reference: Answers, candidate: Answers) -> float:
    """Rank correlation of the two models' numbers."""
    pairs = _pairs(reference, candidate)
    return 1.0 if pairs is None or reference == candidate else spearman(*pairs)


MEASURE = Measure("spearman", _score, _drop, _agreement)
