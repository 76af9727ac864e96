"""Fold: scales and shifts of a tensor's dimensions moved into the constants around it, the model computing the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.site import Site
from qonnx_pipe.graph.biases import has_fixed_bias, rebias
from qonnx_pipe.graph.constants import constant
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import Linear, attribute, consumers, linears

SPLIT_HEADS = (0, 2, 1, 3)
"""[batch, tokens, heads, size] → [batch, heads, tokens, size], and back."""


@dataclass(frozen=True, eq=False)
class _Place:
    """A tensor that can be folded: where it is made, and the linear layers that read it.

    `maker`: the LayerNormalization, or the projection of the values. `sums_to_one`: whether a shift passes.
    """

    value: ir.Value
    maker: ir.Node | Linear
    readers: tuple[Linear, ...]
    sums_to_one: bool = True

    @property
    def others(self) -> list[tuple[ir.Node, int]]:
        """What reads the tensor's values besides the linear layers, and as which input."""
        left_out = {reader.node for reader in self.readers}
        usages = [(usage.node, usage.idx) for usage in self.value.uses() if usage.node not in left_out]
        return [(node, index) for node, index in usages if node.op_type != "Shape"]


class _Unlike(Exception):
    """Why a tensor cannot be folded."""


def fold(model: ir.Model, wishes: Mapping[Site, Affine]) -> dict[str, Affine]:
    """Give each site's tensor x the value x' = (x − z)/s, in place; what became of every tensor, by its name.

    SmoothQuant (Xiao et al. 2022, eq. 3) and the shift of Outlier Suppression+ (Wei et al. 2023, eq. 3–6):

    1. Output of a LayerNormalization: gain g/s, bias (b − z)/s. Every other reader (the residual branch, a graph
       output) gets x back: a Mul by s, unless all are 1; z goes into the bias of the linear layer whose output it is
       summed with, and so costs nothing; else an Add.
    2. Context of an attention: c = P·V with rows of P that sum to one, so that P·(V − 1zᵀ)/s = (c − z)/s: columns and
       bias of the value projection become W/s and (b − z)/s. No operator is added.

    In both, a linear layer x·W + b that reads it becomes x'·(s ∘ W) + (b + zW), s multiplying the rows. Tensors whose
    values change are the sites', the value projection's output, and the outputs of layers that took in a z: these last
    have an affine of shift −z. Requires sites without `obstacle`. New initializers are made: the old may be shared.
    """
    emit = Emitter(model.graph)
    moved: dict[str, Affine] = {}
    for site, affine in wishes.items():
        place = _place(model.graph, site)
        changed = _rewrite(emit, place, affine)
        moved |= {name: moved[name].then(change) if name in moved else change for name, change in changed.items()}
        model.graph.sort()
    return moved


def obstacle(model: ir.Model, site: Site, *, shift: bool = False) -> str:
    """Why a site cannot be folded, by a scale or (`shift`) by a shift too; "" when it can."""
    try:
        place = _place(model.graph, site)
    except _Unlike as reason:
        return str(reason)
    return "" if place.sums_to_one or not shift else "rows of its probabilities may not sum to one: scales only"


def restores(model: ir.Model, site: Site) -> bool:
    """Whether scales of the site cost a Mul, for other readers than the linear layers; requires no `obstacle`."""
    place = _place(model.graph, site)
    return not isinstance(place.maker, Linear) and bool(place.others or place.value.is_graph_output())


def weights_behind(model: ir.Model, site: Site) -> dict[str, FloatArray]:
    """Float weight [in, out] of each linear layer that the site feeds, by the layer's name."""
    layers = {linear.name: linear for linear in linears(model.graph)}
    return {name: _matrix(layers[name]) for name in site.feeds}


def weights_around(model: ir.Model, site: Site) -> tuple[FloatArray, FloatArray]:
    """Weight [in, d] of the projection of the values and [d, out], side by side, of the layers behind a context.

    Requires a context without `obstacle`.
    """
    place = _place(model.graph, site)
    assert isinstance(place.maker, Linear)
    return _matrix(place.maker), np.concatenate([_matrix(reader) for reader in place.readers], axis=1)


def _place(graph: ir.Graph, site: Site) -> _Place:
    """The site's place; raises _Unlike with the reason when it cannot be folded."""
    layers = linears(graph)
    readers = tuple(linear for linear in layers if linear.name in site.feeds)
    if not readers:
        raise _Unlike("no weight MatMul reads it")
    value = readers[0].source
    node = value.producer()
    if any(reader.source is not value for reader in readers):
        raise _Unlike("a weight MatMul reads it behind data movement")
    if node is not None and node.op_type in _NOT_LINEAR:
        cost = "folding would take a Mul and an Add over the whole tensor; use split or expand"
        raise _Unlike(f"{node.op_type} makes it, which is not linear: {cost}")
    if node is not None and node.op_type == "LayerNormalization" and value.name == site.tensor:
        place = _behind_norm(value, node, readers)
    else:
        place = _behind_values(value, readers, layers)
    mine = {reader.node for reader in readers}
    if any(usage.node not in mine for reader in readers for usage in reader.weight.uses()):
        raise _Unlike("another layer shares its weights")
    return place


_NOT_LINEAR = frozenset({"Gelu", "Relu", "Tanh", "Erf", "Sigmoid", "FastGelu", "Mul"})


def _behind_norm(value: ir.Value, node: ir.Node, readers: tuple[Linear, ...]) -> _Place:
    if any(constant(operand) is None for operand in node.inputs[1:] if operand is not None):
        raise _Unlike("its LayerNormalization has a gain or bias that is no constant")
    return _Place(value, node, readers)


def _behind_values(context: ir.Value, readers: tuple[Linear, ...], layers: tuple[Linear, ...]) -> _Place:
    """Context ← Reshape ← Transpose ← MatMul(P, ·) ← Transpose ← Reshape ← value projection, read by nothing else."""
    mine = {reader.node for reader in readers}
    if context.is_graph_output() or any(node not in mine for node in consumers(context)):
        raise _Unlike("something besides weight MatMuls reads it")
    product = _back(_back(context, "Reshape"), "Transpose")
    weighting = product.producer()
    if weighting is None or weighting.op_type != "MatMul" or weighting.inputs[1] is None:
        raise _Unlike("it is neither the output of a LayerNormalization nor the context of an attention")
    heads = _back(_only_read_by(weighting.inputs[1], weighting), "Transpose")
    source = _back(heads, "Reshape")
    values = next((linear for linear in layers if linear.output is source), None)
    if values is None or heads.shape is None or not has_fixed_bias(values):
        raise _Unlike("the attention's values come from no linear layer alone")
    *_, count, size = heads.shape
    width = values.shape[1]
    if not (isinstance(count, int) and isinstance(size, int) and count * size == width == readers[0].shape[0]):
        raise _Unlike("its dimensions are not those of the values")
    if len(consumers(values.weight)) > 1:
        raise _Unlike("another layer shares the weights of the values")
    softmax = weighting.inputs[0].producer() if weighting.inputs[0] is not None else None
    last = softmax is not None and softmax.op_type == "Softmax" and attribute(softmax, "axis", -1) in (-1, 3)
    return _Place(context, values, readers, sums_to_one=last)


def _back(value: ir.Value, op_type: str) -> ir.Value:
    """The input of the node of `op_type` that made `value`, which nothing else reads."""
    node = value.producer()
    if node is None or node.op_type != op_type or node.inputs[0] is None:
        raise _Unlike("it is neither the output of a LayerNormalization nor the context of an attention")
    if op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) != SPLIT_HEADS:
        raise _Unlike("its heads are not laid out as [batch, tokens, heads, size]")
    return _only_read_by(node.inputs[0], node)


def _only_read_by(value: ir.Value, node: ir.Node) -> ir.Value:
    if value.is_graph_output() or consumers(value) != (node,):
        raise _Unlike("something else reads the attention's values on the way")
    return value


def _rewrite(emit: Emitter, place: _Place, affine: Affine) -> dict[str, Affine]:
    """Fold one tensor; what became of the tensors."""
    changed = {str(place.value.name): affine}
    if isinstance(place.maker, Linear):
        changed[str(place.maker.output.name)] = affine
        rebias(emit, place.maker, affine)
        _scale_weight(emit, place.maker, 1.0 / affine.scale, inputs=False)
    else:
        changed |= _restore(emit, place, affine)
        _fold_norm(emit, place.maker, affine, str(place.value.name))
    for reader in place.readers:
        if affine.shifts:
            rebias(emit, reader, (affine.shift @ _matrix(reader)).__add__)
        _scale_weight(emit, reader, affine.scale, inputs=True)
    return changed


def _fold_norm(emit: Emitter, norm: ir.Node, affine: Affine, name: str) -> None:
    gain, bias = norm.inputs[1], norm.inputs[2] if len(norm.inputs) > 2 else None
    norm.replace_input_with(1, emit.constant(f"{name}_gain", (_floats(gain) / affine.scale).astype(np.float32)))
    if bias is not None or affine.shifts:
        norm.resize_inputs(3)
        offset = np.zeros_like(affine.shift) if bias is None else _floats(bias)
        norm.replace_input_with(2, emit.constant(f"{name}_bias", affine(offset).astype(np.float32)))
    for old in (gain, bias):
        emit.release(old)


def _restore(emit: Emitter, place: _Place, affine: Affine) -> dict[str, Affine]:
    """Give every reader but the linear layers s·x' + z; the layers' outputs that took in a z, by name."""
    value, others = place.value, place.others
    if not others and not value.is_graph_output():
        return {}
    name = str(value.name)
    scaled = value
    if affine.scales:
        (scaled,) = emit.node("Mul", (value, emit.constant(f"{name}_fold_scale", affine.scale)), f"{name}_scaled")
        scaled.type, scaled.shape = value.type, value.shape
    partners = [_partner(emit.graph, node, value) for node, _ in others]
    taken: dict[str, Affine] = {}
    restored = scaled
    if affine.shifts and (None in partners or value.is_graph_output()):
        (restored,) = emit.node("Add", (scaled, emit.constant(f"{name}_fold_shift", affine.shift)), f"{name}_restored")
        restored.type, restored.shape = value.type, value.shape
    elif affine.shifts:
        for partner in (partner for partner in partners if partner is not None):
            taken[str(partner.output.name)] = Affine.shifting(-affine.shift)
            rebias(emit, partner, affine.shift.__add__)
    for node, index in others:
        node.replace_input_with(index, restored)
    if value.is_graph_output():
        emit.replace_output(value, restored)
    return taken


def _partner(graph: ir.Graph, node: ir.Node, value: ir.Value) -> Linear | None:
    """The linear layer whose output `node` adds to `value`, if nothing else reads that output."""
    if node.op_type != "Add":
        return None
    other = node.inputs[0] if node.inputs[1] is value else node.inputs[1]
    if other is None or other.is_graph_output() or consumers(other) != (node,):
        return None
    return next((linear for linear in linears(graph) if linear.output is other and has_fixed_bias(linear)), None)


def _scale_weight(emit: Emitter, linear: Linear, scale: FloatArray, *, inputs: bool) -> None:
    """Multiply the rows (inputs) or columns of a linear layer's weight."""
    along_first = inputs != linear.transposed
    old = linear.node.inputs[1]
    factors = scale[:, None] if along_first else scale[None, :]
    scaled = emit.constant(f"{old and old.name}_folded", (_floats(old) * factors).astype(np.float32))
    linear.node.replace_input_with(1, scaled)
    emit.release(old)


def _matrix(linear: Linear) -> FloatArray:
    """The weight as it is now, [in, out]."""
    array = _floats(linear.node.inputs[1])
    return array.T if linear.transposed else array


def _floats(value: ir.Value | None) -> FloatArray:
    array = constant(value)
    assert array is not None
    return array.astype(np.float32, copy=False)
