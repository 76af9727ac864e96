"""Biases: the vector that a linear layer adds, rewritten, or made where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.graph.constants import constant
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import Linear, linears


def add_to_biases(model: ir.Model, vectors: Mapping[str, FloatArray]) -> None:
    """Add a vector (out,) to what each of the named linear layers gives, in place."""
    emit = Emitter(model.graph)
    for linear in linears(model.graph):
        if (vector := vectors.get(linear.name)) is not None:
            rebias(emit, linear, vector.__add__)
    model.graph.sort()


def rebias(emit: Emitter, linear: Linear, change: Callable[[FloatArray], FloatArray]) -> None:
    """Replace the bias b (out,) by `change(b)`; a layer without one has b = 0.

    1. The bias is a constant: a new one takes its place; the old one may be shared.
    2. A Gemm without bias gets one.
    3. Else an Add behind the layer, whose output takes over the name; requires a change that only adds, when the layer
       has a bias that is computed (`has_fixed_bias`).
    """
    width, name = linear.shape[1], f"{linear.name}_bias"
    place = linear.bias
    if place is not None and (old := constant(place[0].inputs[place[1]])) is not None:
        node, index = place
        value = node.inputs[index]
        bias = np.broadcast_to(old, (width,)).astype(np.float32)
        node.replace_input_with(index, emit.constant(name, change(bias).astype(np.float32)))
        emit.release(value)
        return
    bias = change(np.zeros(width, np.float32)).astype(np.float32)
    if not np.any(bias):
        return
    if linear.node.op_type == "Gemm" and place is None:
        linear.node.resize_inputs(3)
        linear.node.replace_input_with(2, emit.constant(name, bias))
        return
    _add_behind(emit, linear.output, emit.constant(name, bias), f"{linear.name}_Add")


def has_fixed_bias(linear: Linear) -> bool:
    """Whether the layer's bias is a constant, or none."""
    place = linear.bias
    return place is None or constant(place[0].inputs[place[1]]) is not None


def _add_behind(emit: Emitter, value: ir.Value, vector: ir.Value, name: str) -> None:
    (total,) = emit.node("Add", (value, vector), name)
    total.type, total.shape = value.type, value.shape
    for usage in tuple(value.uses()):
        if usage.node is not total.producer():
            usage.node.replace_input_with(usage.idx, total)
    emit.replace_output(value, total)
