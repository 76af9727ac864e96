"""Sampled: a model with other weights, cut off behind some tensors, that hands out chosen tokens of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.site import Site
from qonnx_pipe.graph import io
from qonnx_pipe.graph.instrument import EXAMPLES_INPUT, TOKENS_INPUT
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.passes.infer_shapes import InferShapes
from qonnx_pipe.graph.walk import as_linear

PLACES = {3: TOKENS_INPUT, 2: EXAMPLES_INPUT}
"""Which input says what to take of a tensor, by its rank: [batch, tokens, d] or [batch, d]."""


@dataclass(frozen=True)
class Sampled:
    """A sampled model: its file, and the output of each site, shape [n, d]; other ranks have none.

    `tokens`: how many tokens every example has where the shape says so, or None.
    """

    path: Path
    outputs: Mapping[str, str]
    tokens: int | None


def sample(model: Path, weights: Mapping[Site, FloatArray], sites: Sequence[Site], target: Path) -> Sampled:
    """Write `model` to `target` with `weights` ([in, out], or tables), as far as the activations `sites` need it.

    Its inputs are the model's and, int64, those of `instrument`: TOKENS_INPUT [n, 2] of (row, position) and
    EXAMPLES_INPUT [n, 1] of rows. Raises what `io.load` raises.
    """
    loaded = io.load(model)
    graph = loaded.graph
    values = {str(value.name): value for node in graph for value in node.outputs}
    if any(values[site.tensor].shape is None for site in sites):
        InferShapes()(loaded)
    emit = Emitter(graph)
    for site, array in weights.items():
        _replace(emit, site, array)
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
    graph.outputs[:] = outputs.values()
    graph.sort()
    RemoveUnusedNodesPass()(loaded)
    ir.external_data.load_to_model(loaded)
    ir.save(loaded, target)
    return Sampled(target, {site: str(value.name) for site, value in outputs.items()}, max(tokens, default=None))


def matrix(model: ir.Model, site: Site) -> FloatArray:
    """A float weight [in, out] or table."""
    return next(array for _, _, array in _uses(model.graph, site))


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
