"""Golden section: narrow an interval for each end of a range, one search inside the other."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log

import numpy as np

from qonnx_pipe.observers.protocol import Bound, Range
from qonnx_pipe.observers.search import Error

RATIO = (5**0.5 - 1) / 2
"""Share of the interval that is left after each step, with one new point (Kiefer 1953)."""

PRECISION = 1 / 32
"""Octaves at which a search ends: 2 %, and the error is flat at its minimum."""


def golden_section(error: Error, low: Bound, high: Bound, *, symmetric: bool, octaves: int) -> Range:
    """The range with the least error by nested golden sections, as `Search` promises.

    Bondarenko et al. 2021, range estimators. The outer search places the upper end, the inner one the lower end for it;
    a symmetric range has but one. Distances from 0 are searched by their logarithm, as tails are long. A golden section
    finds the minimum of an error that has one; of several it may find another than the lowest, but never worse than no
    cut.
    """
    reach = np.stack([-low, high])
    if symmetric:
        reach[:] = reach.max(axis=0)

    def drawn(exponent: Bound) -> Bound:
        return np.asarray(np.maximum(low, -reach[0] * np.exp2(exponent)))

    def raised(exponent: Bound) -> Bound:
        return np.asarray(np.minimum(high, reach[1] * np.exp2(exponent)))

    def lower(above: Bound) -> Bound:
        """The best lower end for an upper one."""
        return drawn(_least(lambda exponent: error(drawn(exponent), above), len(low), octaves))

    def with_lower(exponent: Bound) -> Bound:
        above = raised(exponent)
        return error(lower(above), above)

    if symmetric:
        exponent = _least(lambda exponent: error(drawn(exponent), raised(exponent)), len(low), octaves)
        below, above = drawn(exponent), raised(exponent)
    else:
        above = raised(_least(with_lower, len(low), octaves))
        below = lower(above)
    better = error(below, above) < error(low, high)
    return np.where(better, below, low), np.where(better, above, high)


def _least(cost: Callable[[Bound], Bound], n: int, octaves: int) -> Bound:
    """Where each of n costs is least in [−octaves, 0], to PRECISION."""
    left, right = np.full(n, -float(octaves)), np.zeros(n)
    first, second = right - RATIO * (right - left), left + RATIO * (right - left)
    at_first, at_second = cost(first), cost(second)
    for _ in range(ceil(log(octaves / PRECISION) / -log(RATIO))):
        down = at_first <= at_second
        left, right = np.where(down, left, first), np.where(down, second, right)
        new = np.where(down, right - RATIO * (right - left), left + RATIO * (right - left))
        at_new = cost(new)
        first, second = np.where(down, new, second), np.where(down, first, new)
        at_first, at_second = np.where(down, at_new, at_second), np.where(down, at_first, at_new)
    return np.asarray(np.where(at_first <= at_second, first, second))
