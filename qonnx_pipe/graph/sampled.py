"""Sampled: a stretch of a model with other weights, as a file that hands out chosen tokens of some tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.site import Site
from qonnx_pipe.graph.instrument import EXAMPLES_INPUT, TOKENS_INPUT
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.passes.infer_shapes import InferShapes
from qonnx_pipe.graph.walk import as_linear

PLACES = {3: TOKENS_INPUT, 2: EXAMPLES_INPUT}
"""Which input says what to take of a tensor, by its rank: [batch, tokens, d] or [batch, d]."""


@dataclass(frozen=True)
class Sampled:
    """A sampled stretch: its file, and the output of each site, shape [n, d]; other ranks have none.

    `tokens`: how many tokens every example has where the shape says so, or None.
    """

    path: Path
    outputs: Mapping[str, str]
    tokens: int | None


def frontier(model: ir.Model, layers: Collection[str]) -> tuple[str, ...]:
    """Tensors that are known without the `layers` (node names) and that these, or what comes behind them, read.

    What depends on no input of the graph is no part of it.
    """
    live, ahead = set(model.graph.inputs), set[ir.Value]()
    found: dict[str, None] = {}
    for node in model.graph:
        sources = [value for value in _read(node) if value in live]
        if node.name in layers or any(value in ahead for value in sources):
            ahead.update(node.outputs)
            found |= dict.fromkeys(str(v.name) for v in sources if v not in ahead and v.producer() is not None)
        if sources:
            live.update(node.outputs)
    return tuple(found)


def _read(node: ir.Node) -> Iterator[ir.Value | None]:
    """What a node reads, and what its subgraphs read of the graph around it (or make themselves)."""
    yield from node.inputs
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                yield from inner.inputs


def sample(
    model: ir.Model,
    weights: Mapping[Site, FloatArray],
    sites: Sequence[Site],
    target: Path,
    *,
    start: Collection[str] = (),
    passed_on: Collection[str] = (),
) -> Sampled:
    """Write to `target` what of `model` lies between the tensors `start` and the activations `sites`.

    `weights` ([in, out], or tables) stand in it for the model's own; only those that it uses are asked for. Its inputs
    are those of the model that it needs, `start`, and, int64, those of `instrument`: TOKENS_INPUT [n, 2] of (row,
    position) and EXAMPLES_INPUT [n, 1] of rows. The tensors `passed_on` are outputs, whole, under their names. `model`
    itself stays, but for shapes that had to be inferred. Requires something to hand out.
    """
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    ends = [values[name] for name in dict.fromkeys([*(site.tensor for site in sites), *passed_on])]
    begin = [values[name] for name in start]
    if any(value.shape is None for value in (*ends, *begin)):
        InferShapes()(model)
    graph = ir.convenience.extract(model.graph, [*model.graph.inputs, *begin], ends)
    emit, names = Emitter(graph), {node.name for node in graph}
    for site in weights:
        if not names.isdisjoint(site.feeds):
            _replace(emit, site, weights[site])
    outputs, tokens = _choose(emit, sites)
    inside = {str(value.name): value for value in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    graph.outputs[:] = [*outputs.values(), *(inside[name] for name in passed_on)]
    graph.sort()
    cut = ir.Model(graph, ir_version=model.ir_version)
    RemoveUnusedNodesPass()(cut)
    unread = [value for value in graph.inputs if not value.uses()]
    for value in unread:
        graph.inputs.remove(value)
    ir.external_data.load_to_model(cut)
    ir.save(cut, target)
    return Sampled(target, {site: str(value.name) for site, value in outputs.items()}, tokens)


def _choose(emit: Emitter, sites: Sequence[Site]) -> tuple[dict[str, ir.Value], int | None]:
    """The chosen tokens of each site that can give any, and how many tokens there are where the shape says so."""
    graph = emit.graph
    values = {str(value.name): value for value in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    places = {name: _input(graph, name, rank - 1) for rank, name in PLACES.items()}
    outputs, tokens = dict[str, ir.Value](), set[int]()
    for site in sites:
        value = values[site.tensor]
        rank = len(value.shape or ())
        if value.shape is None or rank not in PLACES:
            continue
        (chosen,) = emit.node("GatherND", (value, places[PLACES[rank]]), f"{value.name}_samples")
        chosen.type, chosen.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None, value.shape[-1]])
        outputs[site.id] = chosen
        if rank == 3 and isinstance(value.shape[1], int):
            tokens.add(value.shape[1])
    return outputs, max(tokens, default=None)


def matrix(model: ir.Model, site: Site) -> FloatArray:
    """A float weight [in, out] or table."""
    return next(array for _, _, array in _uses(model.graph, site))


def put_matrix(model: ir.Model, site: Site, array: FloatArray) -> None:
    """Let a weight [in, out] or table be `array`, in place, for the nodes that the site feeds."""
    emit, before = Emitter(model.graph), {node.inputs[index] for node, index, _ in _uses(model.graph, site)}
    _replace(emit, site, array)
    for value in before:
        emit.release(value)


def _uses(graph: ir.Graph, site: Site) -> Iterator[tuple[ir.Node, int, FloatArray]]:
    """Each node that uses a weight or table, the input where it stands, and its values, [in, out]."""
    names = set(site.feeds)
    for node in graph:
        if node.name in names:
            linear = as_linear(node)
            index = 0 if linear is None else 1
            tensor = ir.convenience.get_const_tensor(node.inputs[index])  # type: ignore[arg-type]
            if tensor is None:
                raise ValueError(f"{site.id}: {node.name} has no constant weight")
            array = np.asarray(tensor.numpy(), np.float32)
            yield node, index, array.T if linear is not None and linear.transposed else array


def _replace(emit: Emitter, site: Site, array: FloatArray) -> None:
    shared: dict[bool, ir.Value] = {}
    for node, index, _ in list(_uses(emit.graph, site)):
        linear = as_linear(node)
        turned = linear is not None and linear.transposed
        if turned not in shared:
            stored = np.ascontiguousarray(array.T if turned else array, np.float32)
            shared[turned] = emit.constant(f"{site.tensor}_other", stored)
        node.replace_input_with(index, shared[turned])


def _input(graph: ir.Graph, name: str, columns: int) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape([f"{name}_n", columns]), type=ir.TensorType(ir.DataType.INT64))
    graph.inputs.append(value)
    return value
