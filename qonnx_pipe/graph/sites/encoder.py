"""Encoder layers: from an attention's context through residual sums, normalisations and the FFN; pooler and head."""

from __future__ import annotations

import onnx_ir as ir

from qonnx_pipe.core.site import Role
from qonnx_pipe.graph.sites.attention import Attention
from qonnx_pipe.graph.sites.collector import Collector
from qonnx_pipe.graph.walk import ACTIVATIONS, MOVES, Linear, consumers, is_constant, through_moves


def place_layer(collector: Collector, layer: int, attention: Attention) -> None:
    """Place the 13 sites of one layer; where the structure ends early, say where and why."""
    _place_attention(collector, layer, attention)
    total = _residual_sum(attention.output.output)
    if total is None:
        collector.skip(f"layer.{layer}", "the attention's output enters no residual sum")
        return
    collector.place(Role.ATTENTION_SUM, layer, total)
    normalised = _norm(total)
    if normalised is None:
        collector.skip(f"layer.{layer}", "the attention's residual sum enters no LayerNormalization")
        return
    collector.place(Role.FFN_INPUT, layer, normalised)
    _place_ffn(collector, layer, normalised)


def _place_attention(collector: Collector, layer: int, attention: Attention) -> None:
    for role, linear in (
        (Role.ATTENTION_QUERY, attention.query),
        (Role.ATTENTION_KEY, attention.key),
        (Role.ATTENTION_VALUE, attention.value),
        (Role.ATTENTION_OUTPUT, attention.output),
    ):
        collector.place(role, layer, linear.output)
        collector.own(linear, role, layer)
    collector.place(Role.ATTENTION_SCORES, layer, attention.scores, pairwise=True)
    collector.place(Role.ATTENTION_PROBABILITIES, layer, attention.probabilities, pairwise=True)
    collector.place(Role.ATTENTION_CONTEXT, layer, attention.context)


def _place_ffn(collector: Collector, layer: int, normalised: ir.Value) -> None:
    first = _reader(collector, normalised)
    if first is None:
        collector.skip(f"layer.{layer}", "no linear layer reads the normalised residual sum: no FFN found")
        return
    collector.own(first, Role.FFN_ACTIVATION, layer)
    second = _reader(collector, first.output, through_activation=True)
    if second is None:
        collector.skip(f"layer.{layer}", "the FFN has no second linear layer behind its activation")
        return
    collector.place(Role.FFN_ACTIVATION, layer, through_moves(second.source))
    collector.place(Role.FFN_OUTPUT, layer, second.output)
    collector.own(second, Role.FFN_OUTPUT, layer)
    total = _residual_sum(second.output)
    if total is None:
        collector.skip(f"layer.{layer}", "the FFN's output enters no residual sum")
        return
    collector.place(Role.RESIDUAL_SUM, layer, total)
    output = _norm(total)
    if output is None:
        collector.skip(f"layer.{layer}", "the FFN's residual sum enters no LayerNormalization")
        return
    collector.place(Role.LAYER_OUTPUT, layer, output)


def place_tail(collector: Collector) -> None:
    """Linear layers behind the last encoder layer: the one that writes a graph output is the head, others poolers."""
    for linear in collector.linears:
        if collector.is_owned(linear):
            continue
        if _reaches_output(linear.output):
            collector.place(Role.HEAD, None, linear.output)
            collector.own(linear, Role.HEAD, None)
        elif (pooled := _activated(linear.output)) is not None:
            collector.place(Role.POOLER, None, pooled)
            collector.own(linear, Role.POOLER, None)
        else:
            collector.skip(
                linear.name, "a linear layer outside attention, FFN, pooler and head; its input is quantized"
            )


def _residual_sum(value: ir.Value) -> ir.Value | None:
    """The Add of `value` and another activation."""
    for node in consumers(value):
        if node.op_type == "Add" and not any(is_constant(x) for x in node.inputs):
            return node.outputs[0]
        if node.op_type in MOVES and (total := _residual_sum(node.outputs[0])) is not None:
            return total
    return None


def _norm(value: ir.Value) -> ir.Value | None:
    """The LayerNormalization of `value`, behind data movement."""
    for node in consumers(value):
        if node.op_type == "LayerNormalization" and node.inputs[0] is value:
            return node.outputs[0]
    for node in consumers(value):
        if node.op_type in MOVES and (output := _norm(node.outputs[0])) is not None:
            return output
    return None


def _reader(collector: Collector, value: ir.Value, *, through_activation: bool = False) -> Linear | None:
    """The first unclaimed linear layer that reads `value`, behind data movement and, if asked, an activation function."""
    passing = MOVES | ACTIVATIONS if through_activation else MOVES
    by_node = {linear.node: linear for linear in collector.linears if not collector.is_owned(linear)}
    frontier, seen = [value], set[ir.Node]()
    while frontier:
        for node in consumers(frontier.pop(0)):
            if node in by_node:
                return by_node[node]
            if node.op_type in passing and node not in seen:
                seen.add(node)
                frontier.append(node.outputs[0])
    return None


def _activated(value: ir.Value) -> ir.Value | None:
    """`value` after its activation function: the last elementwise value before data leave for something else."""
    last = value
    while len(nodes := consumers(last)) >= 1:
        step = next((node for node in nodes if node.op_type in ACTIVATIONS), None)
        if step is None:
            break
        last = step.outputs[0]
    return last if last is not value else None


def _reaches_output(value: ir.Value) -> bool:
    return value.is_graph_output() or any(
        node.op_type in MOVES and _reaches_output(node.outputs[0]) for node in consumers(value)
    )
