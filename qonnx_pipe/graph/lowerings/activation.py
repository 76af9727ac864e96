"""Activations: one tensor's quantizer, whole or, per embedding group, as K quantizers on K slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.graph.lowerings.emit import Codes, Emitter


@dataclass(frozen=True, eq=False)
class Piece:
    """A slice of an activation behind its quantizer; `dimensions`: which of the embedding it holds, () for all."""

    name: str
    codes: Codes
    dimensions: tuple[int, ...] = ()


class ActivationQuantizers:
    """Emits quantizers once for each (tensor, encoding) and hands out their results, as codes or as real values.

    1. PerTensor: value → QuantizeLinear: one piece.
    2. EmbeddingGroups (the paper's per-tensor form of PEG, Bondarenko et al. 2021 §4): value → Gather by the
       permutation, unless it is the identity → Split by the group sizes → K × QuantizeLinear: K pieces.
    3. One group is case 1 under another name: no Gather, no Split.
    Linear layers read the pieces; other consumers their DequantizeLinear, joined by Concat in the original order.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emit = emitter
        self._pieces: dict[tuple[ir.Value, Encoding], tuple[Piece, ...]] = {}
        self._real: dict[Piece, ir.Value] = {}
        self._whole: dict[tuple[ir.Value, Encoding], ir.Value] = {}

    def whole(self, value: ir.Value, encoding: Encoding) -> ir.Value:
        """The quantized and dequantized tensor, in its own shape and order."""
        key = (value, encoding)
        if key not in self._whole:
            self._whole[key] = self._joined(value, self.pieces(value, encoding))
        return self._whole[key]

    def pieces(self, value: ir.Value, encoding: Encoding) -> tuple[Piece, ...]:
        """The quantized slices of a tensor; one for a per-tensor encoding."""
        key = (value, encoding)
        if key not in self._pieces:
            self._pieces[key] = self._split(value, encoding)
        return self._pieces[key]

    def real(self, piece: Piece) -> ir.Value:
        """A piece dequantized."""
        if piece not in self._real:
            self._real[piece] = self.emit.dequantize(piece.codes, piece.name)
        return self._real[piece]

    def _split(self, value: ir.Value, encoding: Encoding) -> tuple[Piece, ...]:
        groups, name = encoding.granularity, str(value.name)
        if isinstance(groups, PerTensor):
            return (Piece(name, self.emit.quantize(value, encoding, name)),)
        if not isinstance(groups, EmbeddingGroups):
            raise ValueError(f"{name}: activations are not lowered {groups}")
        slices, order = self._slices(value, groups)
        pieces, start = [], 0
        for index, (part, size) in enumerate(zip(slices, groups.sizes, strict=True)):
            one = Encoding(encoding.dtype, PerTensor(), encoding.scale[index], encoding.zero_point[index])
            codes = self.emit.quantize(part, one, f"{name}_group{index}")
            pieces.append(Piece(f"{name}_group{index}", codes, order[start : start + size]))
            start += size
        return tuple(pieces)

    def _slices(self, value: ir.Value, groups: EmbeddingGroups) -> tuple[tuple[ir.Value, ...], tuple[int, ...]]:
        """The K slices, and the original dimension of each place in them."""
        name, count = str(value.name), len(groups.sizes)
        if count == 1:
            return (value,), ()
        ordered = value if groups.is_identity else self._gather(value, groups.permutation, f"{name}_permuted")
        sizes = self.emit.constant(f"{name}_group_sizes", np.asarray(groups.sizes, np.int64))
        slices = self.emit.node("Split", (ordered, sizes), f"{name}_Split", {"axis": -1}, outputs=count)
        for part in slices:
            part.type = value.type
        return slices, groups.permutation

    def _joined(self, value: ir.Value, pieces: tuple[Piece, ...]) -> ir.Value:
        name = str(value.name)
        if len(pieces) == 1:
            return self.real(pieces[0])
        (joined,) = self.emit.node("Concat", [self.real(piece) for piece in pieces], f"{name}_Concat", {"axis": -1})
        order = [dimension for piece in pieces for dimension in piece.dimensions]
        if order != sorted(order):
            back = tuple(int(place) for place in np.argsort(order))
            joined = self._gather(joined, back, f"{name}_restored")
        joined.type, joined.shape = value.type, value.shape
        return joined

    def _gather(self, value: ir.Value, order: tuple[int, ...], name: str) -> ir.Value:
        index = self.emit.constant(f"{name}_order", np.asarray(order, np.int64))
        (ordered,) = self.emit.node("Gather", (value, index), f"{name}_Gather", {"axis": -1})
        ordered.type, ordered.shape = value.type, value.shape
        return ordered
