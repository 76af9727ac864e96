"""Weights: ranges per block against loops, codes in chunks as in one go, odd shapes and values."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import Granularity, PerChannel, PerEmbedding, PerGroup, PerOutputGroup, PerTensor
from qonnx_pipe.core.numerics import TINY_SCALE, dequantize, quantize
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec, RangeMethod
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.observers import weights
from qonnx_pipe.observers.weights import encode_weight, quantize_weight

LAYOUTS: list[Granularity] = [
    PerTensor(), PerChannel(0), PerChannel(1), PerChannel(-1), PerGroup(0, 8), PerGroup(1, 4), PerGroup(-2, 3)
]  # fmt: skip


def weight(shape: tuple[int, ...] = (24, 40)) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal(shape[-1]))).astype(np.float32)


def spec(
    granularity: Granularity, method: RangeMethod = "minmax", dtype: str = "int8", symmetric: bool = True
) -> QuantSpec:
    return QuantSpec(QTYPES[dtype], granularity, symmetric, method)


def blocks(values: np.ndarray, granularity: Granularity) -> list[np.ndarray]:
    """The values that share a scale, block by block in the order of the flattened scale."""
    match granularity:
        case PerTensor():
            return [values]
        case PerChannel(axis):
            return [np.take(values, i, axis) for i in range(values.shape[axis])]
        case PerGroup(axis, size):
            pieces = np.split(values, values.shape[axis] // size, axis)
            if axis % 2 == 0:
                return [piece[:, column] for piece, column in product(pieces, range(values.shape[1]))]
            return [piece[row] for row, piece in product(range(values.shape[0]), pieces)]
    raise AssertionError


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", LAYOUTS, ids=repr)
def test_min_max_scales_by_hand(granularity: Granularity, symmetric: bool) -> None:
    values = weight()
    encoding = encode_weight(values, spec(granularity, symmetric=symmetric))
    for block, scale in zip(blocks(values, granularity), encoding.scale.ravel(), strict=True):
        low, high = min(float(block.min()), 0.0), max(float(block.max()), 0.0)
        expected = max(-low, high) / 127 if symmetric else (high - low) / 255
        assert scale == np.float32(np.float16(expected) if isinstance(granularity, PerGroup) else expected)
    assert encoding.granularity == granularity


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["int2", "uint4", "int8"])
@pytest.mark.parametrize("granularity", LAYOUTS, ids=repr)
def test_mse_is_no_worse_than_min_max_in_any_block(granularity: Granularity, dtype: str, symmetric: bool) -> None:
    values = weight()
    values[5, 7] *= 30
    errors = []
    for method in ("mse", "minmax"):
        encoding = encode_weight(values, spec(granularity, method, dtype, symmetric))
        rest = values - dequantize(quantize(values, encoding), encoding)
        errors.append([float(np.sum(block.astype(np.float64) ** 2)) for block in blocks(rest, granularity)])
    # Blocks are searched on their values, up to float32 sums (1e-5); a whole tensor on its histogram (2 %).
    # Scales of groups are rounded to float16, by up to 2^-11: an eighth of a step at the ends of 8 bits.
    slack = {PerTensor: 1.02, PerGroup: 1.1}.get(type(granularity), 1.00001)
    assert all(mse <= slack * minmax for mse, minmax in zip(*errors, strict=True))
    if dtype == "int2":
        assert sum(errors[0]) < 0.9 * sum(errors[1])


@pytest.mark.parametrize("granularity", [PerChannel(0), PerChannel(1), PerGroup(0, 8), PerGroup(1, 4)], ids=repr)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_result_does_not_depend_on_chunks(
    granularity: Granularity, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = weight((48, 40))
    whole = encode_weight(values, spec(granularity, "mse", "int4", symmetric))
    codes = quantize_weight(values, whole)
    monkeypatch.setattr(weights, "CHUNK", 100)
    cut = encode_weight(values, spec(granularity, "mse", "int4", symmetric))
    np.testing.assert_allclose(cut.scale, whole.scale, rtol=0.03)  # one step of the search, where float32 sums tie
    np.testing.assert_array_equal(quantize_weight(values, whole), codes)


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 17])
@pytest.mark.parametrize("granularity", LAYOUTS, ids=repr)
def test_codes_are_the_references(granularity: Granularity, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHUNK", chunk)
    values = weight()
    encoding = encode_weight(values, spec(granularity, symmetric=False, dtype="uint8"))
    codes = quantize_weight(values, encoding)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, quantize(values, encoding))


def test_scale_shapes() -> None:
    shapes = {repr(layout): encode_weight(weight(), spec(layout)).scale.shape for layout in LAYOUTS}
    assert list(shapes.values()) == [(), (24,), (40,), (40,), (3, 40), (24, 10), (8, 40)]


def test_tensors_of_other_ranks() -> None:
    kernel = weight((3, 5, 4, 2))
    encoding = encode_weight(kernel, spec(PerChannel(1)))
    np.testing.assert_array_equal(
        encoding.scale, (np.abs(kernel).max(axis=(0, 2, 3)).astype(np.float64) / 127).astype("f4")
    )
    np.testing.assert_array_equal(quantize_weight(kernel, encoding), quantize(kernel, encoding))
    bias = weight((6,))
    assert encode_weight(bias, spec(PerChannel(0), "mse")).scale.shape == (6,)


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_channel_of_zeros_stays_zero(method: RangeMethod, symmetric: bool) -> None:
    values = weight()
    values[:, 3] = 0.0
    encoding = encode_weight(values, spec(PerChannel(1), method, symmetric=symmetric))
    assert encoding.scale[3] == TINY_SCALE
    assert not dequantize(quantize_weight(values, encoding), encoding)[:, 3].any()


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0), PerChannel(1), PerGroup(1, 1)], ids=repr)
def test_a_single_element(method: RangeMethod, granularity: Granularity) -> None:
    values = np.float32([[-0.7]])
    encoding = encode_weight(values, spec(granularity, method))
    back = dequantize(quantize_weight(values, encoding), encoding)
    assert abs(back[0, 0] + 0.7) <= 0.5 * float(encoding.scale.ravel()[0])


def test_a_huge_outlier_does_not_overflow() -> None:
    values = weight()
    values[0, 0], values[1, 1] = 3e38, -3e38
    for granularity, symmetric in product((PerTensor(), PerChannel(0), PerGroup(0, 8)), (True, False)):
        encoding = encode_weight(values, spec(granularity, "mse", symmetric=symmetric))
        assert np.all(np.isfinite(dequantize(quantize_weight(values, encoding), encoding)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(dtype: type) -> None:
    values = weight().astype(np.float16)
    expected = encode_weight(values.astype(np.float32), spec(PerChannel(1), "mse"))
    found = encode_weight(values.astype(dtype), spec(PerChannel(1), "mse"))
    np.testing.assert_array_equal(found.scale, expected.scale)
    np.testing.assert_array_equal(quantize_weight(values.astype(dtype), found), quantize(values.astype("f4"), expected))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0), PerChannel(1), PerGroup(0, 8)], ids=repr)
def test_nan_and_infinity_name_the_site(bad: float, granularity: Granularity) -> None:
    values = weight()
    values[5, 6] = bad
    with pytest.raises(NumericsError) as caught:
        encode_weight(values, spec(granularity, "mse"), site="layer.1/weight[ffn.output]")
    assert caught.value.where == "layer.1/weight[ffn.output]"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spec(PerGroup(0, 7)), "groups of 7 do not divide axis 0 of length 24"),
        (spec(PerGroup(1, 64)), "groups of 64 do not divide axis 1 of length 40"),
        (spec(PerChannel(2)), "has no axis 2"),
        (spec(PerEmbedding()), "no granularity per_embedding"),
        (spec(PerTensor(), "entropy"), "minmax or mse, not entropy"),
    ],
)
def test_what_weights_do_not_have(bad: QuantSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_weight(weight(), bad)


def test_the_weight_is_not_changed() -> None:
    values = weight()
    values.flags.writeable = False
    encoding: Encoding = encode_weight(values, spec(PerChannel(1), "mse"))
    quantize_weight(values, encoding)
    np.testing.assert_array_equal(values, weight())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize(("groups", "heads"), [(1, 4), (4, 4), (8, 1), (10, 4), (40, 1)])
def test_groups_of_outputs_are_channels_with_one_scale_a_group(
    groups: int, heads: int, method: RangeMethod, symmetric: bool
) -> None:
    """40 outputs in 4 heads: 10 groups of 4 become, in each head of 10, groups of 4, 4 and 2."""
    values = weight()
    found = encode_weight(values, spec(PerOutputGroup(groups, heads), method, "uint3", symmetric))
    assert (found.granularity, found.scale.shape, found.zero_point.shape) == (PerChannel(1), (40,), (40,))
    sizes = {(10, 4): [4, 4, 2] * 4}.get((groups, heads), [40 // groups] * groups)
    for block in np.split(np.arange(40), np.cumsum(sizes)[:-1]):
        # The same values under one scale: a whole tensor by min-max, one channel of its own by mse.
        alone = encode_weight(values[:, block].reshape(-1, 1), spec(PerChannel(1), method, "uint3", symmetric))
        np.testing.assert_allclose(found.scale[block], alone.scale[0], rtol=0.03 if method == "mse" else 0)
        assert len(set(found.scale[block])) == len(set(found.zero_point[block])) == 1
