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
    best, least = (0, len(mass)), _divergence(mass, 0, len(mass), codes)
    if least == 0.0:
        return best
    for end in ("both",) if symmetric else ("upper", "lower"):
        for window in _windows(best, zero, codes, end):
            found = _divergence(mass, *window, codes)
            if found < least:
                best, least = window, found
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


def _divergence(mass: Bound, start: int, stop: int, codes: int) -> float:
    """KL divergence, in nats, of the window's quantized distribution from the clipped original.

    The original has its tails clipped into the end bins. The quantized one has `codes` levels, each spread evenly over
    its bins that are not empty; a tail that falls into an empty level finds half a value there.
    """
    inside = mass[start:stop]
    total = float(mass.sum())
    if not inside.any():
        return 0.0 if total == 0.0 else float("inf")
    original = inside.copy()
    original[0] += mass[:start].sum()
    original[-1] += mass[stop:].sum()
    filled = original > 0.0
    first: npt.NDArray[np.int64] = np.arange(codes) * len(inside) // codes
    level = np.add.reduceat(inside, first) / np.maximum(np.add.reduceat(filled, first, dtype=np.int64), 1)
    spread = np.repeat(level, np.diff(first, append=len(inside)))[filled]
    spread[spread == 0.0] = 0.5
    share, quantized = original[filled] / total, spread / spread.sum()
    return max(0.0, float(np.sum(share * np.log(share / quantized))))
