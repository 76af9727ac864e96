"""Attentions: each Softmax with its four projections and the tensors between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qonnx_pipe.core.site import Skipped
from qonnx_pipe.graph.walk import Linear, as_linear, back_to_linear, consumers, is_constant, through_moves

BETWEEN_SCORES_AND_SOFTMAX = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Cast", "Reshape", "Clip", "Max"})
AFTER_SOFTMAX = frozenset({"Where", "Cast", "Identity", "Mul", "Dropout"})


@dataclass(frozen=True)
class Attention:
    """One self-attention: projections, and the tensors that can carry a quantizer.

    `scores` is the product of query and key as the exporter left it: before the mask is added, and after the factor
    1/√d where the exporter scales query and key first.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    scores: ir.Value
    probabilities: ir.Value
    context: ir.Value


def find_attentions(graph: ir.Graph, layers: Sequence[Linear]) -> tuple[list[Attention], list[Skipped]]:
    """All self-attentions in graph order, and the Softmaxes that are none, with the reason."""
    outputs = {str(linear.output.name): linear for linear in layers}
    found: list[Attention] = []
    skipped: list[Skipped] = []
    for node in graph:
        if node.op_type != "Softmax":
            continue
        attention = _match(node, outputs)
        if isinstance(attention, str):
            skipped.append(Skipped(str(node.name), f"Softmax without a recognised attention around it: {attention}"))
        else:
            found.append(attention)
    return found, skipped


def _match(softmax: ir.Node, outputs: dict[str, Linear]) -> Attention | str:
    product = _weighting(softmax.outputs[0])
    if product is None:
        return "no MatMul multiplies the probabilities with values"
    probabilities, values = product.inputs[0], product.inputs[1]
    if probabilities is None or values is None:
        return "a MatMul without two inputs"
    value = back_to_linear(values, outputs)
    if value is None:
        return "the values come from no linear layer"
    projections = _scores(softmax, outputs, value)
    if projections is None:
        return "query and key do not come from two linear layers of the same input"
    scores, query, key = projections
    output = _output_projection(product.outputs[0])
    if output is None:
        return "the context enters no linear layer"
    if len({query.name, key.name, value.name}) < 3:
        return "query, key and value come from one fused linear layer"
    return Attention(query, key, value, output, scores, probabilities, output.source)


def _weighting(probabilities: ir.Value) -> ir.Node | None:
    """The MatMul of the probabilities with the values."""
    queue = deque([probabilities])
    while queue:
        for node in consumers(queue.popleft()):
            if node.op_type == "MatMul" and not any(is_constant(x) for x in node.inputs):
                return node
            if node.op_type in AFTER_SOFTMAX:
                queue.append(node.outputs[0])
    return None


def _scores(softmax: ir.Node, outputs: dict[str, Linear], value: Linear) -> tuple[ir.Value, Linear, Linear] | None:
    """The MatMul of query and key: both come from linear layers that read what the value projection reads."""
    source = through_moves(value.source)
    queue: deque[ir.Value | None] = deque([softmax.inputs[0]])
    seen: set[ir.Node] = set()
    while queue:
        current = queue.popleft()
        node = current.producer() if current is not None else None
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type == "MatMul" and node.inputs[0] is not None and node.inputs[1] is not None:
            query, key = (back_to_linear(x, outputs) for x in node.inputs if x is not None)
            if query and key and through_moves(query.source) is source is through_moves(key.source):
                return node.outputs[0], query, key
        elif node.op_type in BETWEEN_SCORES_AND_SOFTMAX:
            queue.extend(node.inputs)
    return None


def _output_projection(context: ir.Value) -> Linear | None:
    """The linear layer that reads the context once the heads are joined."""
    queue = deque([context])
    while queue:
        for node in consumers(queue.popleft()):
            if (linear := as_linear(node)) is not None:
                return linear
            if node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast"):
                queue.append(node.outputs[0])
    return None
