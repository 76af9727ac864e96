"""Packing: codes of few bits as planes of bytes, and the tables that turn every byte back into codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]

PLANES: Mapping[int, tuple[int, ...]] = MappingProxyType({2: (2,), 3: (2, 1), 4: (4,), 6: (4, 2)})
"""Bits of a code → how they lie in bytes: for each plane how many bits of every code it holds, the highest first."""


@dataclass(frozen=True)
class Packing:
    """How codes of `bits` bits, two's complement where `signed`, lie in planes of bytes.

    A byte of the plane of the lowest bits stands for the most codes, and so for a row of the bytes of another plane.
    """

    bits: int
    signed: bool

    @classmethod
    def of(cls, codes: Codes) -> Packing | None:
        """With the fewest bits in PLANES that hold every code; None where the codes need more."""
        low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
        needed = max((~low).bit_length(), high.bit_length()) + 1 if low < 0 else high.bit_length()
        bits = next((bits for bits in PLANES if needed <= bits), None)
        return None if bits is None else cls(bits, low < 0)

    def pack(self, codes: Codes) -> tuple[Bytes, ...]:
        """The planes of codes of any shape, row-major, the first code in the lowest bits, zeros at the end.

        Shape (m,) for the lowest bits; (m, r) for others.
        """
        most = 8 // PLANES[self.bits][-1]
        rows: Bytes = np.pad(codes.astype(np.uint8).ravel(), (0, -codes.size % most)).reshape(-1, most)
        *others, last = (_joined(rows >> np.uint8(place), width) for width, place in self._planes())
        return (*others, last[:, 0])

    def tables(self, dtype: npt.DTypeLike) -> tuple[Codes, ...]:
        """For each plane what its bits add to the codes: row b, of type `dtype`, is what the byte b stands for.

        Shape (256, c); for the lowest of several planes (256, r, c), so that what is looked up has one shape.
        """
        found = []
        for width, place in self._planes():
            fields = np.arange(256)[:, None] >> np.arange(0, 8, width) & ((1 << width) - 1)
            if self.signed and place + width == self.bits:
                fields -= (fields >> (width - 1)) << width
            found.append((fields << place).astype(dtype))
        first, *rest = found
        return (first, *(table.reshape(256, -1, first.shape[1]) for table in rest))

    def unpack(self, planes: Sequence[Bytes], dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Codes:
        """The inverse of `pack`: the sum of what the planes' bytes stand for."""
        parts = [table[plane] for plane, table in zip(planes, self.tables(dtype), strict=True)]
        codes: Codes = np.add.reduce(parts, dtype=dtype)
        return codes.ravel()[: math.prod(shape)].reshape(shape)

    def _planes(self) -> Iterator[tuple[int, int]]:
        """Width of each plane, and the place of its lowest bit in a code."""
        place = self.bits
        for width in PLANES[self.bits]:
            place -= width
            yield width, place


def _joined(rows: Bytes, width: int) -> Bytes:
    """The lowest `width` bits of all values of each row, side by side in bytes."""
    fields = (rows & np.uint8((1 << width) - 1)).reshape(len(rows), -1, 8 // width)
    joined: Bytes = np.bitwise_or.reduce(fields << np.arange(0, 8, width, dtype=np.uint8), axis=-1)
    return joined
