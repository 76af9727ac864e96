"""Permute: dimensions of a transformer's hidden state in another order, folded into the constants around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.granularity import PerEmbeddingGroup
from qonnx_pipe.core.site import STREAM_ROLES, Site
from qonnx_pipe.graph.constants import constant, integers
from qonnx_pipe.graph.lowerings.columns import can_compute_slices
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import ACTIVATIONS, Linear, as_linear, attribute, consumers

Order = tuple[int, ...]
"""Which original dimension stands at each place of the last axis."""

LANES = ACTIVATIONS | {"Sum", "Sub", "LayerNormalization", "Identity", "Cast", "Dropout"}
"""Operators that keep the order of the last axis, and whose constants along it can be reordered."""


@dataclass(frozen=True)
class Permuted:
    """What `permute` did: the order of each value that has a new one, by name; the values that a Gather reorders."""

    orders: Mapping[str, Order]
    gathers: tuple[str, ...]


def permute(model: ir.Model, wanted: Mapping[str, Order]) -> Permuted:
    """Give the last axis of values the orders that `wanted` names, in place; the model computes the same.

    Orders spread over the operators that keep them (LANES, and a Gather or Slice along another axis), first come first
    served, until each path ends where the order goes into constants (Bondarenko et al. 2021, §4):

    1. a linear layer computes the value: columns of its weight, and the bias;
    2. a linear layer reads it: rows of its weight;
    3. a table's Gather computes it: columns of the table, unless something else reads the table;
    4. gain and bias of a LayerNormalization, any other constant along the axis: reordered copies.

    Elsewhere a Gather [tokens, d] keeps the model right: between two orders (the residual branch between layers that
    have each their own), and before any other operator and before a graph output, which keep their order. Values of
    `wanted` that cannot have theirs (graph inputs and outputs, what an unknown operator computes) keep it too. Sums of
    float32 products come in another order, so results agree to rounding. Weights shared by layers are copied where the
    layers' orders differ.
    """
    orders = _spread(model.graph, wanted)
    if not orders:
        return Permuted({}, ())
    work = _Reordering(Emitter(model.graph), orders)
    for node in list(model.graph):
        work.rewrite(node)
    work.release()
    model.graph.sort()
    return Permuted({str(value.name): order for value, order in orders.items()}, tuple(work.gathers))


def cost(model: ir.Model, site: Site, groups: PerEmbeddingGroup) -> str:
    """What the permutation of a site's groups costs while the model runs; "" for nothing.

    Groups that no linear layer reads are quantized elementwise, in any order; the GELU's output gets its order from the
    columns of FC1. Nothing else can take an order of its own: an attention's context mixes columns within heads only,
    and the residual stream passes on.
    """
    if groups.permute == "none" or not site.feeds:
        return ""
    gather = f"a Gather of [tokens, {site.width}]"
    if groups.share == "model" and site.role in STREAM_ROLES:
        return ""
    if groups.share == "layer" and site.role in STREAM_ROLES:
        return f"the order of a layer costs {gather} on its residual branch"
    value = next((value for node in model.graph for value in node.outputs if value.name == site.tensor), None)
    if value is not None and can_compute_slices(value):
        return ""
    fix = "; share: model folds it" if site.role in STREAM_ROLES else ""
    return f"its permutation cannot be folded and costs {gather}{fix}"


def _spread(graph: ir.Graph, wanted: Mapping[str, Order]) -> dict[ir.Value, Order]:
    """The order of every value that gets one."""
    values = {str(value.name): value for node in graph for value in node.outputs}
    waiting = [(values[name], tuple(order)) for name, order in wanted.items() if name in values]
    orders: dict[ir.Value, Order] = {}
    for value, order in waiting:
        node = value.producer()
        if node is None or value in orders or value.is_graph_output() or not _can_have(value, node, order):
            continue
        orders[value] = order
        waiting += [(operand, order) for operand in _lanes(node, len(order))]
        for reader in consumers(value):
            if value in _lanes(reader, len(order)):
                waiting.append((reader.outputs[0], order))
    return orders


def _can_have(value: ir.Value, node: ir.Node, order: Order) -> bool:
    """Whether what computes `value` can compute it in this order."""
    width = len(order)
    if value is not node.outputs[0] or _width(value) not in (None, width):
        return False
    linear = as_linear(node)
    return bool(_lanes(node, width)) or (linear is not None and linear.shape[1] == width) or _is_table(node, width)


def _lanes(node: ir.Node, width: int) -> list[ir.Value]:
    """The operands whose order the node's output has; none for a node that keeps no order."""
    if node.op_type in ("Gather", "Slice") and _keeps_last(node):
        source = node.inputs[0]
        return [] if source is None or constant(source) is not None else [source]
    if node.op_type not in LANES:
        return []
    if node.op_type == "LayerNormalization" and attribute(node, "axis", -1) not in (-1, _rank(node.inputs[0]) - 1):
        return []
    found: list[ir.Value] = []
    for operand in node.inputs:
        if operand is None:
            continue
        size = _width(operand)
        if constant(operand) is None and size == width:
            found.append(operand)
        elif size not in (1, width):
            return []
    return found


def _keeps_last(node: ir.Node) -> bool:
    """Whether a Gather or Slice works along another axis than the last."""
    rank = _rank(node.inputs[0])
    if node.op_type == "Gather":
        return rank > 0 and int(attribute(node, "axis", 0)) % rank != rank - 1
    axes = integers(node.inputs[3]) if len(node.inputs) > 3 else None
    return rank > 0 and axes is not None and all(axis % rank != rank - 1 for axis in axes)


def _is_table(node: ir.Node, width: int) -> bool:
    table = node.inputs[0] if node.op_type == "Gather" else None
    array = constant(table)
    if table is None or array is None or array.ndim != 2 or array.shape[1] != width or attribute(node, "axis", 0):
        return False
    return all(reader.op_type == "Gather" for reader in consumers(table))


def _width(value: ir.Value) -> int | None:
    """Size of the last axis: 1 for a scalar, None where it is not known."""
    array = constant(value)
    shape = tuple(value.shape) if array is None and value.shape is not None else None if array is None else array.shape
    if shape is None:
        return None
    last = shape[-1] if shape else 1
    return last if isinstance(last, int) else None


def _rank(value: ir.Value | None) -> int:
    return 0 if value is None or value.shape is None else len(value.shape)


@dataclass
class _Reordering:
    """One graph whose values are getting their orders."""

    emit: Emitter
    orders: Mapping[ir.Value, Order]
    gathers: list[str] = field(default_factory=list)
    _copies: dict[tuple[ir.Value, Order | None, Order | None], ir.Value] = field(default_factory=dict)
    _moved: dict[tuple[ir.Value, Order | None], ir.Value] = field(default_factory=dict)

    def rewrite(self, node: ir.Node) -> None:
        """Give a node operands in the order that it works in, and constants that belong to it."""
        order = self.orders.get(node.outputs[0])
        sources = [self.orders.get(operand) if operand is not None else None for operand in node.inputs]
        width = len(order or next((found for found in sources if found), ()))
        lanes = _lanes(node, width) if width else []
        linear = as_linear(node)
        for place, operand in enumerate(node.inputs):
            if operand is None or node.op_type == "Shape":
                continue
            if operand in lanes:
                self._set(node, place, self._value(operand, order))
            elif lanes and order and constant(operand) is not None and _width(operand) == width:
                self._set(node, place, self._constant(operand, None, order))
            elif sources[place] and not (linear is not None and place == 0):
                self._set(node, place, self._value(operand, None))
        if linear is not None:
            self._rewrite_linear(linear, sources[0], order)
        elif order and not lanes:
            self._set(node, 0, self._constant(node.inputs[0], None, order))  # a table: _can_have lets no other come

    def release(self) -> None:
        """Forget the constants that nothing reads any more."""
        for value, _, _ in self._copies:
            self.emit.release(value)

    def _rewrite_linear(self, linear: Linear, rows: Order | None, columns: Order | None) -> None:
        if rows or columns:
            turned = (columns, rows) if linear.transposed else (rows, columns)
            self._set(linear.node, 1, self._constant(linear.weight, *turned))
        if columns and linear.node.op_type == "Gemm" and linear.bias is not None:
            self._set(linear.node, 2, self._constant(linear.node.inputs[2], None, columns))

    def _constant(self, value: ir.Value | None, rows: Order | None, columns: Order | None) -> ir.Value:
        assert value is not None
        key = (value, rows, columns)
        if key not in self._copies:
            array = constant(value)
            assert array is not None
            array = array if rows is None else array[list(rows)]
            array = array if columns is None or array.shape[-1] == 1 else array[..., list(columns)]
            self._copies[key] = self.emit.constant(f"{value.name}_permuted", np.ascontiguousarray(array))
        return self._copies[key]

    def _value(self, value: ir.Value, order: Order | None) -> ir.Value:
        """`value` with its last axis in `order` (None: the original one), through a Gather where it has another."""
        has, key = self.orders.get(value), (value, order)
        if has == order:
            return value
        if key not in self._moved:
            width = len(has or order or ())
            target = np.asarray(order or range(width))
            index = np.argsort(has)[target] if has else target
            places = self.emit.constant(f"{value.name}_order", index.astype(np.int64))
            (moved,) = self.emit.node("Gather", (value, places), f"{value.name}_reordered", {"axis": -1})
            moved.type, moved.shape = value.type, value.shape
            self.gathers.append(str(value.name))
            self._moved[key] = moved
        return self._moved[key]

    def _set(self, node: ir.Node, place: int, value: ir.Value) -> None:
        if node.inputs[place] is not value:
            node.replace_input_with(place, value)
