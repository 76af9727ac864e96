"""Bootstrap: 95 % intervals of any statistic of examples, by drawing the examples again (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.verdict import Interval

Doubles = npt.NDArray[np.float64]

RESAMPLES, SEED = 1000, 0
"""How often the examples are drawn again, and the seed of the draws: two statistics of one n are paired."""

AT_ONCE = 50
"""Resamples that are held together: memory stays a small multiple of the examples."""


def resampled(statistic: Callable[[Doubles], Doubles], n: int) -> Doubles:
    """`statistic` of each resample, [RESAMPLES, …]; it takes how often each of n examples is drawn, [r, n]."""
    rng = np.random.default_rng(SEED)
    even = np.full(n, 1.0 / n)
    parts = (rng.multinomial(n, even, AT_ONCE).astype(np.float64) for _ in range(RESAMPLES // AT_ONCE))
    return np.concatenate([statistic(draws) for draws in parts])


def interval(values: Doubles) -> Interval:
    """The middle 95 % of a statistic's resamples; those where it is not defined (NaN) are left out."""
    low, high = np.percentile(values[~np.isnan(values)], [2.5, 97.5])
    return float(low), float(high)
