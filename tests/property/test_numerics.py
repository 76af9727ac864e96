"""Laws that hold for any numbers: rounding error, codes in the type, merging, permutations."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.numerics import dequantize, fake_quantize, quantize, scale_and_zero_point
from qonnx_pipe.core.qtype import QTYPES, QType
from qonnx_pipe.core.statistics import Histogram, MinMax
from qonnx_pipe.observers.groups import resolve_groups

DTYPES = st.sampled_from(sorted(QTYPES.values(), key=lambda dtype: dtype.name))
FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
EPS = 2.0**-22
"""The scale, the quotient and the product are each rounded once to float32 (2^-24), on numbers of up to |x|."""


def vectors(size: int | st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, size, elements=FLOATS)


def tables(rows: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, (rows, 4), elements=FLOATS)


def encode(values: np.ndarray, dtype: QType, symmetric: bool) -> Encoding:
    return Encoding(
        dtype, PerTensor(), *scale_and_zero_point(values.min(), values.max(), dtype, symmetric=symmetric)
    )  # fmt: skip


@given(vectors(st.integers(1, 20)), DTYPES, st.booleans())
def test_error_inside_the_range_is_half_a_step(values: np.ndarray, dtype: QType, symmetric: bool) -> None:
    encoding = encode(values, dtype, symmetric)
    error = np.abs(fake_quantize(values, encoding).astype(np.float64) - values)
    assert np.all(error <= float(encoding.scale) / 2 + EPS * (np.abs(values) + float(encoding.scale)))


@given(vectors(4), hnp.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False)), DTYPES, st.booleans())
def test_codes_stay_inside_the_type(seen: np.ndarray, values: np.ndarray, dtype: QType, symmetric: bool) -> None:
    codes = quantize(values, encode(seen, dtype, symmetric))
    assert codes.dtype == dtype.storage
    assert dtype.qmin <= int(codes.min()) <= int(codes.max()) <= dtype.qmax


@given(vectors(4), DTYPES, st.booleans())
def test_codes_survive_a_round_trip(values: np.ndarray, dtype: QType, symmetric: bool) -> None:
    encoding = encode(values, dtype, symmetric)
    codes = np.unique(np.linspace(dtype.qmin, dtype.qmax, 300).astype(dtype.storage))
    np.testing.assert_array_equal(quantize(dequantize(codes, encoding), encoding), codes)


@given(vectors(st.integers(2, 20)), DTYPES, st.booleans())
def test_quantization_keeps_order(values: np.ndarray, dtype: QType, symmetric: bool) -> None:
    codes = quantize(np.sort(values), encode(values, dtype, symmetric)).astype(np.int64)
    assert np.all(np.diff(codes) >= 0)


@given(tables(2), tables(3), tables(1))
def test_min_max_merges_in_any_order(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    x, y, z = (MinMax(part.min(axis=0), part.max(axis=0)) for part in (a, b, c))
    together = np.concatenate([a, b, c])
    for merged in (x.merge(y).merge(z), x.merge(y.merge(z)), z.merge(y).merge(x)):
        np.testing.assert_array_equal(merged.minimum, together.min(axis=0))
        np.testing.assert_array_equal(merged.maximum, together.max(axis=0))


@given(tables(2), tables(3), tables(1), st.booleans())
def test_histograms_merge_in_any_order(a: np.ndarray, b: np.ndarray, c: np.ndarray, per_embedding: bool) -> None:
    x, y, z = (Histogram.of(part, per_embedding=per_embedding, mantissa_bits=2) for part in (a, b, c))
    together = Histogram.of(np.concatenate([a, b, c]), per_embedding=per_embedding, mantissa_bits=2)
    for merged in (x.merge(y).merge(z), x.merge(y.merge(z)), z.merge(y).merge(x)):
        np.testing.assert_array_equal(merged.counts, together.counts)


@given(
    vectors(12), vectors(12), st.sampled_from([1, 2, 3, 6, 12, (1, 11), (8, 3, 1)]), st.sampled_from(["none", "range"])
)
def test_groups_are_a_partition_in_order_of_range(
    one: np.ndarray, other: np.ndarray, groups: int | tuple[int, ...], permute: str
) -> None:
    minmax = MinMax(np.minimum(one, other), np.maximum(one, other))
    layout = resolve_groups(PerEmbeddingGroup(groups, permute), minmax)  # type: ignore[arg-type]
    assert sorted(layout.permutation) == list(range(12))
    assert np.bincount(layout.group_of_dimension()).tolist() == list(layout.sizes)
    width = (minmax.maximum.astype(np.float64) - minmax.minimum)[list(layout.permutation)]
    assert layout.is_identity if permute == "none" else np.all(np.diff(width) >= 0)


@given(st.permutations(range(10)), st.sampled_from([(10,), (5, 5), (7, 2, 1)]))
def test_group_of_dimension_inverts_the_permutation(permutation: list[int], sizes: tuple[int, ...]) -> None:
    groups = EmbeddingGroups(sizes, tuple(permutation))
    in_place = groups.group_of_dimension()[list(permutation)]
    assert in_place.tolist() == [k for k, size in enumerate(sizes) for _ in range(size)]
