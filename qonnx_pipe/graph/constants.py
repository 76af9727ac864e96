"""Reading the constants of a graph: initializers and Constant nodes alike, as numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Constant = npt.NDArray[np.generic]


def constant(value: ir.Value | None) -> Constant | None:
    """The array that `value` always holds, or None; an initializer that is also an input can change, and is None."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The one number that `value` always holds, whatever its rank, or None."""
    array = constant(value)
    return float(array.item()) if array is not None and array.size == 1 and array.dtype.kind in "fiu" else None


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """The integers of a constant of rank 0 or 1, or None."""
    array = constant(value)
    if array is None or array.ndim > 1 or array.dtype.kind not in "iu":
        return None
    return tuple(int(item) for item in array.reshape(-1))


def add_initializer(graph: ir.Graph, name: str, array: Constant) -> ir.Value:
    """A new initializer; its name gets a number where the graph has it already."""
    taken = {*graph.initializers, *(value.name for node in graph for value in node.outputs)}
    free = name
    for number in range(1, len(taken) + 1):
        if free not in taken:
            break
        free = f"{name}_{number}"
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=free)
    value = ir.Value(name=free, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
