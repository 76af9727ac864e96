"""Walking a graph: constants, linear layers, and what merely moves or scales data between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

MOVES = frozenset(
    {
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Flatten",
        "Slice",
        "Gather",
        "Split",
        "Cast",
        "Expand",
    }
)
"""Operators whose output holds elements of their first input, unchanged, elsewhere."""

SCALINGS = frozenset({"Mul", "Div"})

ACTIVATIONS = frozenset(
    {
        "Gelu",
        "FastGelu",
        "BiasGelu",
        "QuickGelu",
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Celu",
        "Mish",
        "Tanh",
        "Sigmoid",
        "HardSwish",
        "Swish",
        "Erf",
        "Mul",
        "Div",
        "Add",
        "Pow",
    }
)
"""Elementwise operators that make up an activation function, fused or written out."""


@dataclass(frozen=True)
class Linear:
    """A MatMul or Gemm with a constant rank-2 weight, and the Add of its bias where there is one.

    `source` is what it multiplies, `output` the value after the bias. `transposed`: Gemm stores the weight [out, in].
    """

    node: ir.Node
    weight: ir.Value
    source: ir.Value
    output: ir.Value
    transposed: bool

    @property
    def name(self) -> str:
        """Name of the MatMul or Gemm node."""
        return self.node.name or ""

    @property
    def width(self) -> int:
        """Number of output features."""
        return int(constant_shape(self.weight)[0 if self.transposed else 1])


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is known before the model runs."""
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def constant_shape(value: ir.Value) -> tuple[int, ...]:
    """Shape of a constant; ValueError for anything else."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise ValueError(f"{value.name} is no constant")
    return tuple(int(size) for size in tensor.shape)


def as_linear(node: ir.Node) -> Linear | None:
    """`node` as a linear layer, or None."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return None
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None or is_constant(source) or not is_constant(weight):
        return None
    if len(constant_shape(weight)) != 2:
        return None
    attribute = node.attributes.get("transB")
    transposed = node.op_type == "Gemm" and attribute is not None and attribute.as_int() == 1
    return Linear(node, weight, source, _after_bias(node.outputs[0]), transposed)


def linears(graph: ir.Graph) -> tuple[Linear, ...]:
    """All linear layers, in graph order."""
    return tuple(linear for node in graph if (linear := as_linear(node)) is not None)


def _after_bias(value: ir.Value) -> ir.Value:
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return value
    node = uses[0].node
    if node.op_type == "Add" and any(is_constant(x) and len(constant_shape(x)) <= 1 for x in node.inputs if x):
        return node.outputs[0]
    return value


def through_moves(value: ir.Value) -> ir.Value:
    """The value that `value` holds elements of: back through data movement to where it was computed."""
    while (node := value.producer()) is not None and node.op_type in MOVES and node.inputs[0] is not None:
        if is_constant(node.inputs[0]):
            break
        value = node.inputs[0]
    return value


def origins(value: ir.Value) -> Iterator[ir.Value]:
    """`value` and the values it comes from through data movement, nearest first."""
    yield value
    while (node := value.producer()) is not None and node.op_type in MOVES and node.inputs[0] is not None:
        if is_constant(node.inputs[0]):
            return
        value = node.inputs[0]
        yield value


def back_to_linear(value: ir.Value, known: dict[str, Linear]) -> Linear | None:
    """The linear layer that computed `value`, behind data movement and scaling by constants or by scalars.

    `known` maps the name of a linear layer's output (after the bias) to the layer.
    """
    while True:
        if value.name in known:
            return known[str(value.name)]
        node = value.producer()
        if node is None or node.op_type not in MOVES | SCALINGS:
            return None
        source = node.inputs[0]
        if node.op_type == "Mul" and is_constant(source):
            source = node.inputs[1]
        if source is None:
            return None
        value = source


def consumers(value: ir.Value) -> tuple[ir.Node, ...]:
    """Nodes that read `value`, each once, in the order of its uses."""
    return tuple(dict.fromkeys(usage.node for usage in value.uses()))
