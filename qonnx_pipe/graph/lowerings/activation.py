"""Activations: one tensor's quantizer, as a Q/DQ pair or, per embedding group, as K pairs on K slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.graph.lowerings.emit import Emitter


@dataclass(frozen=True)
class Piece:
    """A slice of an activation after its quantizer, and the original embedding dimensions that it holds."""

    value: ir.Value
    dimensions: tuple[int, ...]


class ActivationQuantizers:
    """Emits quantizers once for each (tensor, encoding) and hands out their results.

    1. PerTensor: value → QuantizeLinear → DequantizeLinear.
    2. EmbeddingGroups (the paper's per-tensor form of PEG, Bondarenko et al. 2021 §4): value → Gather by the
       permutation, unless it is the identity → Split by the group sizes → K × (QuantizeLinear → DequantizeLinear).
       Linear layers read the K pieces; other consumers a Concat of them, in the original order.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emit = emitter
        self._whole: dict[tuple[str, int], ir.Value] = {}
        self._pieces: dict[tuple[str, int], tuple[Piece, ...]] = {}

    def whole(self, value: ir.Value, encoding: Encoding) -> ir.Value:
        """The quantized and dequantized tensor, in its own shape and order."""
        key = (str(value.name), id(encoding))
        if key not in self._whole:
            if isinstance(encoding.granularity, PerTensor):
                self._whole[key] = self.emit.quantize_dequantize(value, encoding, str(value.name))
            else:
                self._whole[key] = self._joined(value, encoding)
        return self._whole[key]

    def pieces(self, value: ir.Value, encoding: Encoding) -> tuple[Piece, ...]:
        """The K quantized slices of a tensor with an EmbeddingGroups encoding."""
        key = (str(value.name), id(encoding))
        if key not in self._pieces:
            self._pieces[key] = self._split(value, encoding)
        return self._pieces[key]

    def _split(self, value: ir.Value, encoding: Encoding) -> tuple[Piece, ...]:
        groups, name = encoding.granularity, str(value.name)
        if not isinstance(groups, EmbeddingGroups):
            raise ValueError(f"{name}: only a per-embedding-group encoding has pieces")
        ordered = value
        if not groups.is_identity:
            ordered = self._gather(value, groups.permutation, f"{name}_permuted")
        if len(groups.sizes) == 1:
            slices: tuple[ir.Value, ...] = (ordered,)
        else:
            sizes = self.emit.constant(f"{name}_group_sizes", np.asarray(groups.sizes, np.int64))
            slices = self.emit.node("Split", (ordered, sizes), f"{name}_Split", {"axis": -1}, len(groups.sizes))
        pieces, start = [], 0
        for index, (part, size) in enumerate(zip(slices, groups.sizes, strict=True)):
            one = Encoding(encoding.dtype, PerTensor(), encoding.scale[index], encoding.zero_point[index])
            quantized = self.emit.quantize_dequantize(part, one, f"{name}_group{index}")
            pieces.append(Piece(quantized, groups.permutation[start : start + size]))
            start += size
        return tuple(pieces)

    def _joined(self, value: ir.Value, encoding: Encoding) -> ir.Value:
        groups, name = encoding.granularity, str(value.name)
        parts = [piece.value for piece in self.pieces(value, encoding)]
        joined = parts[0] if len(parts) == 1 else self.emit.node("Concat", parts, f"{name}_Concat", {"axis": -1})[0]
        if isinstance(groups, EmbeddingGroups) and not groups.is_identity:
            back = tuple(int(place) for place in np.argsort(groups.permutation))
            joined = self._gather(joined, back, f"{name}_restored")
        joined.type, joined.shape = value.type, value.shape
        return joined

    def _gather(self, value: ir.Value, order: tuple[int, ...], name: str) -> ir.Value:
        index = self.emit.constant(f"{name}_order", np.asarray(order, np.int64))
        return self.emit.node("Gather", (value, index), f"{name}_Gather", {"axis": -1})[0]
