"""The columns of `expand`: the least step that brute force finds, no more columns than allowed."""

import numpy as np
import pytest

from qonnx_pipe.core.encoding import Windows
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import MinMax, RunningMinMax, SiteStatistics
from qonnx_pipe.observers.expand import budget, expanded, smallest_step

UINT8 = QTYPES["uint8"]


def spec(columns: int, *, symmetric: bool = False, dtype: str = "uint8", method="minmax") -> QuantSpec:
    return QuantSpec(QTYPES[dtype], PerTensor(), symmetric, method, form="expand", columns=columns)


def needed(low: float, high: float, step: float, zero: int, dtype) -> int:
    """Windows beyond the own one, counted one by one."""
    count = 0
    while high / step + zero > dtype.qmax + 0.5 + count * dtype.levels:
        count += 1
    above, count = count, 0
    while low / step + zero < dtype.qmin - 0.5 - count * dtype.levels:
        count += 1
    return above + count


@pytest.mark.parametrize("dtype", ["uint4", "int4"])
@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_step_is_the_least_that_a_scan_finds(seed: int, columns: int, dtype: str) -> None:
    rng, kind = np.random.default_rng(seed), QTYPES[dtype]
    low, high = -rng.exponential(1, 12), rng.exponential(1, 12)
    low[3] *= 30
    high[7] *= 50
    scale, zero = smallest_step(low, high, columns, kind)
    best = np.inf
    for place in range(kind.qmin, kind.qmax + 1):
        for step in np.geomspace(0.01, 10, 1500):
            if step < best and sum(needed(a, b, step, place, kind) for a, b in zip(low, high, strict=True)) <= columns:
                best = step
    assert float(scale) <= best  # never worse than a scan, which finds it to half a per cent
    assert float(scale) >= best * 0.99
    assert sum(needed(a, b, float(scale), int(zero), kind) for a, b in zip(low, high, strict=True)) <= columns


def test_one_outlier_takes_the_columns_that_it_needs() -> None:
    low, high = np.full(64, -1.0), np.full(64, 1.0)
    high[5] = 11.0
    encoding = expanded(SiteStatistics(MinMax(np.float32(low), np.float32(high))), spec(8))
    assert isinstance(encoding.granularity, Windows)
    assert set(encoding.granularity.dimensions) == {5}
    assert encoding.granularity.places == (1, 2, 3, 4, 5)  # [-1, 11] is six windows of [-1, 1]
    assert float(encoding.scale) == pytest.approx(2 / 255, rel=0.01)


def test_negative_outliers_get_windows_below() -> None:
    low, high = np.full(64, -1.0), np.full(64, 1.0)
    low[2] = -4.9
    encoding = expanded(SiteStatistics(MinMax(np.float32(low), np.float32(high))), spec(8))
    assert encoding.granularity == Windows(64, (2, 2), (-1, -2))


def test_a_symmetric_encoding_keeps_its_zero_point() -> None:
    bound = np.full(64, 1.0, np.float32)
    bound[9] = 20
    encoding = expanded(SiteStatistics(MinMax(-bound, bound)), spec(4, symmetric=True, dtype="int8"))
    assert int(encoding.zero_point) == 0
    assert isinstance(encoding.granularity, Windows)
    assert sorted(encoding.granularity.places) == [-2, -1, 1, 2]


def test_where_nothing_stands_out_nothing_is_added() -> None:
    flat = np.ones(64, np.float32)
    encoding = expanded(SiteStatistics(MinMax(-flat, flat)), spec(8))
    assert encoding.granularity == PerTensor()
    assert float(encoding.scale) == pytest.approx(2 / 255, rel=1e-6)


@pytest.mark.parametrize(("columns", "width", "expected"), [(16, 384, 16), (16, 64, 8), (16, 7, 0), (1, 8, 1)])
def test_an_eighth_of_the_dimensions_is_the_most(columns: int, width: int, expected: int) -> None:
    assert budget(columns, width) == expected


def test_a_tensor_of_zeros_has_an_encoding() -> None:
    nothing = np.zeros(16, np.float32)
    encoding = expanded(SiteStatistics(MinMax(nothing, nothing)), spec(2))
    assert encoding.granularity == PerTensor()
    assert float(encoding.scale) > 0


def test_the_ranges_are_those_of_the_spec() -> None:
    high = np.ones(64, np.float32)
    high[1] = 8
    seen = RunningMinMax(-high / 4, high / 4, np.float32(-2), np.float32(2))
    full = expanded(SiteStatistics(MinMax(-high, high), seen), spec(8))
    averaged = expanded(SiteStatistics(MinMax(-high, high), seen), spec(8, method="running_minmax"))
    assert float(averaged.scale) == pytest.approx(float(full.scale) / 4, rel=1e-6)
