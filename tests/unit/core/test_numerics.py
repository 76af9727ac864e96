"""The reference arithmetic against exact fractions, and against onnxruntime's QuantizeLinear."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.numerics import (
    TINY_SCALE,
    dequantize,
    fake_quantize,
    quantize,
    scale_and_zero_point,
    sqnr_db,
)
from qonnx_pipe.core.qtype import QTYPES

HALF_ULP = Fraction(1, 1 << 24)
"""Relative error of one correctly rounded float32 operation."""


def exact_code(value: float, scale: float, zero_point: int, qmin: int, qmax: int) -> int:
    return max(qmin, min(qmax, round(Fraction(value) / Fraction(scale)) + zero_point))  # round: half to even


@pytest.mark.parametrize("name", sorted(QTYPES))
@pytest.mark.parametrize("scale", [0.25, 1.0, 8.0])
def test_ties_go_to_even_and_codes_saturate(name: str, scale: float) -> None:
    dtype = QTYPES[name]
    values = np.arange(-2 * dtype.levels - 1, 2 * dtype.levels + 2, max(1, dtype.levels // 100)) * (0.5 * scale)
    for zero_point in (dtype.qmin, (dtype.qmin + dtype.qmax) // 2, dtype.qmax):
        encoding = Encoding(dtype, PerTensor(), np.float32(scale), np.int32(zero_point))
        expected = [exact_code(v, scale, zero_point, dtype.qmin, dtype.qmax) for v in values.tolist()]
        codes = quantize(values.astype(np.float32), encoding)
        assert codes.dtype == dtype.storage
        assert codes.tolist() == expected


def test_codes_are_the_nearest_for_any_scale() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal(500).astype(np.float32)
    encoding = Encoding(QTYPES["int16"], PerTensor(), np.float32(1.7e-4), np.int32(-3))
    for value, code in zip(values.tolist(), quantize(values, encoding).tolist(), strict=True):
        exact = Fraction(value) / Fraction(float(encoding.scale)) - 3
        # The quotient is rounded once to float32 before it is rounded to an integer.
        assert abs(exact - code) <= Fraction(1, 2) + abs(exact) * HALF_ULP


def test_dequantize_rounds_the_exact_product_once() -> None:
    encoding = Encoding(QTYPES["uint8"], PerTensor(), np.float32(0.1), np.int32(113))
    codes = np.arange(256, dtype=np.uint8)
    for code, value in zip(codes.tolist(), dequantize(codes, encoding).tolist(), strict=True):
        exact = (code - 113) * Fraction(float(np.float32(0.1)))
        assert abs(exact - Fraction(value)) <= abs(exact) * HALF_ULP


def test_infinity_and_overflow_saturate() -> None:
    encoding = Encoding(QTYPES["int8"], PerTensor(), TINY_SCALE, np.int32(5))
    assert quantize(np.float32([np.inf, -np.inf, 3e38, -3e38, 0.0]), encoding).tolist() == [127, -128, 127, -128, 5]


@pytest.mark.parametrize(
    ("granularity", "scale", "expanded"),
    [
        (PerChannel(0), [1.0, 2.0], [[1, 1, 1, 1], [2, 2, 2, 2]]),
        (PerChannel(1), [1.0, 2.0, 4.0, 8.0], [[1, 2, 4, 8]] * 2),
        (PerChannel(-1), [1.0, 2.0, 4.0, 8.0], [[1, 2, 4, 8]] * 2),
        (PerGroup(1, 2), [[1.0, 2.0], [4.0, 8.0]], [[1, 1, 2, 2], [4, 4, 8, 8]]),
        (PerGroup(0, 2), [[1.0, 2.0, 4.0, 8.0]], [[1, 2, 4, 8]] * 2),
        (EmbeddingGroups((1, 3), (2, 0, 1, 3)), [1.0, 4.0], [[4, 4, 1, 4]] * 2),
    ],
)
def test_each_element_uses_its_own_scale(granularity: object, scale: object, expanded: list[list[int]]) -> None:
    encoding = Encoding(QTYPES["int8"], granularity, np.float32(scale), np.zeros_like(scale, np.int32))  # type: ignore[arg-type]
    codes = np.ones((2, 4), np.int8)
    assert dequantize(codes, encoding).tolist() == expanded
    np.testing.assert_array_equal(quantize(np.float32(expanded), encoding), codes)


@pytest.mark.parametrize(
    ("bounds", "name", "symmetric", "scale", "zero_point"),
    [
        ((-1.0, 3.0), "uint8", False, 4 / 255, 64),
        ((-1.0, 3.0), "int8", False, 4 / 255, -64),
        ((2.0, 5.1), "uint8", False, 5.1 / 255, 0),  # widened to hold 0
        ((-5.1, -2.0), "uint8", False, 5.1 / 255, 255),
        ((-1.0, 3.0), "int8", True, 3 / 127, 0),
        ((-1.0, 3.0), "uint8", True, 3 / 127, 128),
        ((-7.0, 2.0), "int4", True, 1.0, 0),
        ((-1.0, 0.5), "int2", True, 1.0, 0),
        ((0.0, 65535.0), "uint16", False, 1.0, 0),
        ((0.0, 0.0), "int8", False, float(TINY_SCALE), -128),
        ((0.0, 0.0), "int8", True, float(TINY_SCALE), 0),
    ],
)
def test_scale_and_zero_point_by_hand(
    bounds: tuple[float, float], name: str, symmetric: bool, scale: float, zero_point: int
) -> None:
    found = scale_and_zero_point(*bounds, QTYPES[name], symmetric=symmetric)
    assert found[0] == np.float32(scale)
    assert found[1] == zero_point


@pytest.mark.parametrize("bound", [np.nan, np.inf, -np.inf])
def test_a_bound_must_be_finite(bound: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        scale_and_zero_point([0.0, bound], [1.0, 1.0], QTYPES["int8"], symmetric=False)


def test_zero_survives_exactly() -> None:
    for low, high in [(-0.37, 1.91), (-3.0, 0.0), (0.0, 0.11), (-1e-30, 1e-3)]:
        encoding = Encoding(
            QTYPES["uint8"], PerTensor(), *scale_and_zero_point(low, high, QTYPES["uint8"], symmetric=False)
        )
        assert fake_quantize(np.zeros(1, np.float32), encoding)[0] == 0.0


def test_sqnr() -> None:
    assert sqnr_db([3.0, 4.0], [3.0, 4.5]) == pytest.approx(20.0)  # 10·log10(25 / 0.25)
    assert sqnr_db([1.0], [1.0]) == float("inf")
    assert sqnr_db([0.0], [1.0]) == float("-inf")


@pytest.mark.parametrize(("name", "kind"), [("uint8", TensorProto.UINT8), ("int8", TensorProto.INT8), ("uint16", 4)])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_onnxruntime_gives_the_same_bits(name: str, kind: int, axis: int | None) -> None:
    dtype, rng = QTYPES[name], np.random.default_rng(3)
    shape = () if axis is None else ((6, 40)[axis],)
    scale = np.exp2(rng.integers(-6, 0, shape)).astype(np.float32) * np.where(rng.random(shape) < 0.5, 1, 1.1)
    zero_point = rng.integers(dtype.qmin, dtype.qmax, shape, endpoint=True)
    encoding = Encoding(dtype, PerTensor() if axis is None else PerChannel(axis), np.float32(scale), zero_point)
    values = (rng.integers(-600, 600, (6, 40)) * 2.0**-7).astype(np.float32)  # many exact ties
    values[0, :4] = np.inf, -np.inf, 1e30, -0.0
    constants = {"s": encoding.scale, "z": encoding.zero_point.astype(dtype.storage)}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis or 0),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis or 0),
        ],
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 40])],
        [
            helper.make_tensor_value_info("q", kind, [6, 40]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, 40]),
        ],
        [onnx.numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    codes, back = session.run(None, {"x": values})
    np.testing.assert_array_equal(quantize(values, encoding), codes)
    np.testing.assert_array_equal(dequantize(codes, encoding), back)
