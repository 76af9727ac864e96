"""A Gelu that is written out in elementary operators becomes one Gelu node."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from qonnx_pipe.graph.passes.polynomial import Polynomial, is_close, polynomial

GELU_OPSET = 20
"""The first opset that has Gelu."""

_GATE: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
_ERF_ARGUMENT: Polynomial = {(1, 0): math.sqrt(0.5)}
_TANH_ARGUMENT: Polynomial = {(1, 0): math.sqrt(2 / math.pi), (3, 0): math.sqrt(2 / math.pi) * 0.044715}
_KINDS = {"Erf": (_ERF_ARGUMENT, "none"), "Tanh": (_TANH_ARGUMENT, "tanh")}
_REACH = 6
"""Nodes between x and the Erf or Tanh, and between that and the result; the longest known form has 5."""


class FuseGelu(ir.passes.InPlacePass):
    """Replace x/2 · (1 + f(q(x))) by Gelu(x) (Hendrycks and Gimpel 2016).

    Sums, products, quotients and powers are read as polynomials, so that the order of operands and factors does not
    matter. Cases:
        1. f = Erf, q = x/√2, whether divided or multiplied: Gelu.
        2. f = Tanh, q = √(2/π)·(x + 0.044715·x³), the cube as Pow, as products, or factored out
           (√(2/π)·x·(1 + 0.044715·x²)): Gelu(approximate="tanh"), known as gelu_new and gelu_pytorch_tanh.

    Requires: opset 20; otherwise nothing changes. Ensures: the result keeps its name, type and shape, the node the
    name of the last one that it replaces; an inner value with other users stays. What nothing uses any more is left
    for RemoveUnusedNodesPass. Subgraphs stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Try every Erf and Tanh."""
        modified = False
        if model.graph.opset_imports.get("", 0) < GELU_OPSET:
            return ir.passes.PassResult(model, modified)
        for node in list(model.graph):
            if node.op_type in _KINDS and node.domain in ("", "ai.onnx") and (match := _match(node)):
                x, root = match
                attributes = {"approximate": _KINDS[node.op_type][1]}
                gelu = ir.node("Gelu", [x], attributes=attributes, name=root.name)
                ir.convenience.replace_nodes_and_values(
                    model.graph, root, [root], [gelu], list(root.outputs), list(gelu.outputs)
                )
                modified = True
        return ir.passes.PassResult(model, modified)


def _match(node: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """x, and the node that computes its Gelu around this Erf or Tanh."""
    argument = node.inputs[0]
    if argument is None:
        return None
    for x in _upwards(argument):
        if not is_close(polynomial(argument, {x: (1, 0)}), _KINDS[node.op_type][0]):
            continue
        for root in _downwards(node):
            if is_close(polynomial(root.outputs[0], {x: (1, 0), node.outputs[0]: (0, 1)}), _GATE):
                return x, root
    return None


def _upwards(value: ir.Value) -> Iterator[ir.Value]:
    """Values that `value` is computed from, nearest first."""
    level = [value]
    for _ in range(_REACH):
        yield from level
        producers = dict.fromkeys(producer for found in level if (producer := found.producer()) is not None)
        level = list(dict.fromkeys(source for node in producers for source in node.inputs if source is not None))


def _downwards(node: ir.Node) -> Iterator[ir.Node]:
    """Nodes of the same graph that use what `node` computes, nearest first."""
    level = [node]
    for _ in range(_REACH):
        users = (use.node for found in level for use in found.outputs[0].uses())
        level = [
            user for user in dict.fromkeys(users) if user.graph is node.graph and user.op_type in ("Add", "Mul", "Div")
        ]
        yield from level
