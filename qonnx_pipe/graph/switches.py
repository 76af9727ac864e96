"""Switches: one graph with a simulated quantizer at every site, each turned on or off, and set, by graph inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, FloatArray
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QType
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import linears

SWITCHES = "qonnx_pipe.switches"
"""Graph input, bool [sites]: which quantizers are on."""

SCALE, ZERO_POINT = 0, 1
"""Rows of a quantizer's settings."""

WIDE_OPSET = 21
"""The first opset whose QuantizeLinear takes 16-bit types."""

NewWeight = Callable[[PlanEntry, npt.NDArray[np.generic]], FloatArray]
"""A weight [in, out] or table [rows, d] as its quantizer leaves it, in float."""


@dataclass(frozen=True)
class Switchboard:
    """A model with switches: its file, and its sites in the order of the switches."""

    path: Path
    sites: tuple[Site, ...]

    def inputs(self, encodings: Mapping[str, Encoding], on: Collection[str]) -> dict[str, npt.NDArray[np.generic]]:
        """Graph inputs for one run: `encodings` of every site by id, and the ids of the sites that are quantized."""
        settings = {_settings_name(site): _settings(encodings[site.id]) for site in self.sites}
        return {SWITCHES: np.array([site.id in on for site in self.sites], bool), **settings}


def add_switches(model: Path, plan: QuantPlan, target: Path, *, weights: NewWeight | None = None) -> Switchboard:
    """Write `model` to `target` with a switched quantizer at every activation that `plan` quantizes.

    1. Placement full, or a site that feeds no linear layer: every reader sees the quantized tensor, the graph's output
       too, under its own name.
    2. Else only the linear layers that the site feeds see it; residual branches stay float.
    3. Per tensor, at 8 or 16 bits: QuantizeLinear, DequantizeLinear. Any other: the same in float operators.

    A quantizer's settings are a graph input of its own: scale and zero point, shape [2], or those of each dimension,
    [2, d], so that one session serves every encoding of one type and granularity. It is an `If`: on, it computes
    `core.numerics.fake_quantize` exactly; off, it passes the tensor on, so that with every switch off the model is the
    float one. Weights and tables become what `weights` makes of them, or stay. How a plan would lower a site (split,
    fold, expand, smoothing) plays no part. Raises what `io.load` and `io.save` raise.
    """
    loaded = io.load(model)
    entries = [entry for entry in plan.quantized if not entry.site.is_weight]
    wiring = _Wiring(loaded.graph, plan)
    for index, entry in enumerate(entries):
        assert entry.spec is not None
        wiring.connect(index, entry.site, entry.spec)
    if weights is not None:
        _replace_weights(loaded.graph, plan, weights)
    loaded.graph.sort()
    io.save(loaded, target)
    return Switchboard(target, tuple(entry.site for entry in entries))


def _settings_name(site: Site) -> str:
    return f"qonnx_pipe.quantizer:{site.id}"


def _settings(encoding: Encoding) -> FloatArray:
    """Scale and zero point of the whole tensor, shape (2,), or of every dimension, shape (2, d)."""
    scale, zero_point = encoding.scale, encoding.zero_point
    if isinstance(encoding.granularity, EmbeddingGroups):
        group = encoding.granularity.group_of_dimension()
        scale, zero_point = scale[group], zero_point[group]
    return np.stack([scale, zero_point]).astype(np.float32)


class _Wiring:
    """Puts quantizers between the tensors of one graph and their readers."""

    def __init__(self, graph: ir.Graph, plan: QuantPlan) -> None:
        self.graph, self.plan = graph, plan
        self.emit = Emitter(graph)
        self.layers = {linear.name: linear for linear in linears(graph)}
        self.values = {str(value.name): value for node in graph for value in node.outputs}
        self.switches = self._input(SWITCHES, ir.DataType.BOOL, ["sites"])
        self.rows = [self.emit.constant(f"switch_row{row}", np.asarray(row, np.int64)) for row in (SCALE, ZERO_POINT)]
        self.opset = graph.opset_imports.get("", 0)
        self._ends: dict[QType, tuple[ir.Value, ir.Value]] = {}

    def connect(self, index: int, site: Site, spec: QuantSpec) -> None:
        """Give the readers of a site its tensor behind quantizer `index`."""
        place = self.emit.constant(f"switch_place{index}", np.asarray(index, np.int64))
        (on,) = self.emit.node("Gather", (self.switches, place), f"switch{index}")
        whole = isinstance(spec.granularity, PerTensor)
        settings = self._input(_settings_name(site), ir.DataType.FLOAT, [2] if whole else [2, f"settings{index}"])
        integer = whole and (spec.dtype.bits == 8 or (spec.dtype.bits == 16 and self.opset >= WIDE_OPSET))
        make = self._integer if integer else self._float
        for value, usages in self._edges(site):
            name = f"{value.name}_switched"
            quantized = self._switched(on, make(value, settings, spec.dtype, f"{name}_on"), value, name)
            for reader, position in usages:
                reader.replace_input_with(position, quantized)
            if self.plan.reaches_all(site) and value.is_graph_output():
                self.emit.replace_output(value, quantized)

    def _edges(self, site: Site) -> Iterator[tuple[ir.Value, list[tuple[ir.Node, int]]]]:
        """The tensors to quantize, each with its readers (node, input) that shall see it so."""
        if self.plan.reaches_all(site):
            value = self.values[site.tensor]
            yield value, [(usage.node, usage.idx) for usage in value.uses()]
            return
        readers: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
        for name in site.feeds:
            readers.setdefault(self.layers[name].source, []).append((self.layers[name].node, 0))
        yield from readers.items()

    def _input(self, name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def _switched(self, on: ir.Value, quantizer: ir.Graph, value: ir.Value, name: str) -> ir.Value:
        """What `quantizer` makes of `value` where `on` holds, else `value`."""
        branch = _Branch(f"{name}_off")
        passage = branch.graph(branch.node("Identity", value))
        attributes = [ir.AttrGraph("then_branch", quantizer), ir.AttrGraph("else_branch", passage)]
        out = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        self.graph.append(ir.Node("", "If", (on,), attributes, outputs=(out,), name=f"{name}_If"))
        return out

    def _integer(self, value: ir.Value, settings: ir.Value, dtype: QType, name: str) -> ir.Graph:
        branch = _Branch(name)
        scale, real = (branch.node("Gather", settings, row) for row in self.rows)
        zero_point = branch.node("Cast", real, to=int(ir.DataType.from_numpy(dtype.storage)))
        codes = branch.node("QuantizeLinear", value, scale, zero_point)
        return branch.graph(branch.node("DequantizeLinear", codes, scale, zero_point))

    def _float(self, value: ir.Value, settings: ir.Value, dtype: QType, name: str) -> ir.Graph:
        """clamp(round_half_even(x/s) + z), back as (q − z)·s; float32 holds every code exactly."""
        branch = _Branch(name)
        scale, zero_point = (branch.node("Gather", settings, row) for row in self.rows)
        codes = branch.node("Add", branch.node("Round", branch.node("Div", value, scale)), zero_point)
        codes = branch.node("Clip", codes, *self._range(dtype))
        return branch.graph(branch.node("Mul", branch.node("Sub", codes, zero_point), scale))

    def _range(self, dtype: QType) -> tuple[ir.Value, ir.Value]:
        """Lowest and highest code, 0-d."""
        if dtype not in self._ends:
            ends = (("qmin", dtype.qmin), ("qmax", dtype.qmax))
            low, high = (self.emit.constant(f"{dtype.name}_{end}", np.asarray(code, np.float32)) for end, code in ends)
            self._ends[dtype] = low, high
        return self._ends[dtype]


class _Branch:
    """One branch of an `If`: nodes that may read the values around it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[ir.Node] = []

    def node(self, operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """One more node; its only output."""
        name = f"{self.name}_{len(self.nodes)}_{operator}"
        node = ir.node(operator, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}_out"
        self.nodes.append(node)
        return node.outputs[0]

    def graph(self, output: ir.Value) -> ir.Graph:
        """All of it, with its float output."""
        output.type = ir.TensorType(ir.DataType.FLOAT)
        return ir.Graph((), (output,), nodes=self.nodes, name=self.name)


def _replace_weights(graph: ir.Graph, plan: QuantPlan, make: NewWeight) -> None:
    """Put what `make` gives in the place of every weight and table that the plan quantizes."""
    layers = {linear.name: linear for linear in linears(graph)}
    for entry in plan.quantized:
        if not entry.site.is_weight:
            continue
        value = graph.initializers[entry.site.tensor]
        transposed = entry.site.role is Role.WEIGHT and layers[entry.site.feeds[0]].transposed
        tensor = value.const_value
        assert tensor is not None
        weight = tensor.numpy()
        made = make(entry, weight.T).T if transposed else make(entry, weight)
        value.const_value = ir.tensor(np.ascontiguousarray(made, np.float32), name=value.name)
