"""Cross-entropy: the range of logits whose quantized softmax stays closest to the float one."""

from __future__ import annotations

import numpy as np

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.numerics import scale_and_zero_point
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import SiteStatistics
from qonnx_pipe.observers.grid import grid
from qonnx_pipe.observers.groups import pool_range
from qonnx_pipe.observers.protocol import Bound, Range, Requirement
from qonnx_pipe.observers.search import Error

OCTAVES = 10
"""As for MSE."""

SPACING = 0.5
"""Octaves between the first candidates: with few bits the minima are narrower than those of the squared error."""

VALUES = 1 << 20
"""Logits to look at: all of a classifier, but of a language model's 30,000 a token only some dozens of tokens."""


class CrossEntropyObserver:
    """Least cross-entropy −Σ softmax(x)·log softmax(x̂), the mean over the sampled rows [n, classes].

    Bondarenko et al. 2021, for the logits of a classifier. Samples are chosen by the examples' numbers, so that the
    batches do not count but the order of the examples does.
    """

    requires: Requirement = "samples"
    order_independent = False

    def range(self, statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None) -> Range:
        """Best range of the whole tensor, within what was seen; ValueError for groups: logits share one scale."""
        if groups is not None:
            raise ValueError("cross-entropy compares whole rows of logits: per_tensor only")
        if statistics.samples is None or not len(statistics.samples):
            raise ValueError("calibration collected no samples here")
        low, high = pool_range(statistics.minmax.minimum, statistics.minmax.maximum, None)
        error = _cross_entropy(np.asarray(statistics.samples, np.float64), spec)
        below, above = grid(
            error, low.ravel(), high.ravel(), symmetric=spec.symmetric, octaves=OCTAVES, spacing=SPACING
        )
        return below.reshape(()), above.reshape(())


def _cross_entropy(logits: Bound, spec: QuantSpec) -> Error:
    """Mean cross-entropy, in nats, of one range, shape (1,)."""
    logits = logits[:: max(1, -(-logits.size // VALUES))]
    wanted = np.exp(_log_softmax(logits))

    def error(low: Bound, high: Bound) -> Bound:
        scale, zero_point = scale_and_zero_point(low, high, spec.dtype, symmetric=spec.symmetric)
        step, ends = scale.astype(np.float64), np.array([[spec.dtype.qmin], [spec.dtype.qmax]]) - zero_point
        quantized = np.clip(np.rint(logits / step), *ends) * step
        return np.asarray([-np.vdot(wanted, _log_softmax(quantized)) / len(logits)])

    return error


def _log_softmax(logits: Bound) -> Bound:
    logits = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
