"""An Expand in front of elementwise operators moves behind them: they compute each number once."""

from __future__ import annotations

import onnx_ir as ir

from qonnx_pipe.graph.constants import constant

ELEMENTWISE = frozenset(
    {"Cast", "Not", "Neg", "Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater", "And", "Or", "Where"}
)
"""What exporters make an attention mask with."""


class SinkExpand(ir.passes.InPlacePass):
    """Rewrite f(Expand(x, s)) as Expand(f(x), s).

    Cases:
        1. f has one operand that is not a constant of one element.
        2. f has several, all expanded to one shape (Where(Cast(m), 0, m) with m = Expand(x)).

    Ensures: f's result keeps its name, type and shape, f its name. An Expand that nothing reads any more is left for
    RemoveUnusedNodesPass.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In the graph's order, so that an Expand sinks through a whole chain."""
        modified = False
        for node in list(model.graph):
            if node.op_type in ELEMENTWISE and node.domain in ("", "ai.onnx"):
                modified |= _sink(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _sink(graph: ir.Graph, node: ir.Node) -> bool:
    wide = {index: value for index, value in enumerate(node.inputs) if value is not None and not _is_scalar(value)}
    expands = [value.producer() for value in wide.values()]
    if not expands or any(expand is None or expand.op_type != "Expand" for expand in expands):
        return False
    sources = [expand.inputs[0] for expand in expands if expand is not None]
    shapes = {expand.inputs[1] for expand in expands if expand is not None}
    if len(shapes) != 1:
        return False
    inputs = list(node.inputs)
    for index, source in zip(wide, sources, strict=True):
        inputs[index] = source
    result = node.outputs[0]
    narrow = ir.node(node.op_type, inputs, attributes=node.attributes, name=node.name)
    narrow.outputs[0].type = result.type
    expand = ir.node("Expand", [narrow.outputs[0], *shapes], name=f"{node.name}_expand")
    ir.convenience.replace_nodes_and_values(graph, node, [node], [narrow, expand], [result], [expand.outputs[0]])
    return True


def _is_scalar(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and array.ndim <= 1
