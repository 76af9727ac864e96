"""Attentions: each Softmax with its four projections and the tensors between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qonnx_pipe.core.site import Skipped
from qonnx_pipe.graph.walk import Linear, as_linear, back_to_linear, is_constant, readers, through_moves

BETWEEN_SCORES_AND_SOFTMAX = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Cast", "Reshape", "Clip", "Max"})
AFTER_SOFTMAX = frozenset({"Where", "Cast", "Identity", "Mul", "Dropout", "Reshape"})
SCALES = frozenset({"Mul", "Div"})
JOINING_HEADS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast"})

Outputs = Mapping[ir.Value, Linear]


@dataclass(frozen=True, eq=False)
class Attention:
    """One self-attention: projections, and the tensors that can carry a quantizer.

    `scores` is the product of query and key as the exporter left it: before mask and relative positions are added,
    and after the factor 1/√d where the exporter scales query and key first. `heads` is 1 where it cannot be told.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    scores: ir.Value
    probabilities: ir.Value
    context: ir.Value
    heads: int


class _Unlike(Exception):
    """Why a Softmax is no self-attention."""


def find_attentions(graph: ir.Graph, linears: Sequence[Linear]) -> tuple[list[Attention], list[Skipped]]:
    """All self-attentions in graph order, and the Softmaxes that are none, with the reason.

    1. Scores [batch, heads, query, key], mask added or chosen by Where, before or after scaling.
    2. DeBERTa: scores [batch · heads, query, key], to which products with constant relative positions are added.
    """
    outputs = {linear.output: linear for linear in linears}
    found: list[Attention] = []
    skipped: list[Skipped] = []
    for node in graph:
        if node.op_type != "Softmax":
            continue
        try:
            found.append(_match(node, outputs))
        except _Unlike as reason:
            skipped.append(Skipped(str(node.name), f"Softmax without a recognised attention around it: {reason}"))
    return found, skipped


def _match(softmax: ir.Node, outputs: Outputs) -> Attention:
    probabilities, values, product = _weighting(softmax.outputs[0])
    value = back_to_linear(values, outputs)
    if value is None:
        raise _Unlike("the values come from no linear layer")
    scores, query, key = _scores(softmax, outputs, value)
    if len({query, key, value}) < 3:
        raise _Unlike("query, key and value come from one fused linear layer")
    output = next((found for node in readers(product, JOINING_HEADS) if (found := as_linear(node))), None)
    if output is None:
        raise _Unlike("the context enters no linear layer")
    return Attention(query, key, value, output, scores, probabilities, output.source, _heads(value))


def _heads(linear: Linear) -> int:
    """How many heads the Reshape behind a projection cuts its outputs into: [batch, sequence, heads, size]."""
    width = linear.shape[1]
    for node in readers(linear.output, SCALES):
        sizes = node.inputs[1] if node.op_type == "Reshape" else None
        shape = None if sizes is None else ir.convenience.get_const_tensor(sizes)
        if shape is None or shape.size < 4:
            continue
        count, size = (int(part) for part in shape.numpy()[-2:])
        heads = count if count > 0 else width // max(1, size)
        if width % heads == 0 and size in (-1, width // heads):
            return heads
    return 1


def _weighting(probabilities: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Probabilities, values and product of the MatMul that weights the values."""
    for node in readers(probabilities, AFTER_SOFTMAX):
        left, right = (*node.inputs, None, None)[:2]
        if node.op_type == "MatMul" and left is not None and right is not None and not is_constant(right):
            return left, right, node.outputs[0]
    raise _Unlike("no MatMul multiplies the probabilities with values")


def _scores(softmax: ir.Node, outputs: Outputs, value: Linear) -> tuple[ir.Value, Linear, Linear]:
    """The MatMul of query and key: both come from linear layers that read what the value projection reads."""
    source = through_moves(value.source)
    frontier = [softmax.inputs[0]]
    crossed = False
    for current in frontier:
        node = current.producer() if current is not None else None
        if node is None:
            continue
        if node.op_type == "MatMul" and node.inputs[0] is not None and node.inputs[1] is not None:
            query, key = back_to_linear(node.inputs[0], outputs), back_to_linear(node.inputs[1], outputs)
            if query and key:
                if through_moves(query.source) is source is through_moves(key.source):
                    return node.outputs[0], query, key
                crossed = True
        elif node.op_type in BETWEEN_SCORES_AND_SOFTMAX:
            frontier += [operand for operand in node.inputs if operand not in frontier]
    if crossed:
        raise _Unlike("query and key read different tensors; cross-attention has no roles yet")
    raise _Unlike("query and key do not come from two linear layers")
