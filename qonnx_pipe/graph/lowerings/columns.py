"""Columns: a Split or Gather of what a linear layer computes becomes linear layers that compute those columns."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx_pipe.graph.constants import constant, integers
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import ACTIVATIONS, attribute, consumers

ELEMENTWISE = ACTIVATIONS | {"Sum", "Sub"}
"""Operators whose columns are those of their operands."""

WEIGHTS = {"MatMul": (1,), "MatMulIntegerToFloat": (1, 3, 5, 6)}
"""Operators that compute each column from a column of constants, and which inputs those are, the weight first."""

FEW = 1 / 8
"""Share of the columns that may be computed twice."""


def compute_slices(emit: Emitter) -> None:
    """Rewrite each emitted Split of columns that linear layers compute: no Split, no Gather, no copy is left.

    Linear → elementwise → (Gather by a permutation →) Split: each slice is computed from the columns of the weight, its
    scales and the bias that belong to it; the elementwise operators stand in front of each slice. As linear layers
    count: 1. MatMulIntegerToFloat; 2. MatMul by a float or dequantized constant, the Add of its bias being elementwise;
    3. a Sum of several, where the layer's own input is split too.
    The Split stays where anything else reads a value in between, where such a value is a graph output, where layers
    share the weight (each would need a copy), and behind any other operator. Constants are copied, never changed.

    An emitted Gather of a few columns (`expand`) is computed a second time, beside the whole tensor: onnxruntime's
    Gather along the last axis moves single elements, and takes longer than a MatMul of so few columns. One of all
    columns, some of them repeated, is computed in place of it, by a wider layer.
    """
    for node in list(emit.graph):
        if node.op_type == "Split" and node in emit.emitted:
            _compute_apart(emit, node)
    for node in list(emit.graph):
        if node.op_type == "Gather" and node in emit.emitted and attribute(node, "axis", 0) == -1:
            _compute_gathered(emit, node)


def _compute_gathered(emit: Emitter, gather: ir.Node) -> None:
    source, order, gathered = gather.inputs[0], integers(gather.inputs[1]), gather.outputs[0]
    if source is None or source.shape is None or not isinstance(width := source.shape[-1], int):
        return
    cone, order = _cone(source, width), order or ()
    instead = set(order) == set(range(width)) and _is_private(cone, [gather])
    if not cone or not order or (len(order) > width * FEW and not instead):
        return
    gathered.replace_all_uses_with(_Columns(emit, order, 0).of(source))
    _remove(emit, [gather, *(cone if instead else ())])


def can_compute_slices(value: ir.Value) -> bool:
    """Whether `compute_slices` will find `value` [..., d] computed by linear layers, and read by its readers alone."""
    width = None if value.shape is None else value.shape[-1]
    cone = _cone(value, width) if isinstance(width, int) else []
    return bool(cone) and not value.is_graph_output() and _is_private(cone, list(consumers(value)))


def can_compute_wider(value: ir.Value) -> bool:
    """Whether `compute_slices` will find `value` computed by linear layers, and read by others alone."""
    layers = all(usage.node.op_type in ("MatMul", "Gemm") and usage.idx == 0 for usage in value.uses())
    return layers and can_compute_slices(value)


def _compute_apart(emit: Emitter, split: ir.Node) -> None:
    source, sizes = split.inputs[0], integers(split.inputs[1])
    assert source is not None
    assert sizes is not None
    order, readers = tuple(range(sum(sizes))), [split]
    gather = source.producer()
    if gather is not None and gather.op_type == "Gather" and gather in emit.emitted:
        order = integers(gather.inputs[1]) or ()
        source = gather.inputs[0]
        readers.append(gather)
        assert source is not None
    cone = _cone(source, len(order))
    if not cone or attribute(split, "axis", 0) != -1 or not _is_private(cone, readers, moves=readers[1:]):
        return
    ends = np.cumsum(sizes)
    for number, (part, end, size) in enumerate(zip(split.outputs, ends, sizes, strict=True)):
        columns = _Columns(emit, order[end - size : end], number)
        part.replace_all_uses_with(columns.of(source))
    _remove(emit, [*readers, *cone])


def _remove(emit: Emitter, dead: list[ir.Node]) -> None:
    """Remove nodes that only each other read, last ones first."""
    while dead:
        node = next(node for node in dead if not any(output.uses() for output in node.outputs))
        dead.remove(node)
        emit.remove(node)


def _cone(source: ir.Value, width: int) -> list[ir.Node]:
    """The nodes from `source` back to the linear layers that compute it; none where something else takes part."""
    found: list[ir.Node] = []
    waiting: list[ir.Value] = [source]
    for value in waiting:
        node = value.producer()
        if node in found:
            continue
        if node is None or not _is_by_columns(node, width):
            return []
        found.append(node)
        if node.op_type not in WEIGHTS:
            waiting += [operand for operand in node.inputs if operand is not None and constant(operand) is None]
    return found


def _is_by_columns(node: ir.Node, width: int) -> bool:
    if node.op_type not in WEIGHTS:
        constants = [operand for operand in node.inputs if operand is not None and constant(operand) is not None]
        return node.op_type in ELEMENTWISE and all(_last(operand) in (1, width) for operand in constants)
    weight = node.inputs[1]
    known = [node.inputs[place] for place in WEIGHTS[node.op_type] if place < len(node.inputs)]
    if weight is None or _last(weight) != width or len(weight.uses()) > 1:
        return False
    return all(_last(operand) in (1, width) for operand in known if operand is not None)


def _last(value: ir.Value | None) -> int:
    """Columns of a constant or a dequantized constant: 1 for a scalar, 0 for anything else."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "DequantizeLinear":
        value = node.inputs[0]
    array = constant(value)
    return 0 if array is None else array.shape[-1] if array.ndim else 1


def _is_private(cone: list[ir.Node], readers: list[ir.Node], *, moves: list[ir.Node] | None = None) -> bool:
    """Whether nobody but the cone itself, and `readers`, reads what it, and what `moves` its result, computes."""
    inside = {*cone, *readers}
    outputs = [output for node in (*cone, *(moves or ())) for output in node.outputs]
    return not any(output.is_graph_output() or not inside.issuperset(consumers(output)) for output in outputs)


class _Columns:
    """Computes the columns `order` of values of a cone, each value once."""

    def __init__(self, emit: Emitter, order: tuple[int, ...], number: int) -> None:
        self._emit, self._order, self._suffix = emit, order, f"_columns{number}"
        self._made: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value) -> ir.Value:
        """`value` with the chosen columns alone."""
        if value not in self._made:
            self._made[value] = self._of_constant(value) if constant(value) is not None else self._of_node(value)
        return self._made[value]

    def _of_constant(self, value: ir.Value) -> ir.Value:
        array = constant(value)
        assert array is not None
        if array.ndim == 0 or array.shape[-1] == 1:
            return value
        return self._emit.constant(f"{value.name}{self._suffix}", array[..., list(self._order)])

    def _of_node(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        assert node is not None
        places = WEIGHTS.get(node.op_type, range(len(node.inputs)))
        inputs = [
            self.of(operand) if operand is not None and place in places else operand
            for place, operand in enumerate(node.inputs)
        ]
        attributes = {name: found.value for name, found in node.attributes.items()}
        (columns,) = self._emit.node(node.op_type, inputs, f"{node.name}{self._suffix}", attributes, domain=node.domain)
        columns.type = value.type
        if value.shape is not None:
            columns.shape = ir.Shape([*value.shape[:-1], len(self._order)])
        return columns
