"""A LayerNormalization that is written out in elementary operators becomes one node."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qonnx_pipe.graph.constants import constant, integers, scalar
from qonnx_pipe.graph.dimensions import dimension
from qonnx_pipe.graph.walk import consumers

LAYER_NORM_OPSET = 17
"""The first opset that has LayerNormalization."""


@dataclass(frozen=True)
class _Match:
    """What a LayerNormalization needs, and the nodes that apply gain and bias, the last one first."""

    x: ir.Value
    gain: ir.Value
    bias: ir.Value | None
    epsilon: float
    affine: tuple[ir.Node, ...]


class FuseLayerNorm(ir.passes.InPlacePass):
    """Replace (x − mean) / √(mean((x − mean)²) + ε) · gain + bias over the last axis (Ba et al. 2016).

    Cases, in any order of the operands of Add and Mul:
        1. The square as Pow(·, 2) or as a product with itself.
        2. Division by the root, or multiplication with its Reciprocal.
        3. x − mean computed once, or once for the square and once for the quotient.
        4. Without bias.

    Requires: opset 17, gain and bias constants of shape (d,) with d the known size of x's last axis; otherwise
    nothing changes. Ensures: the result keeps its name, type and shape; an inner value with other users stays. What
    nothing uses any more is left for RemoveUnusedNodesPass. Subgraphs stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Try every Mul as the one with the gain."""
        modified = False
        if model.graph.opset_imports.get("", 0) < LAYER_NORM_OPSET:
            return ir.passes.PassResult(model, modified)
        for node in list(model.graph):
            if (match := _match(node)) is not None:
                inputs = [match.x, match.gain] + ([match.bias] if match.bias is not None else [])
                attributes = {"axis": -1, "epsilon": match.epsilon}
                root = match.affine[0]
                fused = ir.node("LayerNormalization", inputs, attributes=attributes, name=root.name)
                ir.convenience.replace_nodes_and_values(
                    model.graph, root, match.affine, [fused], list(root.outputs), list(fused.outputs)
                )
                modified = True
        return ir.passes.PassResult(model, modified)


def _match(scaling: ir.Node) -> _Match | None:
    for normal, gain in _pairs(scaling.outputs[0], "Mul"):
        array, found = constant(gain), _normalized(normal)
        if array is None or array.ndim != 1 or found is None:
            continue
        x, epsilon = found
        if x.shape is None or dimension(x, len(x.shape) - 1) != array.size:
            continue
        bias = _bias(scaling, array.size)
        if bias is None:
            return _Match(x, gain, None, epsilon, (scaling,))
        return _Match(x, gain, bias, epsilon, (consumers(scaling.outputs[0])[0], scaling))
    return None


def _bias(scaling: ir.Node, size: int) -> ir.Value | None:
    """The constant that the only user of the scaled value adds."""
    output = scaling.outputs[0]
    users = consumers(output)
    if len(users) != 1 or output.is_graph_output() or users[0].graph is not scaling.graph:
        return None
    for scaled, bias in _pairs(users[0].outputs[0], "Add"):
        array = constant(bias)
        if scaled is output and array is not None and array.shape == (size,):
            return bias
    return None


def _normalized(value: ir.Value) -> tuple[ir.Value, float] | None:
    """The x and ε of which `value` is (x − mean) / √(variance + ε)."""
    candidates = _pairs(value, "Div")[:1]
    for difference, inverse in _pairs(value, "Mul"):
        if (root := _operand(inverse, "Reciprocal")) is not None:
            candidates.append((difference, root))
    for difference, root in candidates:
        x = _centred(difference)
        for variance, epsilon in _pairs(_operand(root, "Sqrt"), "Add"):
            number = scalar(epsilon)
            if x is not None and number is not None and _variance_of(variance) is x:
                return x, number
    return None


def _variance_of(value: ir.Value) -> ir.Value | None:
    """The x of which `value` is the mean of (x − mean)² over the last axis."""
    square = _mean_of(value)
    pairs = [(base, base) for base, power in _pairs(square, "Pow")[:1] if scalar(power) == 2]
    for a, b in pairs + _pairs(square, "Mul")[:1]:
        x = _centred(a)
        if x is not None and x is _centred(b):
            return x
    return None


def _centred(value: ir.Value) -> ir.Value | None:
    """The x of which `value` is x minus its mean over the last axis."""
    for x, mean in _pairs(value, "Sub")[:1]:
        if _mean_of(mean) is x:
            return x
    return None


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    """The value whose mean over the last axis, kept as size 1, is `value`."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "ReduceMean" or node.inputs[0] is None:
        return None
    if "keepdims" in node.attributes and node.attributes["keepdims"].as_int() == 0:
        return None
    axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None and "axes" in node.attributes:
        axes = tuple(node.attributes["axes"].as_ints())
    rank = len(node.inputs[0].shape) if node.inputs[0].shape is not None else 0
    return node.inputs[0] if axes in ((-1,), (rank - 1,)) else None


def _operand(value: ir.Value | None, op_type: str) -> ir.Value | None:
    """What the operator of one operand that computes `value` reads."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == op_type else None


def _pairs(value: ir.Value | None, op_type: str) -> list[tuple[ir.Value, ir.Value]]:
    """The operands of the operator that computes `value`, in both orders; empty when it is another operator."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type or node.domain not in ("", "ai.onnx"):
        return []
    a, b = node.inputs
    return [(a, b), (b, a)] if a is not None and b is not None else []
