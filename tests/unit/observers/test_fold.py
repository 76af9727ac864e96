"""Scales and shifts follow their formulas, keep a group's codes, and a search never picks the worse."""

from dataclasses import replace

import numpy as np
import pytest

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import Histogram, MinMax, RunningMinMax, SiteStatistics
from qonnx_pipe.observers.fold import Reader, bias_error, by_groups, moved, search, smoothing

WIDTH, OUT, TOKENS = 16, 24, 200
INT8 = QuantSpec(QTYPES["int8"], PerChannel(1), True)
UINT8 = QuantSpec(QTYPES["uint8"], PerTensor(), False, form="fold")


def tokens() -> np.ndarray:
    """One dimension is wide, one far off centre, one always zero."""
    values = np.random.default_rng(0).normal(0, 1, (TOKENS, WIDTH)).astype(np.float32)
    values[:, 3] *= 30
    values[:, 7] += 25
    values[:, 11] = 0
    return values


def statistics(values: np.ndarray, **more: object) -> SiteStatistics:
    return SiteStatistics(MinMax(values.min(axis=0), values.max(axis=0)), samples=values, **more)


def readers(count: int = 2) -> list[Reader]:
    rng = np.random.default_rng(1)
    return [Reader(rng.normal(0, 0.2, (WIDTH, OUT)).astype(np.float32), INT8) for _ in range(count)]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_a_fold_by_groups_keeps_the_codes(dtype: str) -> None:
    """Oracle: the formulas of each group, dimension by dimension."""
    kind, order = QTYPES[dtype], tuple(np.random.default_rng(2).permutation(WIDTH).tolist())
    sizes = (9, 5, 2)
    scale = np.float32([0.01, 0.25, 1.7])
    zero_point = np.int32([kind.qmin, kind.qmax - 3, kind.qmin + 100])
    affine, encoding = by_groups(Encoding(kind, EmbeddingGroups(sizes, order), scale, zero_point))
    group = np.empty(WIDTH, int)
    group[list(order)] = np.repeat([0, 1, 2], sizes)
    values = tokens()
    expected = np.clip(np.rint(values / scale[group]) + zero_point[group], kind.qmin, kind.qmax)
    assert encoding.granularity == PerTensor()
    found = np.clip(np.rint(affine(values) / encoding.scale) + encoding.zero_point, kind.qmin, kind.qmax)
    differ = np.abs(found - expected)
    assert differ.max() <= 1
    assert np.mean(differ > 0) < 0.002, "only where float32 falls on the other side of a tie"
    zero = affine(np.zeros((1, WIDTH), np.float32)) / encoding.scale
    np.testing.assert_allclose(zero, np.rint(zero), atol=1e-3, err_msg="0 stays on the grid")


@pytest.mark.parametrize("shift", [False, True])
def test_smoothing_follows_its_formula(shift: bool) -> None:
    values, layers = tokens(), readers()
    spec = QuantSpec(QTYPES["uint8"], PerTensor(), False, smooth=0.7, shift=shift)
    found = smoothing(statistics(values), spec, layers)
    low, high = values.min(axis=0).astype(float), values.max(axis=0).astype(float)
    middle = (low + high) / 2 * shift
    rows = np.max([np.abs(layer.weight).max(axis=1) for layer in layers], axis=0).astype(float)
    reach = np.maximum(np.abs(low - middle), np.abs(high - middle))
    expected = np.where(reach > 0, reach**0.7 / rows**0.3, 1.0)
    np.testing.assert_allclose(found.scale, expected, rtol=1e-5)
    np.testing.assert_allclose(found.shift, middle, rtol=1e-5)
    assert found.scale[11] == 1.0, "a dimension that is always zero stays alone"


def test_running_extremes_count_where_the_range_is_running() -> None:
    values = tokens()
    half = RunningMinMax(values.min(axis=0) / 2, values.max(axis=0) / 2, values.min() / 2, values.max() / 2)
    spec = QuantSpec(QTYPES["uint8"], PerTensor(), False, range="running_minmax", smooth=1.0)
    found = smoothing(statistics(values, running=half), spec, readers())
    assert found.scale[3] == pytest.approx(np.abs(values[:, 3]).max() / 2)


def noise(values: np.ndarray, layers: list[Reader], affine: Affine) -> float:
    """Squared error behind the layers with ideal biases: per-tensor uint8 values, int8 columns; written out."""
    folded = (values.astype(np.float64) - affine.shift) / affine.scale
    low, high = min(folded.min(), 0), max(folded.max(), 0)
    step = (high - low) / 255
    seen = np.clip(np.rint(folded / step) - np.rint(low / step), 0, 255) + np.rint(low / step)
    total = 0.0
    for layer in layers:
        weight = layer.weight * affine.scale[:, None].astype(np.float64)
        columns = np.abs(weight).max(axis=0) / 127
        error = seen * step @ (np.rint(weight / columns) * columns) - folded @ weight
        total += float(np.sum((error - folded.mean(axis=0) @ (np.rint(weight / columns) * columns - weight)) ** 2))
    return total


@pytest.mark.parametrize("shift", [False, True])
def test_a_search_beats_doing_nothing_and_a_typical_strength(shift: bool) -> None:
    values, layers = tokens(), readers()
    spec = QuantSpec(QTYPES["uint8"], PerTensor(), False, shift=shift, form="fold")
    found = search(statistics(values), spec, layers, corrected=True)
    nothing = Affine.scaling(np.ones(WIDTH, np.float32))
    smooth = smoothing(statistics(values), QuantSpec(QTYPES["uint8"], PerTensor(), False, smooth=0.5), layers)
    assert noise(values, layers, found) < 0.2 * noise(values, layers, nothing)
    assert noise(values, layers, found) < noise(values, layers, smooth)
    assert found.shifts is shift, "the dimension that lies off centre asks for one"


@pytest.mark.parametrize("wide", [False, True])
def test_scales_that_cost_a_mul_must_gain(wide: bool) -> None:
    """Dimensions of like width need none; one of thirty times the width is worth it. A shift is always free."""
    values = np.random.default_rng(5).normal(0, 1, (TOKENS, WIDTH)).astype(np.float32)
    values[:, 7] += 25
    values[:, 3] *= 30 if wide else 1.2
    spec = replace(UINT8, shift=True)
    free, costly = (search(statistics(values), spec, readers(), corrected=True, costly=flag) for flag in (False, True))
    assert free.scales
    assert costly.scales == wide
    assert costly.shifts
    np.testing.assert_array_equal(costly.shift, free.shift)


def test_a_search_needs_tokens() -> None:
    seen = statistics(tokens())
    with pytest.raises(ValueError, match="kept no tokens"):
        search(SiteStatistics(seen.minmax), UINT8, readers(), corrected=False)


def test_statistics_move_with_their_tensor() -> None:
    values = tokens()
    affine = Affine(np.linspace(1, 3, WIDTH, dtype=np.float32), np.linspace(-2, 2, WIDTH, dtype=np.float32))
    half = RunningMinMax(values.min(axis=0) / 2, values.max(axis=0) / 2, values.min() / 2, values.max() / 2)
    found = moved(statistics(values, running=half, histogram=Histogram.of(values)), affine)
    there = ((values - affine.shift) / affine.scale).astype(np.float32)
    np.testing.assert_allclose(found.minmax.minimum, there.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.samples, there, rtol=1e-6)
    assert found.running is not None
    assert found.running.tensor_maximum == pytest.approx(np.max((values.max(axis=0) / 2 - affine.shift) / affine.scale))
    assert found.histogram is not None
    assert found.histogram.counts.sum() == values.size
    assert moved(statistics(values), affine).histogram is None


def test_a_bias_error_is_the_mean_output_that_is_lost() -> None:
    values, weight = tokens(), readers()[0].weight
    coarse = (np.rint(weight * 10) / 10).astype(np.float32)
    error = bias_error(values, weight, coarse)
    left = values.astype(np.float64) @ coarse + error - values.astype(np.float64) @ weight
    np.testing.assert_allclose(left.mean(axis=0), 0, atol=1e-6)
