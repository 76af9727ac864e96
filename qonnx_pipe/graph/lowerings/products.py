"""Integer products: the MatMulIntegerToFloat nodes that a value is made of, and how their columns are changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.graph.constants import constant
from qonnx_pipe.graph.lowerings.emit import Emitter

PRODUCT = "MatMulIntegerToFloat"
CODES, SCALE, ZERO_POINT, BIAS = 1, 3, 5, 6
"""Inputs of the node that belong to its weight."""

Change = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.generic]]


def read_once(value: ir.Value) -> bool:
    """Whether one input of one node is all that reads a value."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def products(value: ir.Value) -> tuple[ir.Node, ...]:
    """The integer MatMuls that `value` is the output of, or the Sum of; () if it is anything else.

    Nothing but `value` reads them, and one node reads `value`: whoever changes them changes nothing else.
    """
    node = value.producer()
    if node is None or not read_once(value):
        return ()
    if node.op_type == PRODUCT:
        return (node,)
    if node.op_type != "Sum":
        return ()
    parts = [products(operand) for operand in node.inputs if operand is not None]
    return tuple(part for found in parts for part in found) if all(parts) else ()


class Columns:
    """Changes the columns of integer products; constants are replaced, never edited, and each is made once.

    Layers that shared a weight before share the changed one.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emit = emitter
        self._changed: dict[tuple[ir.Value, Hashable], ir.Value] = {}

    def negate(self, nodes: tuple[ir.Node, ...]) -> None:
        """Turn x·W + b into -(x·W + b), bit for bit: the weight's scales and the bias change sign."""
        for node in nodes:
            for place in (SCALE, BIAS):
                self._replace(node, place, "negated", np.negative)

    def widen(self, nodes: tuple[ir.Node, ...], heads: int, value: float) -> None:
        """Give each head one more output, behind its own, that is always `value`: width h·d becomes h·(d + 1).

        The weight's new columns are 0 in real values; the first node's bias holds `value`. A bias is made where there
        is none.
        """
        for index, node in enumerate(nodes):
            zero = constant(_operand(node, ZERO_POINT))
            shared = 0 if zero is None or zero.ndim else zero.item()
            for place, fill in ((CODES, shared), (SCALE, 1), (ZERO_POINT, 0)):
                self._replace(node, place, ("widened", heads, fill), partial(_widened, heads=heads, fill=fill))
            if index == 0:
                self._widen_bias(node, heads, value)

    def _widen_bias(self, node: ir.Node, heads: int, value: float) -> None:
        if _operand(node, BIAS) is None:
            codes = constant(node.inputs[CODES])
            assert codes is not None
            bias = np.zeros((heads, codes.shape[1] // heads), np.float32)  # the codes are wide already
            bias[:, -1] = value
            node.resize_inputs(BIAS + 1)
            node.replace_input_with(BIAS, self.emit.constant(f"{node.name}_bias", bias.reshape(-1)))
        else:
            self._replace(node, BIAS, ("widened", heads, value), partial(_widened, heads=heads, fill=value))

    def _replace(self, node: ir.Node, place: int, key: Hashable, change: Change) -> None:
        old = _operand(node, place)
        if old is None:
            return
        if (old, key) not in self._changed:
            array = constant(old)
            if array is None:
                raise ValueError(f"{node.name}: {old.name} is no constant")
            changed = change(array)
            self._changed[old, key] = old if changed is array else self.emit.constant(f"{old.name}_changed", changed)
        node.replace_input_with(place, self._changed[old, key])


def _operand(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if place < len(node.inputs) else None


def _widened(array: npt.NDArray[np.generic], heads: int, fill: float) -> npt.NDArray[np.generic]:
    """[…, h·d] as […, h·(d + 1)] with `fill` behind every head; a scalar stays."""
    if array.ndim == 0:
        return array
    split = array.reshape(*array.shape[:-1], heads, -1)
    wide = np.concatenate([split, np.full((*split.shape[:-1], 1), fill, array.dtype)], axis=-1)
    return wide.reshape(*array.shape[:-1], -1)
