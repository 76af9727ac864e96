"""Entropy: the range whose quantized distribution diverges least (Kullback–Leibler) from the original one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import SiteStatistics
from qonnx_pipe.observers.groups import pool_counts, pool_range, require_histogram, seen_edges
from qonnx_pipe.observers.protocol import Bound, Range, Requirement

BINS_PER_LEVEL = 16
"""Linear bins a code at the full range: 2048 for 128 codes, as in Migacz, "8-bit inference with TensorRT" (2017).
The narrowest window has one bin a code: a 16th of the full range."""

WINDOWS = 60
"""Candidate places of one end between the narrowest window and the full range."""

NOISE = 1e-11
"""Nats below which two divergences are a tie: float64 rounding of sums of a few thousand terms."""


class EntropyObserver:
    """Migacz's calibration for any symmetry: a symmetric window draws both ends in, else the upper and then the lower.

    Zeros are left out, as they are exact in every window. Types over 8 bits keep the full range: their steps are
    finer than the histogram, so that no window would lose anything that it can tell.
    """

    requires: Requirement = "histogram"
    order_independent = True

    def range(self, statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None) -> Range:
        """Best window of the tensor or of each group, within what was seen."""
        low, high = pool_range(statistics.minmax.minimum, statistics.minmax.maximum, groups)
        if spec.dtype.bits > 8:
            return low, high
        reach = np.maximum(-low, high)
        first, last = (-reach, reach) if spec.symmetric else (low, high)
        counts = pool_counts(statistics, groups)
        counts[:, counts.shape[1] // 2] = 0
        edges = seen_edges(require_histogram(statistics), low, high)
        cumulative = np.pad(counts.cumsum(axis=1), ((0, 0), (1, 0)))
        codes = spec.dtype.levels + 1
        linear = np.linspace(first.ravel(), last.ravel(), codes * BINS_PER_LEVEL + 1, axis=1)
        windows = np.empty((linear.shape[0], 2))
        for row, (axis, log_edges, passed) in enumerate(zip(linear, edges, cumulative, strict=True)):
            mass = np.diff(np.interp(axis, log_edges, passed))
            start, stop = _best_window(mass, int(np.searchsorted(axis, 0.0)), codes, symmetric=spec.symmetric)
            windows[row] = axis[start], axis[stop]
        below, above = windows.T.reshape(2, *low.shape)
        return np.clip(below, low, 0.0), np.clip(above, 0.0, high)


def _best_window(mass: Bound, zero: int, codes: int, *, symmetric: bool) -> tuple[int, int]:
    """Window [start, stop) of bins, around bin edge `zero`, that diverges least; on a tie the widest."""
    best = (0, len(mass))
    for end in ("both",) if symmetric else ("upper", "lower"):
        windows = [best, *_windows(best, zero, codes, end)]
        found = _divergences(mass, np.array(windows), codes)
        best = windows[int(np.argmax(found <= found.min() + NOISE))]
    return best


def _windows(full: tuple[int, int], zero: int, codes: int, end: str) -> Iterator[tuple[int, int]]:
    """Windows inside `full` that hold `zero` and have a bin for each code, narrower and narrower."""
    start, stop = full
    step = max(1, codes * (BINS_PER_LEVEL - 1) // WINDOWS)
    room = stop - start - codes
    match end:
        case "both":
            yield from ((start + cut, stop - cut) for cut in range(step, room // 2 + 1, step))
        case "upper":
            yield from ((start, stop - cut) for cut in range(step, min(room, stop - zero) + 1, step))
        case _:
            yield from ((start + cut, stop) for cut in range(step, min(room, zero - start) + 1, step))


def _divergences(mass: Bound, windows: npt.NDArray[np.int64], codes: int) -> Bound:
    """KL divergences, in nats, of the quantized distributions of n windows [start, stop) from the clipped original.

    The original has its tails clipped into the end bins. The quantized one has `codes` levels, each spread evenly over
    its bins that are not empty; a tail that falls into an empty level finds half a value there. `windows` has the shape
    (n, 2). As a level is constant over its bins, sums over bins become differences of running sums at the levels' ends.
    """
    total = float(mass.sum())
    if total == 0.0:
        return np.zeros(len(windows))
    share, (start, stop) = mass / total, windows.T
    passed, filled, entropy = (_running(terms) for terms in (share, share > 0.0, _x_log_x(share)))
    below, above = passed[start], passed[-1] - passed[stop]
    ends = start[:, None] + np.arange(codes + 1) * (stop - start)[:, None] // codes
    inside, bins = np.diff(passed[ends]), np.diff(filled[ends])
    original = inside.copy()
    for tail, first, level in ((below, start, 0), (above, stop - 1, -1)):
        original[:, level] += tail
        bins[:, level] += (share[first] == 0.0) & (tail > 0.0)
    spread = np.divide(inside, bins, out=np.ones_like(inside), where=bins > 0.0)
    spread[spread == 0.0] = 0.5 / total
    own = entropy[stop] - entropy[start]
    for tail, first in ((below, start), (above, stop - 1)):
        own += _x_log_x(share[first] + tail) - _x_log_x(share[first])
    found = own - (original * np.log(spread)).sum(axis=1) + np.log((spread * bins).sum(axis=1))
    return np.where(inside.any(axis=1), np.maximum(0.0, found), np.inf)


def _running(terms: npt.NDArray[np.generic]) -> Bound:
    """Sums of the first 0, 1, 2, … terms."""
    return np.pad(np.cumsum(terms, dtype=np.float64), (1, 0))


def _x_log_x(x: Bound) -> Bound:
    return np.asarray(x * np.log(np.where(x > 0.0, x, 1.0)))
