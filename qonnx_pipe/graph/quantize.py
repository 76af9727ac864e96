"""Quantize: a plan and its encodings written into a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import EMBEDDING_TABLES, Role
from qonnx_pipe.graph.lowerings.activation import ActivationQuantizers
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.gather import lower_table
from qonnx_pipe.graph.lowerings.linear import LinearLowering, QuantizedWeight
from qonnx_pipe.graph.walk import Linear, linears

EncodeWeight = Callable[[PlanEntry, npt.NDArray[np.generic]], tuple[Encoding, npt.NDArray[np.generic]]]
"""Encoding and codes of a weight [in, out] or a table [rows, d]; called once a weight, so that one at a time is in work."""


def quantize(
    model: ir.Model, plan: QuantPlan, activations: Mapping[str, Encoding], encode_weight: EncodeWeight
) -> dict[str, Encoding]:
    """Rewrite `model` in place as `plan` says; the encodings of its weights by site id.

    `activations` holds an encoding for every activation site that the plan quantizes. Names of inputs, outputs and
    linear layers stay. Order: linear layers (they read quantizers on their own edge), then tables, then, for
    `placement: full`, every other reader of a site.
    """
    emit = Emitter(model.graph)
    quantizers = ActivationQuantizers(emit)
    readers = {linear.name: linear for linear in linears(model.graph)}
    encodings: dict[str, Encoding] = {}
    _lower_linears(plan, readers, activations, encode_weight, encodings, LinearLowering(emit, quantizers))
    _lower_tables(model.graph, plan, encode_weight, encodings, emit)
    if plan.placement == "full":
        _quantize_readers(model.graph, plan, activations, quantizers)
    emit.finish()
    return encodings


def _lower_linears(
    plan: QuantPlan,
    readers: Mapping[str, Linear],
    activations: Mapping[str, Encoding],
    encode_weight: EncodeWeight,
    encodings: dict[str, Encoding],
    lowering: LinearLowering,
) -> None:
    source_of = {
        name: activations[entry.site.id]
        for entry in plan.quantized
        if not entry.site.is_weight
        for name in entry.site.feeds
    }
    for entry in plan.entries:
        if entry.site.role is not Role.WEIGHT:
            continue
        users = [readers[name] for name in entry.site.feeds]
        weight = None
        if entry.spec is not None:
            encoding, codes = encode_weight(entry, _matrix(users[0]))
            encodings[entry.site.id] = encoding
            weight = QuantizedWeight(codes, encoding, entry.site.tensor)
        for linear in users:
            lowering.lower(linear, source_of.get(linear.name), weight)


def _matrix(linear: Linear) -> npt.NDArray[np.generic]:
    """The weight as [in, out]."""
    tensor = ir.convenience.get_const_tensor(linear.weight)
    if tensor is None:
        raise ValueError(f"{linear.name} has no constant weight")
    array = tensor.numpy()
    return np.ascontiguousarray(array.T) if linear.transposed else array


def _lower_tables(
    graph: ir.Graph, plan: QuantPlan, encode_weight: EncodeWeight, encodings: dict[str, Encoding], emit: Emitter
) -> None:
    nodes = {str(node.name): node for node in graph if node.op_type == "Gather"}
    for entry in plan.quantized:
        if entry.site.role not in EMBEDDING_TABLES:
            continue
        tensor = ir.convenience.get_const_tensor(graph.initializers[entry.site.tensor])
        if tensor is None:
            raise ValueError(f"{entry.site.tensor} is no constant")
        encoding, codes = encode_weight(entry, tensor.numpy())
        encodings[entry.site.id] = encoding
        for name in entry.site.feeds:
            lower_table(emit, nodes[name], codes, encoding)


def _quantize_readers(
    graph: ir.Graph, plan: QuantPlan, activations: Mapping[str, Encoding], quantizers: ActivationQuantizers
) -> None:
    """Give every original reader of a planned site the quantized tensor; a graph output becomes quantized too."""
    values = {str(value.name): value for node in graph for value in node.outputs}
    for entry in plan.quantized:
        if entry.site.is_weight:
            continue
        value = values[entry.site.tensor]
        readers = [usage for usage in value.uses() if usage.node not in quantizers.emit.emitted]
        if not readers and not value.is_graph_output():
            continue
        quantized = quantizers.whole(value, activations[entry.site.id])
        for usage in readers:
            usage.node.replace_input_with(usage.idx, quantized)
        if value.is_graph_output():
            _replace_output(graph, value, quantized)


def _replace_output(graph: ir.Graph, value: ir.Value, quantized: ir.Value) -> None:
    """Make the quantized tensor the graph output, under the name that the output had."""
    name = value.name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = quantized
    value.name = f"{name}_float"
    quantized.name = name
