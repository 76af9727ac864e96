"""Targets: the class that each row of a model's scores should have, and what scores lose beside others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

IGNORED = -100
"""The target of a row that does not count, such as a padded token; torch's cross-entropy leaves it out by itself."""

Targets = Mapping[str, npt.NDArray[np.int64]]
"""Output with class scores → class of each of its rows, its shape without the last axis."""

Scores = Mapping[str, npt.NDArray[np.generic]]


def class_outputs(outputs: Scores) -> tuple[str, ...]:
    """Names of the outputs that hold scores of several classes along their last axis, as transformers calls them."""
    return tuple(name for name, values in outputs.items() if "logits" in name and values.shape[-1] > 1)


def divergence(reference: Scores, scores: Scores, targets: Targets) -> float:
    """Sum of the Kullback-Leibler divergences of `scores` from `reference` over all rows that count, nats."""
    total = 0.0
    for name, wanted in targets.items():
        exact, other = (_log_probabilities(found[name])[wanted != IGNORED] for found in (reference, scores))
        total += float(np.sum(np.exp(exact) * (exact - other)))
    return total


def loss(scores: Scores, targets: Targets) -> float:
    """Sum of the cross-entropies over all rows that count, nats."""
    total = 0.0
    for name, wanted in targets.items():
        counts = wanted != IGNORED
        rows = _log_probabilities(scores[name])[counts]
        total -= float(np.take_along_axis(rows, wanted[counts][:, None], axis=1).sum())
    return total


def rows(targets: Targets) -> int:
    """How many rows count."""
    return sum(int(np.sum(wanted != IGNORED)) for wanted in targets.values())


def _log_probabilities(scores: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    real = scores.astype(np.float64)
    real = real - real.max(axis=-1, keepdims=True)
    return np.asarray(real - np.log(np.exp(real).sum(axis=-1, keepdims=True)), np.float64)
