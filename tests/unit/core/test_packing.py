"""Bytes of packed codes, by hand."""

import numpy as np
import pytest

from qonnx_pipe.core.packing import Packing


def test_the_first_code_lies_in_the_lowest_bits() -> None:
    (plane,) = Packing(4, False).pack(np.uint8([[1, 2, 3], [15, 4, 5]]))
    assert plane.tolist() == [0x21, 0xF3, 0x54]
    (plane,) = Packing(2, True).pack(np.int8([-1, 1, 0, -2, -2]))
    assert plane.tolist() == [0b10_00_01_11, 0b00_00_00_10]


def test_three_bits_are_two_and_one() -> None:
    high, low = Packing(3, False).pack(np.uint8([5, 2, 7, 0, 1]))
    assert high.tolist() == [[0b00_11_01_10, 0b00]]
    assert low.tolist() == [0b10101]


def test_tables_add_up_to_signed_codes() -> None:
    high, low = Packing(3, True).tables(np.int8)
    assert high[0b11_10_01_00].tolist() == [0, 2, -4, -2]
    assert low[0b1000_0001].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("codes", "bits"),
    [([-2, 1], 2), ([-1, 2], 3), ([-4, 3], 3), ([-5, 0], 4), ([-8, 8], 6), ([-32, 31], 6), ([-1, 32], 8), ([-33], 8)],
)
def test_bits_of_signed_codes(codes: list[int], bits: int) -> None:
    found = Packing.of(np.array(codes, np.int8))
    assert found == (None if bits == 8 else Packing(bits, True))


@pytest.mark.parametrize(("codes", "bits"), [([], 2), ([3], 2), ([4], 3), ([15], 4), ([16], 6), ([63], 6), ([64], 8)])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_bits_of_codes_that_are_not_negative(codes: list[int], bits: int, kind: type) -> None:
    found = Packing.of(np.array(codes, kind))
    assert found == (None if bits == 8 else Packing(bits, False))
