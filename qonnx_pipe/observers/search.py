"""Search: draw the ends of many ranges in, all at once, while that lowers the quantization error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from qonnx_pipe.observers.protocol import Bound, Range

Error = Callable[[Bound, Bound], Bound]
"""Error of the quantizer of each range [low, high], all of shape (n,)."""


class Search(Protocol):
    """A way to find, inside each [low, high] (shape (n,), low ≤ 0 ≤ high), the range with the least error.

    A symmetric range is drawn in at both ends alike, any range down to about 2^-octaves of its size. The result's error
    never exceeds that of [low, high] itself, which is kept on a tie.
    """

    def __call__(self, error: Error, low: Bound, high: Bound, *, symmetric: bool, octaves: int) -> Range:
        """Best ranges, shape (n,)."""


_FINER = tuple(2.0 ** (step * np.array([-2, -1, 1, 2])) for step in (1 / 8, 1 / 32))
"""Factors around the best cut so far, down to 2 % apart: the error is flat at its minimum."""


def shrink(error: Error, low: Bound, high: Bound, *, symmetric: bool, octaves: int) -> Range:
    """Ranges inside [low, high] (shape (n,), low ≤ 0 ≤ high) with the least `error(low, high)` (shape (n,)).

    Both ends are cut at the same distance from 0, in half octaves down to 2^-octaves of the larger; unless the range is
    symmetric, the upper and then the lower end are cut alone in the same way; finer steps around the best follow.
    The error never exceeds that of [low, high] itself, which is kept on a tie.
    """
    reach = np.stack([-low, high])
    both, ends = slice(0, 2), (slice(1, 2), slice(0, 1))
    best, least = np.broadcast_to(reach.max(axis=0), reach.shape), error(low, high)

    def settle(end: slice, distances: Iterable[Bound]) -> None:
        nonlocal best, least
        for distance in distances:
            trial = best.copy()
            trial[end] = distance
            found = error(np.maximum(low, -trial[0]), np.minimum(high, trial[1]))
            best, least = np.where(found < least, trial, best), np.minimum(found, least)

    halves = 2.0 ** (-0.5 * np.arange(2 * octaves + 1))
    settle(both, [half * best for half in halves[1:]])
    if not symmetric:
        best = np.minimum(best, reach)
        for end in ends:
            settle(end, [half * reach[end] for half in halves])
    for factors in _FINER:
        for end in (both,) if symmetric else ends:
            settle(end, [factor * best[end] for factor in factors])
    return np.maximum(low, -best[0]), np.minimum(high, best[1])
