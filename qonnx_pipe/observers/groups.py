"""Groups: which embedding dimensions share a range, and statistics pooled over each of the groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.granularity import PerEmbedding, PerEmbeddingGroup
from qonnx_pipe.core.statistics import CountArray, Histogram, MinMax, SiteStatistics
from qonnx_pipe.observers.protocol import Bound, Range


def resolve_groups(
    granularity: PerEmbeddingGroup | PerEmbedding, minmax: MinMax, order: Sequence[int] | None = None
) -> EmbeddingGroups:
    """Layout of a PEG for the dimensions whose extremes are `minmax` (shape (d,)), Bondarenko et al. 2021 §4.

    `permute="range"` sorts the dimensions by max − min, ascending and stable, so that outliers share the last group;
    an `order` that other sites share, given from outside, stands for that. `boundaries="error"` then cuts where
    `least_error_sizes` says. Raises ValueError when the groups do not add up to d.
    """
    width = len(minmax.minimum)
    if isinstance(granularity, PerEmbedding):
        return EmbeddingGroups((1,) * width, tuple(range(width)))
    sizes = granularity.sizes(width)
    if granularity.permute == "none":
        order = range(width)
    elif order is None:
        order = range_order(minmax)
    if granularity.boundaries == "error" and isinstance(granularity.groups, int):
        places = list(order)
        sizes = least_error_sizes(minmax.minimum[places], minmax.maximum[places], granularity.groups)
    return EmbeddingGroups(sizes, tuple(order))


def range_order(minmax: MinMax) -> tuple[int, ...]:
    """The dimensions by max − min, ascending; equal ones keep their order."""
    with np.errstate(invalid="ignore"):  # inf − inf: encode_activation refuses the site and names it
        spread = minmax.maximum.astype(np.float64) - minmax.minimum
    return tuple(np.argsort(spread, kind="stable").tolist())


def least_error_sizes(minimum: npt.ArrayLike, maximum: npt.ArrayLike, groups: int) -> tuple[int, ...]:
    """Sizes of `groups` neighbouring groups of dimensions whose quantizers err least together.

    A quantizer of n dimensions with the common range r, 0 in it, and L levels errs by n·(r/L)²/12 in expectation
    (uniform rounding errors), so the sum of n·r² over the groups is least. Exact, by dynamic programming over where the
    next group begins: O(groups · d²) time in d vectorised steps, O(groups · d) memory; at a tie the earlier cut wins.
    Raises ValueError when there are more groups than dimensions.
    """
    low, high = np.minimum(np.asarray(minimum, np.float64), 0.0), np.maximum(np.asarray(maximum, np.float64), 0.0)
    width = len(low)
    if groups > width:
        raise ValueError(f"{groups} groups are more than {width} dimensions")
    least = np.full((groups + 1, width + 1), np.inf)  # of the first j dimensions in k groups
    start = np.zeros((groups + 1, width + 1), np.int64)  # where the last of those groups begins
    least[0, 0] = 0.0
    for begin in range(width):
        spread = np.maximum.accumulate(high[begin:]) - np.minimum.accumulate(low[begin:])
        found = least[:-1, begin, None] + np.arange(1, width - begin + 1) * spread**2
        better = found < least[1:, begin + 1 :]
        least[1:, begin + 1 :][better] = found[better]
        start[1:, begin + 1 :][better] = begin
    sizes, end = [], width
    for group in range(groups, 0, -1):
        sizes.append(int(end - start[group, end]))
        end = start[group, end]
    return tuple(reversed(sizes))


def pool_range(minimum: npt.ArrayLike, maximum: npt.ArrayLike, groups: EmbeddingGroups | None) -> Range:
    """Extremes of the whole tensor, shape (), or of each group, shape (K,), widened to hold 0."""
    low, high = np.minimum(np.asarray(minimum, np.float64), 0.0), np.maximum(np.asarray(maximum, np.float64), 0.0)
    if groups is None:
        return np.asarray(low.min()), np.asarray(high.max())
    order, starts = _slices(groups, len(low))
    return np.minimum.reduceat(low[order], starts), np.maximum.reduceat(high[order], starts)


def pool_counts(statistics: SiteStatistics, groups: EmbeddingGroups | None) -> CountArray:
    """Histogram counts of the whole tensor, shape (1, bins), or of each group, shape (K, bins)."""
    counts = require_histogram(statistics).counts
    if groups is None:
        return np.asarray(counts.sum(axis=0, keepdims=True))
    order, starts = _slices(groups, len(counts))
    return np.add.reduceat(counts[order], starts, axis=0, dtype=np.int64)


def require_histogram(statistics: SiteStatistics) -> Histogram:
    """The histogram of a site; ValueError when calibration did not collect it."""
    if statistics.histogram is None:
        raise ValueError("calibration collected no histogram here")
    return statistics.histogram


def seen_edges(histogram: Histogram, low: Bound, high: Bound) -> npt.NDArray[np.float64]:
    """Bin edges cut to [low, high] for each of the groups, shape (K, bins + 1).

    The outermost bins hold everything up to infinity: where more was seen, they reach to what was seen.
    """
    edges = np.broadcast_to(histogram.edges(), (low.size, histogram.counts.shape[1] + 1)).copy()
    edges[:, 0], edges[:, -1] = np.minimum(edges[:, 0], low), np.maximum(edges[:, -1], high)
    return np.clip(edges, low.reshape(-1, 1), high.reshape(-1, 1))


def _slices(groups: EmbeddingGroups, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Order of the dimensions, and where each group starts in it."""
    if width != len(groups.permutation):
        raise ValueError(f"the groups lay out {len(groups.permutation)} dimensions, the statistics have {width}")
    return np.asarray(groups.permutation), np.cumsum((0, *groups.sizes[:-1]))
