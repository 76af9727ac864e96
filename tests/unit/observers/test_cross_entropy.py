"""Cross-entropy ranges of logits against a brute-force search with a softmax spelled out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import MinMax, SiteStatistics
from qonnx_pipe.observers import OBSERVERS


def logits(name: str) -> np.ndarray:
    """Rows [24, 3] of class scores."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal((24, 3)).astype(np.float32)
    match name:
        case "sure":
            values *= 6
        case "one far":
            values[5, 1] = -60
        case "shifted":
            values += 9
    return values


def entropy(values: np.ndarray, low: float, high: float, bits: int, *, symmetric: bool) -> float:
    """Mean cross-entropy of quantized logits, in nats, row by row."""
    if symmetric:
        step = max(-low, high) / (2 ** (bits - 1) - 1)
        first, last = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    else:
        step = (high - low) / (2**bits - 1)
        first = -round(-low / step)
        last = first + 2**bits - 1
    total = 0.0
    for row in values.astype(np.float64):
        quantized = [step * min(max(round(x / step), first), last) for x in row]
        float_sum, sum_ = (sum(math.exp(x) for x in found) for found in (row, quantized))
        total -= sum(math.exp(x) / float_sum * (q - math.log(sum_)) for x, q in zip(row, quantized, strict=True))
    return total / len(values)


def found(values: np.ndarray, bits: int, *, symmetric: bool) -> tuple[float, float]:
    seen = SiteStatistics(MinMax(values.min(axis=0), values.max(axis=0)), samples=values)
    spec = QuantSpec(QTYPES[f"int{bits}"], PerTensor(), symmetric, "cross_entropy")
    low, high = OBSERVERS["cross_entropy"].range(seen, spec, None)
    return float(low), float(high)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", ["plain", "sure", "one far", "shifted"])
def test_as_good_as_a_brute_force_search(name: str, bits: int, symmetric: bool) -> None:
    values = logits(name)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    fractions = 2.0 ** -np.arange(0, 6, 1 / 4)
    bound = max(-low, high)
    pairs = [(-f * bound, f * bound) for f in fractions]
    if not symmetric:
        pairs = [(a * low, b * high) for a in fractions for b in fractions]
    searched = [(max(low, below), min(high, above)) for below, above in pairs]
    best = min(entropy(values, *ends, bits, symmetric=symmetric) for ends in searched)
    floor = float(np.mean([-(p * np.log(p)).sum() for p in map(softmax, values.astype(np.float64))]))
    # 5 % of what quantization adds: the search ends 2 % from its optimum.
    assert entropy(values, *found(values, bits, symmetric=symmetric), bits, symmetric=symmetric) - floor <= 1.05 * (
        best - floor
    )


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row)
    return np.asarray(powers / powers.sum())


def test_a_score_that_no_softmax_sees_is_cut() -> None:
    low, high = found(logits("one far"), 4, symmetric=False)
    assert low > -20
    assert high > 1


def test_all_classes_alike_keep_the_whole_range() -> None:
    """Every range gives the same softmax."""
    assert found(np.full((9, 4), 2.5, np.float32), 8, symmetric=False) == (0.0, 2.5)


def test_many_classes_are_looked_at_in_part() -> None:
    values = np.random.default_rng(0).standard_normal((50, 30_000)).astype(np.float32)
    low, high = found(values, 8, symmetric=True)
    assert float(values.min()) <= low < -1
    assert 1 < high <= float(values.max())


def test_no_samples_are_refused() -> None:
    spec = QuantSpec(QTYPES["int8"], PerTensor(), symmetric=True, range="cross_entropy")
    minmax = MinMax(np.float32([-1]), np.float32([1]))
    for samples in (None, np.zeros((0, 2), np.float32)):
        with pytest.raises(ValueError, match="calibration collected no samples"):
            OBSERVERS["cross_entropy"].range(SiteStatistics(minmax, samples=samples), spec, None)
