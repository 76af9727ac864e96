"""Quantized integer types: the one table of names, bits and code ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True)
class QType:
    """An integer type of `bits` bits; two's complement where `signed`.

    `storage` is the narrowest numpy type that holds the codes; 2- to 4-bit codes are packed only when they are written.
    """

    name: str
    bits: int
    signed: bool

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Largest code."""
        return (1 << (self.bits - (1 if self.signed else 0))) - 1

    @property
    def levels(self) -> int:
        """Number of steps between the smallest and the largest code: 2^bits − 1."""
        return (1 << self.bits) - 1

    @property
    def storage(self) -> np.dtype[np.generic]:
        """Numpy type that holds one code per element."""
        width = 8 if self.bits <= 8 else 16
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")


QTYPES: Mapping[str, QType] = MappingProxyType(
    {
        f"{'int' if signed else 'uint'}{bits}": QType(f"{'int' if signed else 'uint'}{bits}", bits, signed)
        for bits in (2, 3, 4, 6, 8, 16)
        for signed in (True, False)
    }
)
"""All quantized types by name, `int2` … `uint16`."""
