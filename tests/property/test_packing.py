"""Codes of any bits and shape are packed and unpacked without loss, in the bytes that their bits need."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qonnx_pipe.core.packing import PLANES, Packing


@st.composite
def coded(draw):
    """Bits, and codes of them: signed ones, unsigned ones, and unsigned ones in int8."""
    bits, signed = draw(st.sampled_from(sorted(PLANES))), draw(st.booleans())
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    kind = draw(st.sampled_from([np.int8] if signed else [np.int8, np.uint8]))
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=9))
    return bits, signed, draw(arrays.arrays(kind, shape, elements=st.integers(low, high)))


@given(coded())
def test_unpacking_gives_the_codes_back(case) -> None:
    bits, signed, codes = case
    packing = Packing(bits, signed)
    planes = packing.pack(codes)
    found = packing.unpack(planes, codes.dtype, codes.shape)
    np.testing.assert_array_equal(found, codes)
    assert found.dtype == codes.dtype
    rows = math.ceil(codes.size * PLANES[bits][-1] / 8)
    assert [plane.nbytes for plane in planes] == [rows * width // PLANES[bits][-1] for width in PLANES[bits]]


@given(coded())
def test_no_fewer_bits_would_do(case) -> None:
    bits, _, codes = case
    found = Packing.of(codes)
    assert found is not None
    assert found.bits <= bits
    for fewer in (other for other in PLANES if other < found.bits):
        narrow = Packing(fewer, found.signed)
        assert (narrow.unpack(narrow.pack(codes), codes.dtype, codes.shape) != codes).any()
