"""Ranges: from the tensors that calibration saw to all the others that an NPU needs a range for."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph.constants import constant
from qonnx_pipe.graph.npu.form import MASK
from qonnx_pipe.graph.walk import MOVES, consumers, is_constant

BELOW = 10.0
"""How far the range of masked scores reaches below that of the scores: e⁻¹⁰ of a probability is no code of 8 bits."""

ARITHMETIC = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul}
"""What intervals are taken through."""

FLAT = {"Gelu": -4.0, "Relu": 0.0, "Tanh": -4.0}
"""Below these inputs the operators are flat: to 1e-4 (Gelu), 0, 7e-4 (Tanh)."""


@dataclass(frozen=True)
class Range:
    """What values a tensor takes, and the bits that its codes have."""

    low: float
    high: float
    bits: int


def complete(graph: ir.Graph, known: Mapping[ir.Value, Range], *, bits: int) -> dict[ir.Value, Range]:
    """A range for every float tensor that a node of `graph` computes; `bits` where no operand has any.

    1. What only moves data has the range of what it moves; Gather of a table has the table's.
    2. Softmax: 0 to 1. Scores behind a mask: BELOW less than the scores; the mask itself: what it computes.
    3. In front of Gelu, Relu and Tanh: from where the function is flat to what gives its highest value (±4 for Tanh).
    4. Sums, differences and products with constants: by interval arithmetic.

    Raises ModelError, naming the tensor, for anything else that is not in `known`.
    """
    found: dict[ir.Value, Range] = dict(known)
    masked = _behind_mask(graph)
    for node in graph:
        for value in node.outputs:
            if value.dtype is not ir.DataType.FLOAT or value in found:
                continue
            limits = _derived(node, found, masked, bits) or _ahead(value, found)
            if limits is None:
                what = f"no range is known for {value.name}, which {node.op_type} computes"
                fix = "calibrate this model with its recipe; other operators than those of encoders have no rule yet"
                raise ModelError(what, where=str(node.name), fix=fix)
            found[value] = limits
    return found


def _derived(node: ir.Node, found: Mapping[ir.Value, Range], masked: set[ir.Value], bits: int) -> Range | None:
    """From the operands."""
    operands = [_operand(value, found, bits) for value in node.inputs if value is not None]
    if node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].name == MASK:
        return Range(0.0, 1.0, bits)
    if node.op_type in MOVES and operands:
        return operands[0]
    if node.op_type == "Softmax" and operands[0] is not None:
        return Range(0.0, 1.0, operands[0].bits)
    known = [operand for operand in operands if operand is not None]
    if node.op_type in ARITHMETIC and len(known) == len(node.inputs):
        return _of_arithmetic(node, known[0], known[1], masked)
    return None


def _of_arithmetic(node: ir.Node, left: Range, right: Range, masked: set[ir.Value]) -> Range | None:
    """Case 4, and scores behind a mask."""
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type == "Add" and node.outputs[0] not in masked and masked & set(inputs):
        scores = right if inputs[0] in masked else left
        return replace(scores, low=scores.low - BELOW)
    if node.op_type == "Mul" and not any(map(is_constant, inputs)):
        return None
    width = max(side.bits for side, value in zip((left, right), inputs, strict=True) if not is_constant(value))
    compute = ARITHMETIC[node.op_type]
    ends = [compute(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
    return Range(min(ends), max(ends), width)


def _operand(value: ir.Value, found: Mapping[ir.Value, Range], bits: int) -> Range | None:
    if value in found:
        return found[value]
    array = constant(value)
    if array is None or array.dtype != np.float32 or not array.size:
        return None
    return Range(float(array.min()), float(array.max()), bits)


def _ahead(value: ir.Value, found: Mapping[ir.Value, Range]) -> Range | None:
    """From the function that reads it, and what stands behind data movement."""
    for node in consumers(value):
        behind = found.get(node.outputs[0])
        if node.op_type in MOVES and (behind := behind or _ahead(node.outputs[0], found)) is not None:
            return behind
        if node.op_type in FLAT and behind is not None:
            return replace(behind, low=FLAT[node.op_type], high=_inverse(node.op_type, behind.high))
    return None


def _inverse(function: str, high: float) -> float:
    """The input that gives `high`; of Gelu by x = high / Φ(x), whose slope is below 0.3 everywhere."""
    if function == "Tanh":
        return -FLAT[function]
    x = max(high, 0.0)
    for _ in range(20 if function == "Gelu" else 0):
        x = max(high, 0.0) * 2 / (1 + math.erf(x / math.sqrt(2)))
    return x


def _behind_mask(graph: ir.Graph) -> set[ir.Value]:
    """All that is computed from the mask and constants alone."""
    found = {value for value in graph.inputs if value.name == MASK}
    for node in graph:
        operands = [value for value in node.inputs if value is not None]
        masks = sum(value in found for value in operands)
        if masks and all(value in found or is_constant(value) for value in operands):
            found.update(node.outputs)
    return found
