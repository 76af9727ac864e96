"""Quantized types against numpy's own limits and two's complement written out."""

from __future__ import annotations

import numpy as np
import pytest

from qonnx_pipe.core.qtype import QTYPES


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16"])
def test_full_width_types_have_numpys_limits(name: str) -> None:
    limits = np.iinfo(name)
    assert (QTYPES[name].qmin, QTYPES[name].qmax) == (limits.min, limits.max)


@pytest.mark.parametrize(
    ("name", "qmin", "qmax"),
    [("int2", -2, 1), ("uint2", 0, 3), ("int3", -4, 3), ("uint4", 0, 15), ("int4", -8, 7), ("int6", -32, 31)],
)
def test_narrow_types(name: str, qmin: int, qmax: int) -> None:
    dtype = QTYPES[name]
    assert (dtype.qmin, dtype.qmax, dtype.levels) == (qmin, qmax, qmax - qmin)


@pytest.mark.parametrize("name", sorted(QTYPES))
def test_storage_holds_every_code(name: str) -> None:
    dtype = QTYPES[name]
    limits = np.iinfo(dtype.storage)
    assert dtype.name == name
    assert limits.min <= dtype.qmin < dtype.qmax <= limits.max
