"""Packing: codes of few bits as planes of bytes, and the tables that turn every byte back into codes."""

from __future__ import annotations

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
    """How codes lie in planes of bytes: `bits` of each, two's complement where `signed`; unpacked they are `dtype`."""

    bits: int
    signed: bool
    dtype: np.dtype[np.generic]

    @classmethod
    def of(cls, codes: Codes) -> Packing | None:
        """With the fewest bits in PLANES that hold every code; None where the codes need more."""
        low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
        needed = max((~low).bit_length(), high.bit_length()) + 1 if low < 0 else high.bit_length()
        bits = next((bits for bits in PLANES if needed <= bits), None)
        return None if bits is None else cls(bits, low < 0, codes.dtype)

    def pack(self, codes: Codes) -> tuple[Bytes, ...]:
        """Planes, shape (⌈n · width / 8⌉,), of codes of any shape: row-major, the first code in the lowest bits."""
        values: Bytes = codes.astype(np.uint8).ravel()
        return tuple(_joined(values >> np.uint8(shift), width) for width, shift in self._planes())

    def tables(self) -> tuple[Codes, ...]:
        """For each plane what its bits add to the codes: row b, shape (8 / width,), is what the byte b stands for."""
        found = []
        for number, (width, shift) in enumerate(self._planes()):
            fields = np.arange(256)[:, None] >> np.arange(0, 8, width) & ((1 << width) - 1)
            if self.signed and number == 0:
                fields -= (fields >> (width - 1)) << width
            found.append((fields << shift).astype(self.dtype))
        return tuple(found)

    def unpack(self, planes: Sequence[Bytes], shape: tuple[int, ...]) -> Codes:
        """The inverse of `pack`: the sum of what the planes' bytes stand for."""
        size = int(np.prod(shape))
        parts = (table[plane].ravel()[:size] for plane, table in zip(planes, self.tables(), strict=True))
        codes: Codes = np.add.reduce(list(parts), dtype=self.dtype)
        return codes.reshape(shape)

    def _planes(self) -> Iterator[tuple[int, int]]:
        """Width of each plane, and the place of its lowest bit in a code."""
        left = self.bits
        for width in PLANES[self.bits]:
            left -= width
            yield width, left


def _joined(fields: Bytes, width: int) -> Bytes:
    """The lowest `width` bits of all values, side by side in bytes."""
    count = 8 // width
    padded = np.pad(fields & np.uint8((1 << width) - 1), (0, -len(fields) % count)).reshape(-1, count)
    joined: Bytes = np.bitwise_or.reduce(padded << np.arange(0, 8, width, dtype=np.uint8), axis=1)
    return joined
