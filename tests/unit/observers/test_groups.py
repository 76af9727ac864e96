"""PEG layouts: range order, stable ties, uneven sizes; pooling over them."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.granularity import PerEmbedding, PerEmbeddingGroup
from qonnx_pipe.core.statistics import Histogram, MinMax, SiteStatistics
from qonnx_pipe.observers.groups import least_error_sizes, pool_counts, pool_range, resolve_groups

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


def test_counts_of_a_billion_tokens_pool_too() -> None:
    """A dimension's counts are 32 bits wide; those of a group or a tensor are not."""
    one = Histogram.of(np.ones((1, 4), np.float32), per_embedding=True)
    assert one.counts.dtype == np.int32
    many = Histogram(one.counts * np.int32(10**9), one.mantissa_bits)
    statistics = SiteStatistics(SEEN, histogram=many)
    assert pool_counts(statistics, EmbeddingGroups((1, 3), (3, 0, 1, 2))).max() == 3 * 10**9
    assert pool_counts(statistics, None).max() == 4 * 10**9


def test_groups_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="lay out 3 dimensions, the statistics have 4"):
        pool_range(SEEN.minimum, SEEN.maximum, EmbeddingGroups((3,), (0, 1, 2)))


def test_a_shared_order_stands_for_the_own_one_and_only_where_dimensions_are_permuted() -> None:
    assert resolve_groups(PerEmbeddingGroup((3, 1), "range"), SEEN, (1, 3, 2, 0)).permutation == (1, 3, 2, 0)
    assert resolve_groups(PerEmbeddingGroup((3, 1)), SEEN, (1, 3, 2, 0)).is_identity


def brute_force(low: np.ndarray, high: np.ndarray, groups: int) -> tuple[float, set[tuple[int, ...]]]:
    """The least Σ n·range², and every cut that reaches it."""
    found = []
    for inner in itertools.combinations(range(1, len(low)), groups - 1):
        cuts = (0, *inner, len(low))
        error = sum(
            (end - start) * (max(0, *high[start:end]) - min(0, *low[start:end])) ** 2
            for start, end in itertools.pairwise(cuts)
        )
        found.append((error, tuple(end - start for start, end in itertools.pairwise(cuts))))
    least = min(error for error, _ in found)
    return least, {sizes for error, sizes in found if error <= least * (1 + 1e-12)}


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(6))
def test_cuts_have_the_least_error_of_all(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = -rng.exponential(1, 9), rng.exponential(1, 9)
    if seed % 2:
        order = np.argsort(high - low)
        low, high = low[order], high[order]
    sizes = least_error_sizes(low, high, groups)
    assert len(sizes) == groups
    assert sizes in brute_force(low, high, groups)[1]


def test_cuts_by_error_follow_the_order_and_set_the_outliers_apart() -> None:
    spread = np.float32([1, 40, 1, 1, 50, 1, 1, 1])
    seen = MinMax(-spread, spread)
    groups = resolve_groups(PerEmbeddingGroup(2, "range", boundaries="error"), seen)
    assert groups == EmbeddingGroups((6, 2), (0, 2, 3, 5, 6, 7, 1, 4))
    assert resolve_groups(PerEmbeddingGroup(3, boundaries="error"), seen).sizes == (4, 1, 3)


def test_given_sizes_are_not_moved_and_more_groups_than_dimensions_are_refused() -> None:
    assert resolve_groups(PerEmbeddingGroup((3, 1), boundaries="error"), SEEN).sizes == (3, 1)
    with pytest.raises(ValueError, match="5 groups are more than 4 dimensions"):
        least_error_sizes(SEEN.minimum, SEEN.maximum, 5)


def test_cuts_of_a_wide_tensor_take_less_than_a_second() -> None:
    spread = np.sort(np.random.default_rng(0).lognormal(0, 1, 3072))
    start = time.perf_counter()
    sizes = least_error_sizes(-spread, spread, 6)
    assert time.perf_counter() - start < 5  # measured: 0.3 s; only a loop over pairs takes longer
    assert list(sizes) == sorted(sizes, reverse=True)  # wide ranges are worth narrow groups
