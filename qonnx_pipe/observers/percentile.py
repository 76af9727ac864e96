"""Percentile: the range leaves out a fixed share of the values at each end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import CountArray, SiteStatistics
from qonnx_pipe.observers.groups import pool_counts, pool_range, require_histogram, seen_edges
from qonnx_pipe.observers.protocol import Bound, Range, Requirement

PERCENTILE = 99.99
"""One value in 10,000 is cut at each end. A transformer's outliers live in few dimensions, and the next layers need
them: one dimension of 384 holds 0.26 % of the values, so 99.9 would clip 38 % of it, and 99.99 clips 4 %."""


@dataclass(frozen=True)
class PercentileObserver:
    """The range between the (100 − p)-th and the p-th percentile; inside a bin the values count as evenly spread."""

    percentile: float = PERCENTILE
    requires: Requirement = "histogram"
    order_independent: bool = True

    def range(self, statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None) -> Range:
        """Percentiles of the tensor or of each group, within what was seen."""
        del spec
        low, high = pool_range(statistics.minmax.minimum, statistics.minmax.maximum, groups)
        edges = seen_edges(require_histogram(statistics), low, high)
        cumulative = pool_counts(statistics, groups).cumsum(axis=1)
        share = self.percentile / 100.0
        below, above = (_quantile(edges, cumulative, q).reshape(low.shape) for q in (1.0 - share, share))
        return np.clip(below, low, 0.0), np.clip(above, 0.0, high)


def _quantile(edges: Bound, cumulative: CountArray, share: float) -> Bound:
    """Where the cumulative count of each row passes `share` of its total, shape (K,)."""
    target = share * cumulative[:, -1:]
    bin_ = np.argmax(cumulative >= target, axis=1)[:, None]
    before = np.where(bin_ > 0, np.take_along_axis(cumulative, np.maximum(bin_ - 1, 0), 1), 0)
    inside = np.take_along_axis(cumulative, bin_, 1) - before
    left, right = np.take_along_axis(edges, bin_, 1), np.take_along_axis(edges, bin_ + 1, 1)
    return np.asarray(left + (right - left) * (target - before) / np.maximum(inside, 1))[:, 0]
