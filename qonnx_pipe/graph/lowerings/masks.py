"""Masks: an additive attention mask that is the same for every query, as one number a key."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx_pipe.graph.constants import constant, integers
from qonnx_pipe.graph.lowerings.emit import Emitter

ELEMENTWISE = frozenset({"Cast", "Sub", "Mul", "Add", "Div", "Where", "Not", "Equal", "Identity"})
"""What exporters make a mask of zeros and ones additive with."""


class KeyMasks:
    """Finds and rebuilds masks that an input [batch, key] was made into.

    1. The input itself, [batch, key].
    2. Unsqueeze that puts axes between the two: [batch, 1, key], [batch, 1, 1, key].
    3. Expand of [batch, 1, 1, key] over heads and queries: what reads it broadcasts, so it is left out.
    4. Operators of ELEMENTWISE on these, all of one rank, and on constants of one element.

    Any other mask may differ from query to query (causal ones: Range, Trilu; an input [batch, query, key]).
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emit = emitter
        self._columns: dict[ir.Value, ir.Value] = {}

    def knows(self, mask: ir.Value) -> bool:
        """Whether `mask` is [batch, 1, 1, key], or an Expand of it, made as in the cases above."""
        return _rank(mask) == 4

    def column(self, mask: ir.Value) -> ir.Value:
        """The mask as [batch, key, 1], made of the same operators; made once."""
        if mask not in self._columns:
            self._columns[mask] = self._made(mask)
        return self._columns[mask]

    def _made(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        if node is None:
            last = self.emit.constant(f"{value.name}_axis", np.asarray([-1], np.int64))
            return self.emit.node("Unsqueeze", (value, last), f"{value.name}_keys")[0]
        if node.op_type not in ELEMENTWISE:
            source = node.inputs[0]
            assert source is not None
            return self.column(source)
        operands = [one if one is None or _is_scalar(one) else self.column(one) for one in node.inputs]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        return self.emit.node(node.op_type, operands, f"{node.name}_keys", attributes)[0]


def _rank(value: ir.Value | None) -> int | None:
    """Rank of a value that holds one number a key, [batch, …, key] with only ones between; None for any other."""
    if value is None:
        return None
    node = value.producer()
    if node is None:
        return 2 if value.is_graph_input() and value.shape is not None and len(value.shape) == 2 else None
    if node.op_type in ELEMENTWISE:
        ranks = {_rank(operand) for operand in node.inputs if not _is_scalar(operand)}
        return ranks.pop() if len(ranks) == 1 else None
    inner = _rank(node.inputs[0]) if node.op_type in ("Unsqueeze", "Expand") else None
    if inner is None:
        return None
    if node.op_type == "Expand":
        return 4 if inner == 4 and value.shape is not None and len(value.shape) == 4 else None
    axes = integers(node.inputs[1])
    rank = inner + len(axes or ())
    return rank if axes and {axis % rank for axis in axes}.isdisjoint((0, rank - 1)) else None


def _is_scalar(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and array.ndim <= 1
