"""Statistics: every value in the bin whose edges hold it, tables that survive arrays exactly."""

from __future__ import annotations

import bisect
from pathlib import Path

import numpy as np
import pytest

from qonnx_pipe.core.statistics import (
    CalibrationTable,
    Histogram,
    MinMax,
    Provenance,
    Request,
    Requests,
    RunningMinMax,
    SiteStatistics,
)

PROVENANCE = Provenance("m", "d", samples=4, batches=2, tokens=77, batch_size=2, max_length=128)
BITS = [0, 2, 4, 7]


def bin_by_edges(value: float, mantissa_bits: int) -> int:
    """Bin index by bisection of edges that are written out: ±2^e·(1 + m/2^bits); 0 where the sign is lost."""
    edges = sorted(2.0**e * (1 + m / 2**mantissa_bits) for e in range(-20, 21) for m in range(2**mantissa_bits))
    side = min(bisect.bisect_right(edges, abs(value)), len(edges))
    return len(edges) + (side if value > 0 else -side)


def edge_values(mantissa_bits: int) -> np.ndarray:
    edges = Histogram(np.zeros((1, 1), np.int64), mantissa_bits).edges()
    chosen = edges[:: max(1, len(edges) // 200)].astype(np.float32)
    special = [0.0, -0.0, 1e-45, -1e-45, 1e-30, 2.0**-20, -(2.0**-20), 2.0**21, 2.0**22, -3e38, np.inf, -np.inf]
    up = np.nextafter(chosen, np.float32(np.inf))
    return np.concatenate([chosen, up, np.nextafter(chosen, np.float32(-np.inf)), np.float32(special)])


@pytest.mark.parametrize("mantissa_bits", BITS)
def test_every_value_stands_in_its_bin(mantissa_bits: int) -> None:
    values = edge_values(mantissa_bits)
    expected = np.zeros(2 * Histogram.half_bins(mantissa_bits) + 1, np.int64)
    for value in values.tolist():
        expected[bin_by_edges(value, mantissa_bits)] += 1
    found = Histogram.of(values.reshape(-1, 1), mantissa_bits=mantissa_bits)
    np.testing.assert_array_equal(found.counts[0], expected)


@pytest.mark.parametrize("mantissa_bits", BITS)
def test_edges_and_centers(mantissa_bits: int) -> None:
    histogram = Histogram.of(np.ones((1, 1), np.float32), mantissa_bits=mantissa_bits)
    edges, centers = histogram.edges(), histogram.centers()
    assert len(edges) == histogram.counts.shape[1] + 1
    assert np.all(np.diff(edges) > 0)
    np.testing.assert_array_equal(edges, -edges[::-1])
    assert (edges[-1], centers[len(centers) // 2]) == (2.0**21, 0.0)
    assert histogram.counts[0, np.searchsorted(edges, 1.0)] == 1  # 1.0 is the lower edge of its bin


def test_nan_stands_at_the_ends() -> None:
    counts = Histogram.of(np.float32([[np.nan], [-np.nan]])).counts[0]
    assert counts[0] + counts[-1] == 2


@pytest.mark.parametrize("shape", [(3, 5, 8), (0, 8), (40, 8)])
def test_channels_add_up_to_the_tensor(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    channels = Histogram.of(values, per_embedding=True)
    whole = Histogram.of(values, mantissa_bits=channels.mantissa_bits)
    assert channels.counts.shape == (8, whole.counts.shape[1])
    np.testing.assert_array_equal(channels.counts.sum(axis=0), whole.counts[0])
    assert whole.counts.sum() == values.size
    for dimension in range(8):
        alone = Histogram.of(values[..., dimension], mantissa_bits=channels.mantissa_bits)
        np.testing.assert_array_equal(channels.counts[dimension], alone.counts[0])


def test_a_strided_view_counts_like_its_copy() -> None:
    values = np.random.default_rng(0).standard_normal((16, 12)).astype(np.float32)
    view = values[::3, ::-2]
    np.testing.assert_array_equal(Histogram.of(view).counts, Histogram.of(view.copy()).counts)


def test_different_layouts_do_not_merge() -> None:
    values = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="do not merge"):
        Histogram.of(values).merge(Histogram.of(values, mantissa_bits=4))
    with pytest.raises(ValueError, match="0 to 7 mantissa bits"):
        Histogram.of(values, mantissa_bits=8)


def test_running_min_max_by_hand() -> None:
    first, second = MinMax(np.float32([-1, -4]), np.float32([1, 2])), MinMax(np.float32([-3, 0]), np.float32([5, 0]))
    running = RunningMinMax.first(first).update(second, momentum=0.75)
    assert running.minimum.tolist() == [-1.5, -3.0]
    assert running.maximum.tolist() == [2.0, 1.5]
    assert (running.tensor_minimum, running.tensor_maximum) == (-3.75, 2.75)  # of −4 and −3, of 2 and 5


def test_table_round_trip_through_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((10, 6)).astype(np.float32)
    minmax = MinMax(values.min(0), values.max(0))
    full = SiteStatistics(minmax, RunningMinMax.first(minmax), Histogram.of(values, per_embedding=True), values[3:5])
    table = CalibrationTable({"layer.0/ffn|input": full, "pooler": SiteStatistics(minmax)}, PROVENANCE)
    np.savez(tmp_path / "table.npz", **table.to_arrays())
    with np.load(tmp_path / "table.npz") as arrays:
        again = CalibrationTable.from_arrays(arrays, PROVENANCE)
    assert list(again.sites) == list(table.sites)
    bare = again.sites["pooler"]
    assert (bare.running, bare.histogram, bare.samples) == (None, None, None)
    found = again.sites["layer.0/ffn|input"]
    assert found.running is not None
    assert found.histogram is not None
    assert found.samples is not None
    assert found.samples.dtype == np.float32
    assert found.histogram.mantissa_bits == 4
    for left, right in [
        (found.minmax.minimum, values.min(0)),
        (found.running.maximum, values.max(0)),
        (found.running.tensor_minimum, values.min()),
        (found.samples, values[3:5]),
        (found.histogram.counts, Histogram.of(values, per_embedding=True).counts),
    ]:
        np.testing.assert_array_equal(left, right)


def test_a_table_without_its_fields_is_refused() -> None:
    with pytest.raises(KeyError):
        CalibrationTable.from_arrays({"pooler|running|minimum": np.zeros(1)}, PROVENANCE)


def test_one_calibration_keeps_the_most_tokens_that_a_site_asks_for() -> None:
    assert Requests((Request("x", samples=8), Request("y", samples=64), Request("z"))).samples == 64
    assert Requests().samples == 0


def test_reordered_statistics_are_those_of_reordered_data() -> None:
    order = (2, 0, 1)

    def seen(values: np.ndarray) -> SiteStatistics:
        batch = MinMax(values.min(axis=0), values.max(axis=0))
        return SiteStatistics(batch, RunningMinMax.first(batch), Histogram.of(values, per_embedding=True), values)

    values = np.random.default_rng(0).normal(0, 1, (9, 3)).astype(np.float32)
    found, expected = seen(values).reordered(order), seen(values[:, list(order)])
    provenance = Provenance("", "", 1, 1, 1, 1, 1)
    tables = [CalibrationTable({"x": one, "y": seen(values)}, provenance) for one in (found, expected)]
    moved = CalibrationTable({"x": seen(values), "y": seen(values)}, provenance).reordered({"x": order})
    for table in (tables[0], moved):
        for key, array in tables[1].to_arrays().items():
            np.testing.assert_array_equal(table.to_arrays()[key], array)
