"""Walking a graph: constants, linear layers, and what merely moves or scales data between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
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
        "Tile",
    }
)
"""Operators whose output holds elements of their first input, unchanged, elsewhere."""

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


@dataclass(frozen=True, eq=False)
class Linear:
    """A MatMul or Gemm with a constant rank-2 float32 weight, and the Add of its bias where there is one.

    `output` is the value after the bias. `transposed`: Gemm stores the weight [out, in].
    """

    node: ir.Node
    weight: ir.Value
    output: ir.Value
    transposed: bool

    @property
    def name(self) -> str:
        """Name of the MatMul or Gemm node."""
        return self.node.name or ""

    @property
    def source(self) -> ir.Value:
        """What it multiplies now: rewriting the layer before may have put another value there."""
        source = self.node.inputs[0]
        if source is None:
            raise ValueError(f"{self.name} has no input")
        return source

    @property
    def bias(self) -> tuple[ir.Node, int] | None:
        """The node that reads the bias, and at which input."""
        if self.node.op_type == "Gemm":
            return (self.node, 2) if len(self.node.inputs) > 2 and self.node.inputs[2] is not None else None
        add = self.output.producer()
        if add is None or add is self.node:
            return None
        return add, 1 if add.inputs[0] is self.node.outputs[0] else 0

    @property
    def shape(self) -> tuple[int, int]:
        """Number of input and of output features."""
        rows, columns = constant_shape(self.weight)
        return (columns, rows) if self.transposed else (rows, columns)


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is known before the model runs; an initializer that a caller can override is not."""
    return value is not None and not value.is_graph_input() and ir.convenience.get_const_tensor(value) is not None


def constant_shape(value: ir.Value) -> tuple[int, ...]:
    """Shape of a constant; ValueError for anything else."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise ValueError(f"{value.name} is no constant")
    return tuple(tensor.shape.numpy())


def is_matrix(value: ir.Value | None) -> bool:
    """Whether a value is a constant float32 matrix."""
    if value is None or not is_constant(value):
        return False
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and tensor.dtype is ir.DataType.FLOAT and len(tensor.shape) == 2


def as_linear(node: ir.Node) -> Linear | None:
    """`node` as a linear layer, or None; a Gemm that scales, or that transposes its input, is none."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return None
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None or is_constant(source) or not is_matrix(weight):
        return None
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
        return None
    transposed = bool(attribute(node, "transB", 0))
    width = constant_shape(weight)[0 if transposed else 1]
    return Linear(node, weight, _after_bias(node.outputs[0], width), transposed)


def linears(graph: ir.Graph) -> tuple[Linear, ...]:
    """All linear layers, in graph order."""
    return tuple(linear for node in graph if (linear := as_linear(node)) is not None)


def value_names(graph: ir.Graph) -> frozenset[str]:
    """Names of every tensor that the graph reads, holds or makes."""
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return frozenset(value.name for value in values if value.name)


def attribute(node: ir.Node, name: str, default: float) -> float:
    """A number among the attributes of a node."""
    found = node.attributes.get(name)
    return default if found is None else float(found.value)


def _after_bias(product: ir.Value, width: int) -> ir.Value:
    """What the only reader makes of `product`, if it adds a constant vector [width]."""
    nodes = consumers(product)
    if len(nodes) != 1 or nodes[0].op_type != "Add" or product.is_graph_output():
        return product
    added = [value for value in nodes[0].inputs if value is not None and value is not product and is_constant(value)]
    is_bias = len(added) == 1 and constant_shape(added[0]) == (width,)
    return nodes[0].outputs[0] if is_bias else product


def origins(value: ir.Value) -> Iterator[ir.Value]:
    """`value` and the values it comes from through data movement, nearest first; constants are left out."""
    yield value
    while (node := value.producer()) is not None and node.op_type in MOVES:
        source = node.inputs[0]
        if source is None or is_constant(source):
            return
        value = source
        yield value


def through_moves(value: ir.Value) -> ir.Value:
    """The value that `value` holds elements of: back through data movement to where it was computed."""
    *_, origin = origins(value)
    return origin


def back_to_linear(value: ir.Value, outputs: Mapping[ir.Value, Linear]) -> Linear | None:
    """The linear layer that computed `value`, behind data movement and scaling; `outputs` maps outputs to layers."""
    frontier = [value]
    for current in frontier:
        if current in outputs:
            return outputs[current]
        node = current.producer()
        if node is None:
            continue
        operands = node.inputs if node.op_type == "Mul" else node.inputs[:1] if node.op_type in MOVES | {"Div"} else ()
        frontier += [operand for operand in operands if operand is not None]
    return None


def consumers(value: ir.Value) -> tuple[ir.Node, ...]:
    """Nodes that read `value`, each once, in the order of its uses."""
    return tuple(dict.fromkeys(usage.node for usage in value.uses()))


def readers(value: ir.Value, through: Set[str] | None = MOVES) -> Iterator[ir.Node]:
    """Nodes that read `value`, directly or behind operators in `through` (None: all); nearest first, each once."""
    frontier, seen = [value], set[ir.Node]()
    for current in frontier:
        for node in consumers(current):
            if node in seen:
                continue
            seen.add(node)
            yield node
            if through is None or node.op_type in through:
                frontier += node.outputs


def read_once(value: ir.Value) -> bool:
    """Whether one input of one node is all that reads a value."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def activated(value: ir.Value) -> list[ir.Value]:
    """`value` and all that elementwise operators compute from it and constants alone, an activation function last."""
    found = [value]
    for current in found:
        for node in consumers(current):
            known = all(operand is None or operand in found or is_constant(operand) for operand in node.inputs)
            if node.op_type in ACTIVATIONS and known and node.outputs[0] not in found:
                found.append(node.outputs[0])
    return found
