"""Quantize: a plan and its encodings written into a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.numerics import dequantize
from qonnx_pipe.core.plan import BLOCKS, PlanEntry, QuantPlan
from qonnx_pipe.core.site import EMBEDDING_TABLES, Role
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.biases import rebias
from qonnx_pipe.graph.lowerings.activation import ActivationQuantizers
from qonnx_pipe.graph.lowerings.attention import fuse_attention, share_sums
from qonnx_pipe.graph.lowerings.columns import compute_slices
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.gather import lower_table
from qonnx_pipe.graph.lowerings.gather_nbits import gather_packed
from qonnx_pipe.graph.lowerings.linear import LinearLowering
from qonnx_pipe.graph.lowerings.moves import quantize_moved
from qonnx_pipe.graph.lowerings.packing import pack_codes
from qonnx_pipe.graph.lowerings.reference import require_session
from qonnx_pipe.graph.lowerings.sums import keep_norms_apart, subtract_products
from qonnx_pipe.graph.lowerings.tied import tied_heads
from qonnx_pipe.graph.lowerings.weight import QuantizedWeight
from qonnx_pipe.graph.walk import Linear, linears

EncodeWeight = Callable[[PlanEntry, npt.NDArray[np.generic]], tuple[Encoding, npt.NDArray[np.generic]]]
"""Encoding and codes of a weight [in, out] or a table [rows, d]; called once a weight: one at a time is in work."""

BiasError = Callable[[str, FloatArray, FloatArray], FloatArray | None]
"""Name of a linear layer, its weight [in, out] and that weight quantized → what its bias lacks, (out,), or None."""

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
WIDE_OPSET = 21
"""The first opset whose quantizers take 16-bit types."""


def quantize(
    model: ir.Model,
    plan: QuantPlan,
    activations: Mapping[str, Encoding],
    encode_weight: EncodeWeight,
    bias_error: BiasError | None = None,
) -> dict[str, Encoding]:
    """Rewrite `model` in place as `plan` says; the encodings of its weights by site id.

    `activations` holds an encoding for every activation site that the plan quantizes. Names of inputs, outputs and
    linear layers stay (the K MatMuls of a split layer are called `<name>_group0`, …), and so does metadata.
    Order: linear layers (they read quantizers on their own edge), then tables, then every other reader of a site
    whose readers all get it quantized (`QuantPlan.reaches_all`), then attention and residual sums; codes of few bits
    are packed last. Raises ModelError for a model that is quantized already, or whose opset lacks a type or an operator
    that the plan needs.
    """
    _check(model, activations)
    work = _Work(model.graph, plan, activations, encode_weight, bias_error)
    work.lower_linears()
    work.lower_tables()
    work.quantize_readers()
    if any(entry.lowering == "integer" for entry in plan.quantized):
        work.suit_the_kernels()
    if any(entry.lowering == "reference" for entry in plan.quantized):
        require_session(model)
    quantize_moved(work.emit)
    pack_codes(work.emit)
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    io.match_ir_version(model)
    return work.encodings


def _check(model: ir.Model, activations: Mapping[str, Encoding]) -> None:
    done = next((node for node in model.graph if node.op_type in QUANTIZERS), None)
    if done is not None:
        raise ModelError("the model is quantized already", where=str(done.name), fix="give the float model")
    opset = model.graph.opset_imports.get("", 0)
    wide = next((site for site, encoding in activations.items() if encoding.dtype.bits > 8), None)
    if wide is not None and opset < WIDE_OPSET:
        what = f"{activations[wide].dtype.name} needs opset {WIDE_OPSET}, the model has {opset}"
        raise ModelError(what, where=wide, fix=f"export with opset {WIDE_OPSET} or later, or use 8 bits")


@dataclass(frozen=True)
class _Work:
    """One graph on its way from float to quantized."""

    graph: ir.Graph
    plan: QuantPlan
    activations: Mapping[str, Encoding]
    encode_weight: EncodeWeight
    bias_error: BiasError | None
    encodings: dict[str, Encoding] = field(default_factory=dict)
    emit: Emitter = field(init=False)
    quantizers: ActivationQuantizers = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "emit", Emitter(self.graph))
        entries = [entry for entry in self.plan.quantized if not entry.site.is_weight]
        forms = {self.activations[entry.site.id]: entry.lowering for entry in entries}
        object.__setattr__(
            self, "quantizers", ActivationQuantizers(self.emit, forms, fuses=self.plan.target == "openvino")
        )

    def lower_linears(self) -> None:
        """Every linear layer that has a quantized operand."""
        lowering = LinearLowering(self.emit, self.quantizers)
        layers = {linear.name: linear for linear in linears(self.graph)}
        source_of = {
            name: self.activations[entry.site.id]
            for entry in self.plan.quantized
            if not entry.site.is_weight
            for name in entry.site.feeds
        }
        for entry in self.plan.entries:
            if entry.site.role is not Role.WEIGHT:
                continue
            users = [layers.pop(name) for name in entry.site.feeds]
            weight = None
            if entry.spec is not None:
                scale = self._row_scale(entry, [source_of.get(linear.name) for linear in users])
                matrix = _matrix(users[0])
                scaled = matrix if scale is None else matrix.astype(np.float32) * scale[:, None]
                coded = self._encoded(entry, scaled)
                weight = QuantizedWeight(entry.site.tensor, *coded, scale, entry.spec.accuracy_level)
            for linear in users:
                if weight is not None:
                    self._correct(linear, weight)
                lowering.lower(linear, source_of.get(linear.name), weight, entry.lowering)
        compute_slices(self.emit)

    def _correct(self, linear: Linear, weight: QuantizedWeight) -> None:
        """Add to a layer's bias what the quantization of its weight and input takes from its mean output."""
        if self.bias_error is None:
            return
        real = dequantize(weight.codes, weight.encoding)
        if weight.row_scale is not None:
            real /= weight.row_scale[:, None]
        error = self.bias_error(linear.name, _matrix(linear).astype(np.float32, copy=False), real)
        if error is not None:
            rebias(self.emit, linear, error.__add__)

    def _row_scale(self, entry: PlanEntry, sources: list[Encoding | None]) -> FloatArray | None:
        """What the quantizer in front asks a weight's rows to be multiplied by.

        None where the readers of a shared weight have different quantizers, and where the weight's codes were learned.
        """
        first = sources[0]
        if first is None or entry.lowering in BLOCKS or any(source is not first for source in sources):
            return None
        return None if entry.spec and entry.spec.rounds_by_data else self.quantizers.row_scale(first)

    def lower_tables(self) -> None:
        """Every embedding table that gets codes."""
        gathers = {str(node.name): node for node in self.graph if node.op_type == "Gather"}
        for entry in self.plan.quantized:
            if entry.site.role in EMBEDDING_TABLES:
                nodes = [gathers[name] for name in entry.site.feeds]
                table = nodes[0].inputs[0]
                assert table is not None
                assert entry.spec is not None
                coded = self._encoded(entry, _array(table))
                if entry.lowering == "gather_nbits":
                    heads, level = tied_heads(table), entry.spec.accuracy_level
                    gather_packed(self.emit, nodes, *coded, heads=heads, accuracy_level=level)
                else:
                    lower_table(self.emit, nodes, *coded)

    def quantize_readers(self) -> None:
        """Give the sites that reach all readers to every original one, quantized; a graph output becomes so too."""
        values = {str(value.name): value for value in self.graph.inputs}
        values |= {str(value.name): value for node in self.graph for value in node.outputs}
        for entry in self.plan.quantized:
            if entry.site.is_weight or not self.plan.reaches_all(entry.site):
                continue
            value = values.get(entry.site.tensor)
            if value is None:  # its slices are computed apart, and only quantizers read them
                continue
            readers = [usage for usage in value.uses() if usage.node not in self.emit.emitted]
            if not readers and not value.is_graph_output():
                continue
            quantized = self.quantizers.whole(value, self.activations[entry.site.id])
            for usage in readers:
                usage.node.replace_input_with(usage.idx, quantized)
            if value.is_graph_output():
                self.emit.replace_output(value, quantized)

    def suit_the_kernels(self) -> None:
        """What is around the linear layers, in the operators that onnxruntime runs fast; needs them lowered."""
        if self.plan.attention == "fused":
            share_sums(self.emit)
            fuse_attention(self.emit)
        keep_norms_apart(self.emit)
        subtract_products(self.emit)

    def _encoded(self, entry: PlanEntry, weight: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], Encoding]:
        encoding, codes = self.encode_weight(entry, weight)
        self.encodings[entry.site.id] = encoding
        return codes, encoding


def _matrix(linear: Linear) -> npt.NDArray[np.generic]:
    """The weight as [in, out]."""
    array = _array(linear.weight)
    return np.ascontiguousarray(array.T) if linear.transposed else array


def _array(value: ir.Value | None) -> npt.NDArray[np.generic]:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise ValueError(f"{value and value.name} is no constant")
    return tensor.numpy()
