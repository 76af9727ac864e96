"""Attention: softmax(q·kᵀ + mask)·v as one standard operator, which reads the heads where they lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import onnx_ir as ir

from qonnx_pipe.graph.constants import scalar
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import consumers, is_constant, read_once

OPSET = 23
"""The first opset that has Attention."""
LIKE_OPSET = 21
"""From here to OPSET the operators only gained types and attributes: a model of it is one of OPSET as it is."""
LOWEST = -1e30
"""Stands for what is below it in a mask: onnxruntime gives zeros for a row that is all at float32's end or -inf."""
_LENGTH = {"start": 1, "end": 2}


@dataclass(frozen=True, eq=False)
class Heads:
    """Queries, keys or values: `projection` [batch, sequence, count·size], split into heads and multiplied by `scale`.

    `order` says which axis of [batch, sequence, count, size] stands where.
    """

    projection: ir.Value
    count: int
    size: int
    scale: float
    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Attention:
    """One softmax attention; `scale` multiplies the scores, `mask` is added to them, `context` [batch, query, h·d].

    `mask` can be broadcast to [batch, heads, query, key].
    """

    query: Heads
    key: Heads
    value: Heads
    scale: float
    mask: ir.Value | None
    context: ir.Node


def fuse_attention(emit: Emitter) -> None:
    """Rewrite softmax attentions as ONNX's Attention, which raises the graph's opset to OPSET.

    onnxruntime's CPU kernel multiplies the heads where the projections left them, with no Transpose and no copy, and
    starts from the mask instead of adding it. Measured on 2 cores with onnxruntime 1.31, 8×128 tokens, 12 heads of 32:
    three quarters of the time of MultiHeadAttention's flash kernel, which takes no mask; on 512 tokens they are equal.

    1. Any mask will do: padding, causal, a position bias (MPNet) or their sum (`share_sums`). One that is the same for
       all queries is expanded over them, once for all layers. Values below LOWEST become LOWEST: a text that is padding
       only has the same probability everywhere, as with the least float, and no NaN where -inf gave one.

    Left as it is, and why:

    2. What lies between projections and context is read elsewhere or quantized.
    3. The rank of the mask, the number of heads or their size is not known, or their axes are moved in another way.
    4. The opset is below LIKE_OPSET: other operators would change their meaning.
    """
    if emit.graph.opset_imports.get("", 0) < LIKE_OPSET:
        return
    masks = _Masks(emit)
    for softmax in [node for node in emit.graph if node.op_type == "Softmax"]:
        found = _attention(softmax)
        if found is not None:
            _fuse(emit, found, masks)
            emit.graph.opset_imports[""] = max(OPSET, emit.graph.opset_imports[""])


def share_sums(emit: Emitter) -> None:
    """Add the two things that are added to scores (MPNet: position bias, mask) to each other, as one mask.

    1. (s + a) + b: s + (a + b), with one a + b for all layers that have the same a and b.
    """
    pairs: dict[tuple[ir.Value, ...], list[tuple[ir.Node, ir.Node, ir.Value]]] = defaultdict(list)
    for softmax in emit.graph:
        last = _producer(softmax.inputs[0]) if softmax.op_type == "Softmax" else None
        for partial, second in _terms(last):
            inner = partial.producer()
            for scores, first in _terms(inner):
                if last is not None and inner is not None and _scaled_product(scores) is not None:
                    pair = sorted((first, second), key=lambda term: str(term.name))
                    pairs[tuple(pair)].append((last, inner, scores))
    for terms, places in pairs.items():
        (total,) = emit.node("Add", terms, f"{places[0][0].name}_terms")
        total.type, total.shape = terms[0].type, _broadcast(*(term.shape for term in terms))
        for last, inner, scores in places:
            last.replace_input_with(0, scores)
            last.replace_input_with(1, total)
            emit.remove(inner)


def _fuse(emit: Emitter, found: Attention, masks: _Masks) -> None:
    query, key, value, heads = found.query, found.key, found.value, found.query.count
    inputs = [query.projection, key.projection, value.projection]
    if found.mask is not None:
        inputs.append(masks.of(found.mask, query.projection, key.projection))
    attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": found.scale}
    (context,) = emit.node("Attention", inputs, f"{found.context.name}_attention", attributes)
    if _joins(found.context, query, value):
        emit.replace(found.context, context)
    else:
        found.context.replace_input_with(0, context)


def _joins(reshape: ir.Node, query: Heads, value: Heads) -> bool:
    """Whether a Reshape gives [b, s, h·d]: Attention does so itself."""
    have, shape = query.projection.shape, reshape.outputs[0].shape
    if have is None or shape is None or len(shape) != 3:
        return False
    return shape[2] == value.count * value.size and _same(have[0], shape[0])


class _Masks:
    """Masks as Attention wants them, […, query, key]; layers share them."""

    def __init__(self, emit: Emitter) -> None:
        self.emit = emit
        self._made: dict[ir.Value, ir.Value] = {}

    def of(self, mask: ir.Value, query: ir.Value, key: ir.Value) -> ir.Value:
        """The mask with the lengths of `query` and `key`, [batch, length, h·d], and nothing below LOWEST."""
        if mask not in self._made:
            self._made[mask] = self._expanded(self._bounded(_narrow(mask)), query, key)
        return self._made[mask]

    def _expanded(self, mask: ir.Value, query: ir.Value, key: ir.Value) -> ir.Value:
        assert mask.shape is not None
        wanted = [value.shape[1] if value.shape is not None else None for value in (query, key)]
        if len(mask.shape) > 1 and all(map(_same, mask.shape[-2:], wanted)):
            return mask
        lengths = [self.emit.node("Shape", (value,), f"{mask.name}_length", _LENGTH)[0] for value in (query, key)]
        (shape,) = self.emit.node("Concat", lengths, f"{mask.name}_lengths", {"axis": 0})
        return self.emit.node("Expand", (mask, shape), f"{mask.name}_expanded")[0]

    def _bounded(self, mask: ir.Value) -> ir.Value:
        lowest = self.emit.constant(f"{mask.name}_lowest", np.asarray(LOWEST, np.float32))
        (bounded,) = self.emit.node("Max", (mask, lowest), f"{mask.name}_bounded")
        bounded.type, bounded.shape = mask.type, mask.shape
        return bounded


def _narrow(mask: ir.Value) -> ir.Value:
    """The mask before its Expand, if it has one whose input has a known rank."""
    expand = mask.producer()
    if expand is None or expand.op_type != "Expand" or expand.inputs[0] is None or expand.inputs[0].shape is None:
        return mask
    return expand.inputs[0]


def _attention(softmax: ir.Node) -> Attention | None:
    """The attention around a Softmax, or None for the reasons 2 and 3 of `fuse_attention`."""
    scores, mask = softmax.inputs[0], None
    axis = softmax.attributes.get("axis")
    if scores is None or (axis is not None and axis.as_int() not in (-1, 3)):
        return None
    for term, other in _terms(_producer(scores)):
        if other.shape is not None and _scaled_product(term) is not None:
            scores, mask = term, other
    product = _scaled_product(scores)
    reader = _only_reader(softmax.outputs[0])
    if product is None or reader is None or reader.op_type != "MatMul" or reader.inputs[0] is not softmax.outputs[0]:
        return None
    sides = [_heads(value) for value in (*product[0].inputs, reader.inputs[1])]
    context = _context(reader)
    if None in sides or context is None:
        return None
    query, key, value = (side for side in sides if side is not None)
    scale = product[1] * query.scale * key.scale
    fits = query.order == value.order == (0, 2, 1, 3) and key.order == (0, 2, 3, 1) and value.scale == 1 and scale > 0
    same = query.count == key.count == value.count and query.size == key.size
    return Attention(query, key, value, scale, mask, context) if fits and same else None


def _context(product: ir.Node) -> ir.Node | None:
    """The Reshape that joins the heads behind the probabilities' MatMul and a Transpose."""
    transpose = _only_reader(product.outputs[0])
    if transpose is None or transpose.op_type != "Transpose" or _permutation(transpose) != (0, 2, 1, 3):
        return None
    reshape = _only_reader(transpose.outputs[0])
    return reshape if reshape is not None and reshape.op_type == "Reshape" else None


def _heads(value: ir.Value | None) -> Heads | None:
    """Back from an operand of an attention's MatMul to the projection, if nothing else reads what lies between."""
    scale = 1.0
    order: tuple[int, ...] = (0, 1, 2, 3)
    while value is not None and read_once(value) and (node := value.producer()) is not None:
        match node.op_type:
            case "Transpose":
                permutation = _permutation(node)
                if permutation is None or len(permutation) != 4:
                    return None
                order = tuple(permutation[axis] for axis in order)
                value = node.inputs[0]
            case "Mul" | "Div":
                value, factor = _unscaled(node)
                scale *= factor
            case "Reshape":
                return _split(node, scale, order)
            case _:
                return None
    return None


def _split(reshape: ir.Node, scale: float, order: tuple[int, ...]) -> Heads | None:
    """The Reshape from [b, s, h·d] to [b, s, h, d]; symbolic sizes are equal where their names are."""
    source, shape = reshape.inputs[0], reshape.outputs[0].shape
    if source is None or source.shape is None or shape is None or (len(source.shape), len(shape)) != (3, 4):
        return None
    width, count, size = source.shape[2], shape[2], shape[3]
    if not (isinstance(width, int) and isinstance(count, int) and isinstance(size, int)) or count * size != width:
        return None
    return Heads(source, count, size, scale, order) if _same(source.shape[0], shape[0]) else None


def _same(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim | None) -> bool:
    named = isinstance(one, int) or one.value is not None
    return named and one == other


def _broadcast(one: ir.Shape | None, other: ir.Shape | None) -> ir.Shape | None:
    """The shape of a sum."""
    if one is None or other is None:
        return None
    pairs = zip_longest(reversed(one), reversed(other), fillvalue=1)
    return ir.Shape(reversed([right if left == 1 else left for left, right in pairs]))


def _terms(add: ir.Node | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Both ways to read an Add whose result is read once: what comes from the scores, what is added to it."""
    if add is not None and add.op_type == "Add" and read_once(add.outputs[0]):
        one, other = add.inputs
        if one is not None and other is not None:
            yield one, other
            yield other, one


def _scaled_product(value: ir.Value | None) -> tuple[ir.Node, float] | None:
    """The MatMul of two computed values behind multiplications by constants, and their product."""
    scale = 1.0
    while value is not None and read_once(value) and (node := value.producer()) is not None:
        if node.op_type == "MatMul":
            return None if any(map(is_constant, node.inputs)) else (node, scale)
        value, factor = _unscaled(node)
        scale *= factor
    return None


def _unscaled(node: ir.Node) -> tuple[ir.Value | None, float]:
    """What a Mul or Div by one number reads, and the factor; (None, 1) for any other node."""
    if node.op_type in ("Mul", "Div"):
        one, other = node.inputs
        factor = scalar(other)
        if factor:
            return one, factor if node.op_type == "Mul" else 1 / factor
        factor = scalar(one)
        if factor and node.op_type == "Mul":
            return other, factor
    return None, 1.0


def _permutation(transpose: ir.Node) -> tuple[int, ...] | None:
    found = transpose.attributes.get("perm")
    return None if found is None else tuple(found.as_ints())


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _only_reader(value: ir.Value) -> ir.Node | None:
    return consumers(value)[0] if read_once(value) else None
