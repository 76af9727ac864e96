"""PEG layouts: range order, stable ties, uneven sizes; pooling over them."""

from __future__ import annotations

import numpy as np
import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.granularity import PerEmbedding, PerEmbeddingGroup
from qonnx_pipe.core.statistics import Histogram, MinMax, SiteStatistics
from qonnx_pipe.observers.groups import pool_counts, pool_range, resolve_groups

SEEN = MinMax(np.float32([-1, -9, -1, 0]), np.float32([1, 2, 1, 0.5]))  # ranges 2, 11, 2, 0.5


def test_outliers_share_the_last_group_and_ties_keep_their_order() -> None:
    groups = resolve_groups(PerEmbeddingGroup(2, "range"), SEEN)
    assert groups == EmbeddingGroups((2, 2), (3, 0, 2, 1))


def test_without_permutation_dimensions_keep_their_order() -> None:
    assert resolve_groups(PerEmbeddingGroup((3, 1)), SEEN) == EmbeddingGroups((3, 1), (0, 1, 2, 3))


def test_per_embedding_is_one_group_a_dimension() -> None:
    assert resolve_groups(PerEmbedding(), SEEN) == EmbeddingGroups((1, 1, 1, 1), (0, 1, 2, 3))


def test_groups_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 equal groups do not divide 4 dimensions"):
        resolve_groups(PerEmbeddingGroup(3), SEEN)


def test_ranges_pool_over_groups_and_hold_zero() -> None:
    low, high = pool_range(np.float32([1, -9, 2, 3]), np.float32([1, 2, 7, 5]), EmbeddingGroups((1, 3), (2, 0, 1, 3)))
    assert (low.tolist(), high.tolist()) == ([0.0, -9.0], [7.0, 5.0])
    low, high = pool_range(np.float32([1, 2]), np.float32([3, 4]), None)
    assert (low.shape, float(low), float(high)) == ((), 0.0, 4.0)


def test_counts_pool_over_groups() -> None:
    values = np.float32([[1, 1, -1, 8], [1, 2, -1, 8]])
    statistics = SiteStatistics(
        MinMax(values.min(0), values.max(0)), histogram=Histogram.of(values, per_embedding=True)
    )
    pooled = pool_counts(statistics, EmbeddingGroups((1, 3), (3, 0, 1, 2)))
    np.testing.assert_array_equal(pooled[0], Histogram.of(values[:, 3], mantissa_bits=4).counts[0])
    np.testing.assert_array_equal(pooled[1], Histogram.of(values[:, :3], mantissa_bits=4).counts[0])
    np.testing.assert_array_equal(pool_counts(statistics, None)[0], pooled.sum(axis=0))


def test_groups_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="lay out 3 dimensions, the statistics have 4"):
        pool_range(SEEN.minimum, SEEN.maximum, EmbeddingGroups((3,), (0, 1, 2)))
