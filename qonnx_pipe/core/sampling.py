"""Sampling: which tokens of which examples a calibration keeps, however the examples are batched and padded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IndexArray = npt.NDArray[np.int64]

SEED = 0
"""First half of every generator's seed; the example's number is the other."""


def share(example: int, examples: int, wanted: int) -> int:
    """How many of `wanted` samples example number `example` of `examples` gives: ⌊(i+1)·n/N⌋ − ⌊i·n/N⌋.

    The shares differ by at most one and add up to `wanted`.
    """
    return (example + 1) * wanted // examples - example * wanted // examples


def sampled_tokens(own: npt.NDArray[np.bool_], first: int, examples: int, wanted: int) -> IndexArray:
    """Places (row, position) of the tokens that one batch gives, shape (n, 2), by row and then by position.

    `own` [batch, tokens] tells tokens from padding; row r is example number `first` + r of `examples`. Each gives its
    `share` of `wanted`, or all its tokens where it has fewer, drawn without replacement from its own tokens by numpy's
    default_rng([SEED, number]). So only an example's number and its own tokens count, and a calibration may end up
    with fewer than `wanted`.
    """
    places = [
        (row, int(position))
        for row, tokens in enumerate(own)
        for position in _drawn(np.flatnonzero(tokens), share(first + row, examples, wanted), first + row)
    ]
    return np.asarray(places, np.int64).reshape(-1, 2)


def sampled_examples(batch: int, first: int, examples: int, wanted: int) -> IndexArray:
    """Rows of one batch whose examples have a share at all, shape (n, 1): for tensors with one row an example."""
    return np.asarray([[row] for row in range(batch) if share(first + row, examples, wanted)], np.int64).reshape(-1, 1)


def _drawn(positions: IndexArray, count: int, example: int) -> IndexArray:
    generator = np.random.default_rng([SEED, example])
    return np.sort(generator.choice(positions, min(count, len(positions)), replace=False))
