"""Reshape and Expand say what they keep with constants, instead of computing the shape at run time."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qonnx_pipe.graph.constants import add_initializer, constant, integers
from qonnx_pipe.graph.dimensions import Copied, Entry, dimension, entries


class StaticShapes(ir.passes.InPlacePass):
    """Remove arithmetic on shapes that torch's tracer leaves behind.

    Cases:
        1. Reshape to sizes that are constants or copies of the input's own at the same axis: a constant shape, with 0
           for the copies. One size of unknown origin is allowed, and becomes −1.
        2. The −1 of such a shape, where the sizes that are left say that it is the input's own: 0 as well.
        3. Reshape to the shape that the input has already: its users read the input.
        4. Expand to Where(target = −1, 1, target): −1 stands for "keep", and never occurs in a target that consists
           of dimensions and positive constants; the target itself is used, through which shapes can be inferred.

    Requires: shapes as inferred so far; the more are known, the more is found. Ensures: results are the same for
    every input without empty dimensions, and keep their names (but for case 3); what nothing uses any more is left
    for RemoveUnusedNodesPass. Subgraphs stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every Reshape and Expand of the main graph that matches."""
        modified = False
        for node in list(model.graph):
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Reshape":
                modified |= _simplify_reshape(model.graph, node)
            elif node.op_type == "Expand" and (target := _plain_target(node)) is not None:
                node.replace_input_with(1, target)
                modified = True
        return ir.passes.PassResult(model, modified)


def _simplify_reshape(graph: ir.Graph, node: ir.Node) -> bool:
    source, target = node.inputs[0], node.inputs[1]
    zero_is_size = "allowzero" in node.attributes and node.attributes["allowzero"].as_int() == 1
    wanted = entries(target)
    if source is None or zero_is_size or wanted is None:
        return False
    shape = _resolved([_size(entry, axis, source) for axis, entry in enumerate(wanted)], source)
    same = source.shape is not None and len(source.shape) == len(shape)
    same = same and all(size in (0, dimension(source, axis)) for axis, size in enumerate(shape))
    if same and not node.outputs[0].is_graph_output():
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)
        return True
    if shape.count(-1) > 1 or integers(target) == tuple(shape):
        return False
    name = f"{node.name or 'Reshape'}_shape"
    node.replace_input_with(1, add_initializer(graph, name, np.array(shape, np.int64)))
    return True


def _size(entry: Entry, axis: int, source: ir.Value) -> int:
    if isinstance(entry, Copied):
        return 0 if entry.is_dimension(axis, source) else -1
    return entry


def _resolved(shape: list[int], source: ir.Value) -> list[int]:
    """`shape` with 0 for its only −1 where that must be the source's own size at this axis."""
    if shape.count(-1) != 1 or source.shape is None or shape.index(-1) >= len(source.shape):
        return shape
    sizes = [dimension(source, axis) for axis in range(len(source.shape))]
    left = [(axis, size) for axis, size in enumerate(sizes) if axis >= len(shape) or shape[axis] != 0]
    unknown = [axis for axis, size in left if not isinstance(size, int)]
    static = math.prod(size for _, size in left if isinstance(size, int))
    if unknown == [shape.index(-1)] and static == math.prod(size for size in shape if size > 0):
        return [0 if size == -1 else size for size in shape]
    return shape


def _plain_target(node: ir.Node) -> ir.Value | None:
    where = node.inputs[1].producer() if node.inputs[1] is not None else None
    if where is None or where.op_type != "Where":
        return None
    condition, ones, target = where.inputs
    equal = condition.producer() if condition is not None else None
    if equal is None or equal.op_type != "Equal" or target not in equal.inputs or target is None:
        return None
    minus_one = equal.inputs[1] if equal.inputs[0] is target else equal.inputs[0]
    wanted = entries(target)
    if wanted is None or any(not isinstance(entry, Copied) and entry < 1 for entry in wanted):
        return None
    return target if _all(minus_one, -1) and _all(ones, 1) else None


def _all(value: ir.Value | None, number: int) -> bool:
    array = constant(value)
    return array is not None and bool(np.all(array == number))
