"""Ratios: metrics that divide one sum over examples by another (F1, means), with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qonnx_pipe.core.bootstrap import Doubles, interval, resampled
from qonnx_pipe.core.verdict import ClassDrop, Metric


@dataclass(frozen=True, eq=False)
class Tally:
    """What each example adds to a metric, by class: `over` ÷ `under`, each [n, classes + 1].

    The last column holds what belongs to no class of the labels. F1 is 2 · right ÷ (found + wanted) (van Rijsbergen
    1979), so `over` counts 2 · right and `under` the two others; a mean has 1 below.
    """

    classes: tuple[str, ...]
    over: Doubles
    under: Doubles

    def values(self, draws: Doubles) -> Doubles:
        """The metric of each draw [r, n]: first of everything, then of each class, [r, 1 + classes]; NaN for 0 ÷ 0."""
        over, under = (_with_sum(draws @ part) for part in (self.over, self.under))
        return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)

    @property
    def value(self) -> Doubles:
        """The metric itself, [1 + classes]."""
        return np.asarray(self.values(np.ones((1, len(self.over))))[0])


def _with_sum(sums: Doubles) -> Doubles:
    """All columns together in front, without the last one on its own."""
    return np.concatenate([sums.sum(axis=1, keepdims=True), sums[:, :-1]], axis=1)


def metric(name: str, tally: Tally, *, also: Mapping[str, float] | None = None) -> Metric:
    """The metric with its interval over examples and each class's; 0 where nothing is wanted and nothing found."""
    whole, *classes = np.nan_to_num(tally.value).tolist()
    ends = interval(np.nan_to_num(resampled(tally.values, len(tally.over))[:, 0]))
    per_class = dict(zip(tally.classes, classes, strict=True))
    return Metric(name, whole, "fraction", len(tally.over), ends, per_class, also or {})


def drop(reference: Tally, candidate: Tally) -> tuple[Metric, tuple[ClassDrop, ...]]:
    """What `candidate` loses on the same examples, in all and by class, the greatest loss first."""
    lost = reference.value - candidate.value
    drops = resampled(lambda draws: reference.values(draws) - candidate.values(draws), len(reference.over))
    whole = Metric(
        "accuracy_drop", _plain(lost[0]), "fraction", len(reference.over), interval(np.nan_to_num(drops[:, 0]))
    )
    support = (reference.under[:, :-1] > 0).sum(axis=0)
    classes = (
        ClassDrop(name, _plain(lost[1 + i]), interval(drops[:, 1 + i]), int(support[i]))
        for i, name in enumerate(reference.classes)
    )
    return whole, tuple(sorted(classes, key=lambda one: -one.drop))


def _plain(value: float) -> float:
    return float(np.nan_to_num(value))
