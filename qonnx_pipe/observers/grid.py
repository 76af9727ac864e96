"""Grid: try every pair of a lower and an upper end, then the pairs around the best."""

from __future__ import annotations

from itertools import product

import numpy as np

from qonnx_pipe.observers.protocol import Bound, Range
from qonnx_pipe.observers.search import Error

FINEST = 1 / 32
"""Octaves between the last points: 2 %, and the squared error is flat at its minimum."""


def grid(error: Error, low: Bound, high: Bound, *, symmetric: bool, octaves: int, spacing: float = 1.0) -> Range:
    """The range with the least error on a grid of distances from 0, as `Search` promises.

    Bondarenko et al. 2021: a 2-D grid for an asymmetric range, a line for a symmetric one. The grid is geometric,
    as tails are long: each end in steps of `spacing` octaves, then 3 × 3 points around the best, each time half as far.
    """
    reach = np.stack([-low, high])
    if symmetric:
        reach[:] = reach.max(axis=0)
    best, least = reach, error(low, high)

    def settle(steps: Bound) -> None:
        nonlocal best, least
        center = best
        for pair in zip(steps, steps, strict=True) if symmetric else product(steps, steps):
            trial = np.minimum(center * 2.0 ** np.asarray(pair)[:, None], reach)
            found = error(np.maximum(low, -trial[0]), np.minimum(high, trial[1]))
            best, least = np.where(found < least, trial, best), np.minimum(found, least)

    settle(-np.arange(0.0, octaves + spacing, spacing))
    while (spacing := spacing / 2) >= FINEST:
        settle(spacing * np.array([-1.0, 0.0, 1.0]))
    return np.maximum(low, -best[0]), np.minimum(high, best[1])
