"""Attention: softmax(q·kᵀ)·v as the one operator that onnxruntime's CPU provider runs as a flash kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx_pipe.graph.constants import scalar
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.masks import KeyMasks
from qonnx_pipe.graph.lowerings.products import Columns, products, read_once
from qonnx_pipe.graph.walk import consumers, is_constant

CONTRIB = "com.microsoft"
LOWEST = -1e30
"""Stands for -inf in a mask: far below every score, far enough from the end of float32 to be scaled."""


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
    """One softmax attention; `scale` multiplies the scores, `mask` is added to them, `context` [batch, query, h·d]."""

    query: Heads
    key: Heads
    value: Heads
    scale: float
    mask: ir.Value | None
    context: ir.Node


def fuse_attention(emit: Emitter) -> None:
    """Rewrite softmax attentions between integer linear layers as onnxruntime's MultiHeadAttention.

    Its CPU kernel works through the scores block by block (FlashAttention, Dao et al. 2022), unless it gets a mask: so
    the mask travels inside the keys.

    1. No mask (ViT): MultiHeadAttention of the three projections, in place of the MatMuls, Softmax and Transposes.
    2. A mask of one number a key (BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT): each head of the queries gets one more
       dimension that is always 1, each head of the keys one that is m/scale, so that
       scale·[q, 1]·[k, m/scale] = scale·q·k + m. Both come from the projections, which get a column more for each
       head; the mask is added to the keys. Masks below LOWEST become LOWEST: a text that is padding only has the same
       probability everywhere, as with the least float, and no NaN where -inf gave one.

    Left as it is, and why:

    3. What lies between projections and context is read elsewhere or quantized (`placement: full`).
    4. The mask may differ from query to query (causal), or something else is added, as a position bias (MPNet,
       DeBERTa): `share_sums` helps there.
    5. Queries or keys of a masked attention come from no integer product: there is no column to add.
    6. The number of heads is not known, or their axes are moved in another way.
    """
    columns, masks = Columns(emit), KeyMasks(emit)
    keys = _MaskColumns(emit, masks)
    for softmax in [node for node in emit.graph if node.op_type == "Softmax"]:
        found = _attention(softmax, masks)
        if found is not None:
            _fuse(emit, found, columns, keys)


def share_sums(emit: Emitter) -> None:
    """Add the two things that are added to the scores of several layers (MPNet: position bias, mask) to each other.

    1. (s + a) + b, with the same a and b in two layers or more: s + (a + b), with one a + b for all of them.
    """
    pairs: dict[tuple[ir.Value, ...], list[tuple[ir.Node, ir.Value]]] = defaultdict(list)
    for softmax in emit.graph:
        last = _producer(softmax.inputs[0]) if softmax.op_type == "Softmax" else None
        for inner, second in _terms(last):
            for scores, first in _terms(_producer(inner)):
                if last is not None and _scaled_product(scores) is not None:
                    pair = sorted((first, second), key=lambda term: str(term.name))
                    pairs[tuple(pair)].append((last, scores))
    for terms, places in pairs.items():
        if len(places) > 1:
            (total,) = emit.node("Add", terms, f"{places[0][0].name}_terms")
            for node, scores in places:
                node.replace_input_with(0, scores)
                node.replace_input_with(1, total)


def _fuse(emit: Emitter, found: Attention, columns: Columns, keys: _MaskColumns) -> None:
    query, key, value, heads = found.query, found.key, found.value, found.query.count
    operand = key.projection
    if found.mask is not None:
        for side, constant in ((query, 1.0), (key, 0.0)):
            columns.widen(products(side.projection), heads, constant)
            _resize(emit, side)
        (operand,) = emit.node("Add", (operand, keys.of(found.mask, key, found.scale)), f"{operand.name}_and_mask")
    inputs = (query.projection, operand, value.projection)
    attributes = {"num_heads": heads, "scale": found.scale}
    (context,) = emit.node("MultiHeadAttention", inputs, f"{found.context.name}_attention", attributes, domain=CONTRIB)
    if _joins(found.context, query, value):
        emit.replace(found.context, context)
    else:
        found.context.replace_input_with(0, context)


def _resize(emit: Emitter, side: Heads) -> None:
    """Say how wide the projection is now; under another name, since it holds no longer what the float model's does."""
    value = side.projection
    assert value.shape is not None
    value.shape = ir.Shape([*value.shape[:2], side.count * (side.size + 1)])
    emit.rename(value, f"{value.name}_widened")


def _joins(reshape: ir.Node, query: Heads, value: Heads) -> bool:
    """Whether a Reshape gives [b, s, h·d]: MultiHeadAttention does so itself."""
    have, shape = query.projection.shape, reshape.outputs[0].shape
    if have is None or shape is None or len(shape) != 3:
        return False
    return shape[2] == value.count * value.size and _same(have[0], shape[0])


class _MaskColumns:
    """Masks as what is added to the keys, [batch, key, h·(d + 1)]; layers share them."""

    def __init__(self, emit: Emitter, masks: KeyMasks) -> None:
        self.emit, self.masks = emit, masks
        self._made: dict[tuple[ir.Value, int, int, float], ir.Value] = {}

    def of(self, mask: ir.Value, key: Heads, scale: float) -> ir.Value:
        """Max(mask, LOWEST)/scale in the last dimension of every head, 0 in the others."""
        kind = (mask, key.count, key.size, scale)
        if kind not in self._made:
            hot = np.zeros((key.count, key.size + 1), np.float32)
            hot[:, -1] = 1 / scale
            lowest = self.emit.constant(f"{mask.name}_lowest", np.asarray(LOWEST, np.float32))
            places = self.emit.constant(f"{mask.name}_places", hot.reshape(-1))
            (bounded,) = self.emit.node("Max", (self.masks.column(mask), lowest), f"{mask.name}_bounded")
            self._made[kind] = self.emit.node("Mul", (bounded, places), f"{mask.name}_columns")[0]
        return self._made[kind]


def _attention(softmax: ir.Node, masks: KeyMasks) -> Attention | None:
    """The attention around a Softmax, or None for the reasons 3 to 6 of `fuse_attention`."""
    scores, mask = softmax.inputs[0], None
    axis = softmax.attributes.get("axis")
    if scores is None or (axis is not None and axis.as_int() not in (-1, 3)):
        return None
    for term, other in _terms(_producer(scores)):
        if masks.knows(other):
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
    integer = mask is None or all(products(side.projection) for side in (query, key))
    return Attention(query, key, value, scale, mask, context) if fits and same and integer else None


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


def _same(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    named = isinstance(one, int) or one.value is not None
    return named and one == other


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
