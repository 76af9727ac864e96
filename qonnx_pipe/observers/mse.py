"""MSE: the range whose quantizer has the least expected squared error, rounding and clipping together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.numerics import scale_and_zero_point
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import SiteStatistics
from qonnx_pipe.observers.groups import pool_counts, pool_range, require_histogram, seen_edges
from qonnx_pipe.observers.protocol import Bound, Range, Requirement
from qonnx_pipe.observers.search import Search, shrink

OCTAVES = 10
"""A range may shrink to 1/1000: with 10^6 values of size 1, clipping one of size 1000 is what still breaks even."""


@dataclass(frozen=True)
class MseObserver:
    """Least mean squared error over the histogram, each bin's values evenly spread over the bin.

    `search` draws the ends of the range in, as `search.shrink` does.
    """

    search: Search = shrink
    requires: Requirement = "histogram"
    order_independent: bool = True

    def range(self, statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None) -> Range:
        """Best range of the tensor or of each group, within what was seen."""
        low, high = pool_range(statistics.minmax.minimum, statistics.minmax.maximum, groups)
        error = _expected_error(statistics, spec, groups, low.ravel(), high.ravel())
        below, above = self.search(error, low.ravel(), high.ravel(), symmetric=spec.symmetric, octaves=OCTAVES)
        return below.reshape(low.shape), above.reshape(high.shape)


def _expected_error(
    statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None, low: Bound, high: Bound
) -> Callable[[Bound, Bound], Bound]:
    """Squared error of the quantizer of given ranges, summed over all values, for each group: shape (K,).

    Let e(t) be the error of a value t, and F(t) = ∫₀ᵗ e². A bin [a, b] of density ρ adds ρ·(F(b) − F(a)), so the whole
    sum is Σ F(edge)·(density before − density after). This is exact whether a bin is wider than a step or narrower.
    """
    counts = pool_counts(statistics, groups)
    margin = np.maximum(-low, high) / (16 * spec.dtype.levels)  # a value on the range's end keeps a bin of some width
    edges = seen_edges(require_histogram(statistics), low - margin, high + margin)
    width = np.diff(edges)
    density = np.pad(np.divide(counts, width, out=np.zeros_like(width), where=width > 0.0), ((0, 0), (1, 1)))
    jump = density[:, :-1] - density[:, 1:]
    used = np.any(jump != 0.0, axis=0)
    edges, jump = edges[:, used], jump[:, used]

    def error(below: Bound, above: Bound) -> Bound:
        scale, zero_point = scale_and_zero_point(below, above, spec.dtype, symmetric=spec.symmetric)
        step = scale.astype(np.float64)[:, None]
        codes = edges / step
        nearest = np.rint(codes)
        np.maximum(nearest, (spec.dtype.qmin - zero_point)[:, None], out=nearest)
        np.minimum(nearest, (spec.dtype.qmax - zero_point)[:, None], out=nearest)
        rest = codes - nearest
        # In steps: every whole step before the edge adds 1/12, the rest (or the clipped excess) its cube / 3.
        integral = nearest / 12.0 + rest * rest * rest / 3.0
        return np.asarray(np.einsum("ke,ke->k", integral, jump) * step[:, 0] ** 3)

    return error
