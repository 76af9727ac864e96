"""Clock: what paired rounds of timings say about two models, in pure functions of the times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
"""Bootstrap resamples: the 2.5 % tail holds 50 of them."""

Rounds = Sequence[Sequence[float]]
"""Seconds of every run, grouped by round."""


def quantiles_ms(rounds: Rounds) -> tuple[float, float]:
    """Median and 95th percentile of all runs, in milliseconds."""
    times = np.concatenate([np.asarray(times, np.float64) for times in rounds])
    p50, p95 = np.quantile(times, [0.5, 0.95]) * 1e3
    return float(p50), float(p95)


def speedup(reference: Rounds, candidate: Rounds, *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """How many times faster `candidate` is: the median over rounds of the ratio of medians, and its 95 % interval.

    Round i of both stood next to each other in time, so that a slow spell of the machine falls on both and cancels in
    their ratio. The interval is a percentile bootstrap over rounds. ValueError unless both have the same, positive
    number of rounds.
    """
    if len(reference) != len(candidate) or not reference:
        raise ValueError(f"{len(reference)} rounds cannot be paired with {len(candidate)}")
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(reference, candidate, strict=True)])
    draws = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return float(np.median(ratios)), (float(low), float(high))
