"""Encoder layers: from an attention's context through residual sums, normalisations and the FFN; pooler and head."""

from __future__ import annotations

import onnx_ir as ir

from qonnx_pipe.core.site import Role
from qonnx_pipe.graph.sites.attention import Attention
from qonnx_pipe.graph.sites.collector import Collector
from qonnx_pipe.graph.walk import MOVES, Linear, activated, is_constant, readers, through_moves


def place_layer(collector: Collector, layer: int, attention: Attention) -> ir.Value | None:
    """Place the 13 sites of one layer and give its output; where the structure ends early, say where and why."""
    _place_attention(collector, layer, attention)
    normalised = _place_sum(collector, layer, attention.output.output, Role.ATTENTION_SUM)
    if normalised is None:
        return None
    ffn = _ffn(collector, normalised)
    if ffn is None:
        collector.skip(f"layer.{layer}", "no two linear layers with an activation function between them: no FFN found")
        return None
    first, second = ffn
    collector.place(Role.FFN_INPUT, layer, normalised)
    collector.own(first, Role.FFN_ACTIVATION, layer)
    collector.place(Role.FFN_ACTIVATION, layer, through_moves(second.source))
    collector.own(second, Role.FFN_OUTPUT, layer)
    collector.place(Role.FFN_OUTPUT, layer, second.output)
    output = _place_sum(collector, layer, second.output, Role.RESIDUAL_SUM)
    if output is not None:
        collector.place(Role.LAYER_OUTPUT, layer, output)
    return output


def place_tail(collector: Collector, output: ir.Value) -> None:
    """Linear layers behind the last encoder layer: the one that writes a graph output is the head, others poolers."""
    behind = set(readers(output, through=None))
    for linear in collector.linears:
        if linear.node not in behind or collector.is_owned(linear):
            continue
        *_, pooled = activated(linear.output)
        if _reaches_output(linear.output):
            collector.place(Role.HEAD, None, linear.output)
            collector.own(linear, Role.HEAD, None)
        elif pooled is not linear.output:
            collector.place(Role.POOLER, None, pooled)
            collector.own(linear, Role.POOLER, None)


def _place_attention(collector: Collector, layer: int, attention: Attention) -> None:
    for role, linear in (
        (Role.ATTENTION_QUERY, attention.query),
        (Role.ATTENTION_KEY, attention.key),
        (Role.ATTENTION_VALUE, attention.value),
        (Role.ATTENTION_OUTPUT, attention.output),
    ):
        collector.place(role, layer, linear.output)
        collector.own(linear, role, layer, 1 if linear is attention.output else attention.heads)
    collector.place(Role.ATTENTION_SCORES, layer, attention.scores, pairwise=True)
    collector.place(Role.ATTENTION_PROBABILITIES, layer, attention.probabilities, pairwise=True)
    collector.place(Role.ATTENTION_CONTEXT, layer, attention.context)


def _place_sum(collector: Collector, layer: int, branch: ir.Value, role: Role) -> ir.Value | None:
    """Place the residual sum that `branch` enters; what its LayerNormalization gives, or None and a note."""
    part = "attention" if role is Role.ATTENTION_SUM else "FFN"
    adds = (node for node in readers(branch) if node.op_type == "Add" and not any(map(is_constant, node.inputs)))
    total = next((node.outputs[0] for node in adds), None)
    if total is None:
        collector.skip(f"layer.{layer}", f"the {part}'s output enters no residual sum")
        return None
    collector.place(role, layer, total)
    norm = next((node for node in readers(total) if node.op_type == "LayerNormalization"), None)
    if norm is None:
        collector.skip(f"layer.{layer}", f"the {part}'s residual sum enters no LayerNormalization")
        return None
    return norm.outputs[0]


def _ffn(collector: Collector, normalised: ir.Value) -> tuple[Linear, Linear] | None:
    """The two unclaimed linear layers of the FFN that reads `normalised`."""
    free = {linear.node: linear for linear in collector.linears if not collector.is_owned(linear)}
    for first in (free[node] for node in readers(normalised) if node in free):
        _, *values = activated(first.output)
        for node in (node for value in values for node in readers(value) if node in free):
            return first, free[node]
    return None


def _reaches_output(value: ir.Value) -> bool:
    moved = (node for node in readers(value) if node.op_type in MOVES)
    return value.is_graph_output() or any(output.is_graph_output() for node in moved for output in node.outputs)
