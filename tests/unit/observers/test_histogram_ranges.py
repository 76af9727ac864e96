"""MSE, percentile and entropy ranges against slow oracles on the true data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec, RangeMethod
from qonnx_pipe.core.statistics import Histogram, MinMax, SiteStatistics
from qonnx_pipe.observers import OBSERVERS
from qonnx_pipe.observers.entropy import _divergences
from qonnx_pipe.observers.percentile import PercentileObserver

BIN = 2.0**-7
"""Relative width of a histogram bin."""


def normal(n: int = 40_000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n).astype(np.float32)


def outliers(size: float = 60.0) -> np.ndarray:
    values = normal()
    values[:20] *= size
    return values


def gelu() -> np.ndarray:
    x = 4 * normal().astype(np.float64)
    return (x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))).astype(np.float32)


DATA = {
    "normal": normal(),
    "outliers": outliers(),
    "one huge": np.append(normal(), np.float32(5000)),
    "gelu": gelu(),
    "laplace": np.random.default_rng(2).laplace(size=40_000).astype(np.float32),
    "uniform": np.random.default_rng(1).random(40_000, np.float32) - np.float32(0.2),
    "negative": -np.abs(normal()) - 3,
    "tiny": normal() * np.float32(1e-4),
}


def seen(values: np.ndarray) -> SiteStatistics:
    return SiteStatistics(MinMax(values.min(keepdims=True), values.max(keepdims=True)), None, Histogram.of(values))


def ranged(
    method: RangeMethod, values: np.ndarray, dtype: str = "int8", symmetric: bool = False
) -> tuple[float, float]:
    low, high = OBSERVERS[method].range(seen(values), QuantSpec(QTYPES[dtype], PerTensor(), symmetric, method), None)
    return float(low), float(high)


def true_error(values: np.ndarray, low: float, high: float, bits: int, symmetric: bool) -> float:
    """Mean squared error of a quantizer, spelled out."""
    x = values.astype(np.float64)
    if symmetric:
        step = max(-low, high) / (2 ** (bits - 1) - 1)
        first, last = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    else:
        step = (high - low) / (2**bits - 1)
        first = -round(-low / step)
        last = first + 2**bits - 1
    return float(np.mean((x - step * np.clip(np.rint(x / step), first, last)) ** 2))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", DATA)
def test_mse_is_as_good_as_a_slow_search_on_the_data(name: str, bits: int, symmetric: bool) -> None:
    values = DATA[name]
    low, high = ranged("mse", values, f"int{bits}", symmetric)
    full_low, full_high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    fractions = np.geomspace(2.0**-10, 1.0, 40)
    bound = max(-full_low, full_high)
    searched = [(max(full_low, -f * bound), min(full_high, f * bound)) for f in fractions]
    best = min(true_error(values, *ends, bits, symmetric) for ends in searched)
    # 5 %: the search ends 2 % from its optimum, and a bin's values are taken as evenly spread.
    assert true_error(values, low, high, bits, symmetric) <= 1.05 * best


def brute_force(values: np.ndarray, bits: int, symmetric: bool) -> float:
    """Least true error over a dense grid of pairs of ends, an eighth of an octave apart, down to 1/32."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    fractions = 2.0 ** -np.arange(0, 5, 1 / 8)
    if symmetric:
        bound = max(-low, high)
        return min(true_error(values, max(low, -f * bound), min(high, f * bound), bits, True) for f in fractions)
    lows, highs = ({f * end for f in fractions} for end in (low, high))
    return min(true_error(values, a, b, bits, False) for a in lows for b in highs if b > a)


SEARCHED = {name: values[::20] for name, values in DATA.items() if name != "one huge"}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("method", ["mse_grid", "golden_section"])
@pytest.mark.parametrize("name", SEARCHED)
def test_both_ends_are_as_good_as_those_of_a_brute_force_search(
    name: str, method: RangeMethod, bits: int, symmetric: bool
) -> None:
    values = SEARCHED[name]
    found = true_error(values, *ranged(method, values, f"int{bits}", symmetric), bits, symmetric)
    # 5 %: the searches end 2 % from their optimum, and a bin's values are taken as evenly spread.
    assert found <= 1.05 * brute_force(values, bits, symmetric)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["int4", "uint8", "uint16"])
@pytest.mark.parametrize("method", ["mse", "mse_grid", "golden_section"])
@pytest.mark.parametrize("name", DATA)
def test_mse_is_no_worse_than_min_max(name: str, method: RangeMethod, dtype: str, symmetric: bool) -> None:
    values, bits = DATA[name], QTYPES[dtype].bits
    errors = [true_error(values, *ranged(way, values, dtype, symmetric), bits, symmetric) for way in (method, "minmax")]
    # 2 %: on the histogram the error is never larger, but there a value stands anywhere in its bin.
    assert errors[0] <= 1.02 * errors[1]


def test_mse_gains_much_on_long_tails() -> None:
    values = DATA["laplace"]
    errors = [true_error(values, *ranged(method, values, "int4"), 4, False) for method in ("mse", "minmax")]
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_agrees_with_numpy(name: str, percentile: float) -> None:
    values = DATA[name]
    spec = QuantSpec(QTYPES["int8"], PerTensor(), False, "percentile")
    low, high = PercentileObserver(percentile).range(seen(values), spec, None)
    # numpy's two neighbours of the percentile, each known to a bin's width.
    for found, share, outward in ((high, percentile, 1), (low, 100 - percentile, -1)):
        nearest = [float(np.percentile(values, share, method=method)) for method in ("lower", "higher")]
        least, most = min(nearest), max(nearest)
        slack = BIN * max(abs(least), abs(most))
        least, most = (min(least, 0.0), min(most, 0.0)) if outward < 0 else (max(least, 0.0), max(most, 0.0))
        assert least - slack <= float(found) <= most + slack


def test_percentile_100_is_min_max() -> None:
    values = DATA["outliers"]
    spec = QuantSpec(QTYPES["int8"], PerTensor(), False, "percentile")
    low, high = PercentileObserver(100.0).range(seen(values), spec, None)
    assert (float(low), float(high)) == (values.min(), values.max())


def divergence(mass: np.ndarray, start: int, stop: int, codes: int) -> float:
    return float(_divergences(mass, np.array([[start, stop]]), codes)[0])


def test_divergence_of_the_papers_example() -> None:
    """Migacz 2017, p. 36: P = [1 0 2 3 | 5 3 1 7] in two levels becomes Q = [2 0 2 2 | 4 4 4 4]."""
    p, q = [1, 2, 3, 5, 3, 1, 7], [2, 2, 2, 4, 4, 4, 4]
    expected = sum(a / 22 * math.log((a / 22) / (b / 22)) for a, b in zip(p, q, strict=True))
    assert divergence(np.float64([1, 0, 2, 3, 5, 3, 1, 7]), 0, 8, 2) == pytest.approx(expected, rel=1e-12)


def test_divergence_of_a_window_clips_the_tails_into_its_ends() -> None:
    # [2 | 1 3 | 4] in one level: the original is [1 + 2, 3 + 4] of 10, the quantized [2, 2] of 4.
    expected = 0.3 * math.log(0.3 / 0.5) + 0.7 * math.log(0.7 / 0.5)
    assert divergence(np.float64([2, 1, 3, 4]), 1, 3, 1) == pytest.approx(expected, rel=1e-12)


def test_a_tail_in_an_empty_bin_takes_part_of_its_level_or_finds_half_a_value() -> None:
    mass = np.float64([2, 0, 3, 4])  # clipped to [2 | 7] of 9
    one_level = 2 / 9 * math.log(2 / 9 / 0.5) + 7 / 9 * math.log(7 / 9 / 0.5)
    two_levels = 2 / 9 * math.log(2 / 9 / (0.5 / 3.5)) + 7 / 9 * math.log(7 / 9 / (3 / 3.5))
    assert divergence(mass, 1, 3, 1) == pytest.approx(one_level, rel=1e-12)
    assert divergence(mass, 1, 3, 2) == pytest.approx(two_levels, rel=1e-12)
    assert divergence(np.float64([1, 0, 0, 1]), 1, 3, 1) == math.inf


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_cuts_a_long_thin_tail_and_keeps_the_body(symmetric: bool) -> None:
    low, high = ranged("entropy", outliers(20.0), symmetric=symmetric)
    assert max(-low, high) < 0.6 * float(np.abs(outliers(20.0)).max())
    assert min(-low, high) > 2.5  # 99 % of the normal body


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_keeps_an_even_distribution_whole(symmetric: bool) -> None:
    values = np.linspace(-1, 1, 40_001, dtype=np.float32)
    low, high = ranged("entropy", values, symmetric=symmetric)
    # The topmost log bins hold a share that is not whole, so the last of 60 windows may go: 2 %.
    assert (low, high) == pytest.approx((-1, 1), abs=0.02)


def test_entropy_keeps_the_range_of_wide_types() -> None:
    assert ranged("entropy", DATA["outliers"], "uint16") == ranged("minmax", DATA["outliers"], "uint16")
