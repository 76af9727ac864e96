"""Activations: one tensor's quantizer, in the form that its readers take: codes in pieces, or real values whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, FloatArray, IntArray, Windows
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import resting_codes
from qonnx_pipe.core.plan import Lowering
from qonnx_pipe.graph.lowerings import expand
from qonnx_pipe.graph.lowerings.columns import can_compute_wider
from qonnx_pipe.graph.lowerings.emit import Codes, Emitter
from qonnx_pipe.graph.lowerings.reference import lower_per_axis

MOST_PIECES = 16
"""Embedding groups that become slices of their own; each costs a MatMul, so that more share one by scaled weights."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Columns of an activation behind a quantizer.

    `dimensions`: the dimension that each column shows, () for all in order; one may stand in several columns.
    `surplus`: how many steps each column's codes read above the value that they stand for, None for 0; a linear layer
    takes the sum of surplus · weight out of its bias.
    """

    name: str
    codes: Codes
    dimensions: tuple[int, ...] = ()
    surplus: IntArray | None = None


class ActivationQuantizers:
    """Emits quantizers once for each (tensor, encoding) and hands out their results, as codes or as real values.

    As codes, for linear layers:

    1. PerTensor, or one group: value → QuantizeLinear: one piece.
    2. EmbeddingGroups, at most MOST_PIECES (the paper's per-tensor form of PEG, Bondarenko et al. 2021 §4): value →
       Gather by the permutation, unless it is the identity → Split by the group sizes → K × QuantizeLinear: K pieces.
       Where a linear layer computes the value, `columns` then lets it compute the slices apart.
    3. More groups: value → Div by the scales → Add of the zero points → QuantizeLinear with scale 1: one piece, for a
       weight whose rows were multiplied by the scales (`row_scale`). Codes differ from numpy's by one step at most, and
       only where the sum rounds x/s onto a tie or off it.
    4. Windows: one piece with more columns than dimensions (`expand`); with `fuses`, for a runtime that fuses whole
       graphs, by a wider layer where linear layers compute the value for its readers alone.

    As real values, for all other readers: DequantizeLinear of case 1; for more than one group Div → Round → Max → Min →
    Mul, all elementwise along the last axis: exactly (q − z)·s, without order, slices or copies. Form "reference":
    per-axis QuantizeLinear and DequantizeLinear (`reference`), for linear layers too.
    """

    def __init__(
        self, emitter: Emitter, forms: Mapping[Encoding, Lowering] | None = None, *, fuses: bool = False
    ) -> None:
        self.emit, self._fuses = emitter, fuses
        self._forms = forms or {}
        self._pieces: dict[tuple[ir.Value, Encoding], tuple[Piece, ...]] = {}
        self._real: dict[Piece, ir.Value] = {}
        self._whole: dict[tuple[ir.Value, Encoding], ir.Value] = {}

    def is_reference(self, encoding: Encoding) -> bool:
        """Whether every reader gets real values from per-axis quantizers."""
        return self._forms.get(encoding) == "reference"

    def row_scale(self, encoding: Encoding) -> FloatArray | None:
        """What the rows of a weight that reads the pieces must be multiplied by, shape (d,); None for nothing."""
        groups = encoding.granularity
        if not isinstance(groups, EmbeddingGroups) or len(groups.sizes) <= MOST_PIECES or self.is_reference(encoding):
            return None
        return encoding.scale[groups.group_of_dimension()]

    def whole(self, value: ir.Value, encoding: Encoding) -> ir.Value:
        """The quantized and dequantized tensor, in its own shape and order."""
        key = (value, encoding)
        if key not in self._whole:
            self._whole[key] = self._as_real(value, encoding)
        return self._whole[key]

    def pieces(self, value: ir.Value, encoding: Encoding) -> tuple[Piece, ...]:
        """The codes of a tensor; one piece for a per-tensor encoding."""
        key = (value, encoding)
        if key not in self._pieces:
            self._pieces[key] = self._as_codes(value, encoding)
        return self._pieces[key]

    def real(self, piece: Piece) -> ir.Value:
        """A piece dequantized."""
        if piece not in self._real:
            self._real[piece] = self.emit.dequantize(piece.codes, piece.name)
        return self._real[piece]

    def _as_codes(self, value: ir.Value, encoding: Encoding) -> tuple[Piece, ...]:
        groups, name = encoding.granularity, str(value.name)
        if isinstance(groups, EmbeddingGroups) and len(groups.sizes) > 1:
            return self._split(value, encoding) if self.row_scale(encoding) is None else self._scaled(value, encoding)
        if isinstance(groups, Windows):
            resting = np.concatenate([np.zeros(groups.width, np.int32), resting_codes(encoding) - encoding.zero_point])
            at_once = self._fuses and can_compute_wider(value)
            return (Piece(name, expand.columns(self.emit, value, encoding, at_once=at_once), groups.rows, resting),)
        if not isinstance(groups, PerTensor | EmbeddingGroups):
            raise ValueError(f"{name}: activations are not lowered {groups}")
        return (Piece(name, self.emit.quantize(value, _one(encoding, 0), name)),)

    def _split(self, value: ir.Value, encoding: Encoding) -> tuple[Piece, ...]:
        groups, name = encoding.granularity, str(value.name)
        assert isinstance(groups, EmbeddingGroups)
        ordered = value
        if not groups.is_identity:
            places = self.emit.constant(f"{name}_order", np.asarray(groups.permutation, np.int64))
            (ordered,) = self.emit.node("Gather", (value, places), f"{name}_permuted_Gather", {"axis": -1})
            ordered.type, ordered.shape = value.type, value.shape
        sizes = self.emit.constant(f"{name}_group_sizes", np.asarray(groups.sizes, np.int64))
        slices = self.emit.node("Split", (ordered, sizes), f"{name}_Split", {"axis": -1}, outputs=len(groups.sizes))
        pieces, ends = [], np.cumsum(groups.sizes)
        for index, (part, size, end) in enumerate(zip(slices, groups.sizes, ends, strict=True)):
            part.type = value.type
            codes = self.emit.quantize(part, _one(encoding, index), f"{name}_group{index}")
            pieces.append(Piece(f"{name}_group{index}", codes, groups.permutation[end - size : end]))
        return tuple(pieces)

    def _scaled(self, value: ir.Value, encoding: Encoding) -> tuple[Piece, ...]:
        scale, zero_point = _by_dimension(encoding)
        middle = (encoding.dtype.qmin + encoding.dtype.qmax + 1) // 2
        surplus, name = zero_point - middle, str(value.name)
        steps = self._elementwise("Div", value, scale, f"{name}_in_steps")
        if surplus.any():
            steps = self._elementwise("Add", steps, surplus.astype(np.float32), f"{name}_shifted")
        one = Encoding(encoding.dtype, PerTensor(), np.asarray(1, np.float32), np.asarray(middle, np.int32))
        return (Piece(name, self.emit.quantize(steps, one, name), (), surplus if surplus.any() else None),)

    def _as_real(self, value: ir.Value, encoding: Encoding) -> ir.Value:
        groups, name = encoding.granularity, str(value.name)
        if self.is_reference(encoding):
            return lower_per_axis(self.emit, value, encoding)
        if not isinstance(groups, EmbeddingGroups) or len(groups.sizes) == 1:
            real = self.real(self.pieces(value, encoding)[0])
            return expand.added_up(self.emit, real, encoding, name) if isinstance(groups, Windows) else real
        scale, zero_point = _by_dimension(encoding)
        result = self._elementwise("Div", value, scale, f"{name}_in_steps")
        (result,) = self.emit.node("Round", (result,), f"{name}_Round")
        result.type = value.type
        for operator, bound in (("Max", encoding.dtype.qmin), ("Min", encoding.dtype.qmax)):
            limit = (bound - zero_point).astype(np.float32)
            result = self._elementwise(operator, result, limit, f"{name}_{operator}")
        real = self._elementwise("Mul", result, scale, f"{name}_quantized")
        real.shape = value.shape
        return real

    def _elementwise(self, operator: str, value: ir.Value, operand: FloatArray, name: str) -> ir.Value:
        (result,) = self.emit.node(operator, (value, self.emit.constant(f"{name}_by", operand)), name)
        result.type, result.shape = value.type, value.shape
        return result


def _one(encoding: Encoding, group: int) -> Encoding:
    """The per-tensor encoding of one group."""
    scale, zero_point = (array.reshape(-1)[group] for array in (encoding.scale, encoding.zero_point))
    return Encoding(encoding.dtype, PerTensor(), np.asarray(scale), np.asarray(zero_point))


def _by_dimension(encoding: Encoding) -> tuple[FloatArray, IntArray]:
    """Scale and zero point of every dimension, each of shape (d,)."""
    assert isinstance(encoding.granularity, EmbeddingGroups)
    group = encoding.granularity.group_of_dimension()
    return encoding.scale[group], encoding.zero_point[group]
