"""Integer products: the MatMulIntegerToFloat nodes that a value is made of, and how their sign is changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx_pipe.graph.constants import constant
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import read_once

PRODUCT = "MatMulIntegerToFloat"
SCALE, BIAS = 3, 6
"""Inputs of the node that a sign can be put into."""


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


class Signs:
    """Changes the sign of integer products; constants are replaced, never edited, and each is made once.

    Layers that shared a weight before share the changed one.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emit = emitter
        self._negated: dict[ir.Value, ir.Value] = {}

    def negate(self, nodes: tuple[ir.Node, ...]) -> None:
        """Turn x·W + b into -(x·W + b), bit for bit: the weight's scales and the bias change sign."""
        for node in nodes:
            for place in (SCALE, BIAS):
                value = node.inputs[place] if place < len(node.inputs) else None
                if value is not None:
                    node.replace_input_with(place, self._opposite(node, value))

    def _opposite(self, node: ir.Node, value: ir.Value) -> ir.Value:
        if value not in self._negated:
            array = constant(value)
            if array is None:
                raise ValueError(f"{node.name}: {value.name} is no constant")
            self._negated[value] = self.emit.constant(f"{value.name}_negated", np.negative(array))
        return self._negated[value]
