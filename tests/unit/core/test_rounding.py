"""Codes are told from those of another weight, however far each is from its own."""

import numpy as np
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.rounding import belong, is_rounding_of

WEIGHT = np.random.default_rng(0).normal(0, 1, (64, 32)).astype(np.float32)


def per_column(dtype: str) -> Encoding:
    kind = QTYPES[dtype]
    scale = np.abs(WEIGHT).max(axis=0) / max(1, kind.qmax)
    return Encoding(kind, PerChannel(1), scale, np.zeros(32, np.int32))


def rounded(values: np.ndarray, encoding: Encoding) -> np.ndarray:
    codes = np.clip(np.rint(values / encoding.scale), encoding.dtype.qmin, encoding.dtype.qmax)
    return codes.astype(encoding.dtype.storage)


@pytest.mark.parametrize("dtype", ["int2", "int3", "int4", "int8"])
def test_codes_belong_to_their_weight_even_some_steps_away(dtype: str) -> None:
    encoding = per_column(dtype)
    assert belong(rounded(WEIGHT, encoding), WEIGHT, encoding)
    moved = WEIGHT + encoding.scale * np.random.default_rng(1).choice([-1, 0, 0, 0, 1], WEIGHT.shape)
    assert belong(rounded(moved, encoding), WEIGHT, encoding)


@pytest.mark.parametrize("dtype", ["int2", "int4", "int8"])
def test_those_of_another_weight_do_not(dtype: str) -> None:
    encoding = per_column(dtype)
    other = np.random.default_rng(2).normal(0, 1, WEIGHT.shape).astype(np.float32)
    assert not belong(rounded(other, encoding), WEIGHT, encoding)
    assert not belong(rounded(-WEIGHT, encoding), WEIGHT, encoding)
    assert not belong(rounded(np.roll(WEIGHT, 1, axis=0), encoding), WEIGHT, encoding)


def test_codes_of_another_shape_or_type_do_not() -> None:
    encoding = per_column("int4")
    codes = rounded(WEIGHT, encoding)
    assert not belong(codes[:32], WEIGHT, encoding)
    assert not belong(codes.astype(np.int32), WEIGHT, encoding)
    assert not belong(np.where(codes == 7, 9, codes).astype(np.int8), WEIGHT, encoding), "no 4-bit code"


def test_nothing_belongs_to_nothing() -> None:
    encoding = Encoding(QTYPES["int4"], PerChannel(1), np.ones(2), np.zeros(2))
    assert belong(np.zeros((3, 2), np.int8), np.zeros((3, 2), np.float32), encoding)


def test_a_rounding_is_no_more_than_a_step_away() -> None:
    encoding = per_column("int4")
    codes = rounded(WEIGHT, encoding)
    up = np.clip(np.ceil(WEIGHT / encoding.scale), -8, 7).astype(np.int8)
    assert is_rounding_of(codes, WEIGHT, encoding)
    assert is_rounding_of(up, WEIGHT, encoding)
    further = codes.copy()
    further[3, 5] += 2 if codes[3, 5] < 0 else -2
    assert belong(further, WEIGHT, encoding)
    assert not is_rounding_of(further, WEIGHT, encoding)
