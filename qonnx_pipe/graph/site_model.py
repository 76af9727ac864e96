"""Site model: one activation with what makes it and what reads it, alone in a file, so that its form can be timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.core.numerics import quantize as codes_of
from qonnx_pipe.core.plan import Lowering, PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph.fold import fold
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.graph.walk import linears, readers

Maker = Literal["norm", "activation", "other"]
OPSET = 21
BATCH = 8
"""Sequences in a timed run; `tokens` are shared out among them."""

INT8 = QuantSpec(QTYPES["int8"], PerChannel(1), symmetric=True)
PLAIN = Encoding(QTYPES["uint8"], PerTensor(), np.asarray(0.04, np.float32), np.asarray(128, np.int32))


@dataclass(frozen=True)
class Surroundings:
    """What decides the time of an activation's form.

    `maker`: a LayerNormalization (whose output a residual sum reads too), a linear layer of `inner` inputs with GELU,
    or anything else. `outs`: output features of the linear layers that read it.
    """

    maker: Maker
    width: int
    outs: tuple[int, ...]
    inner: int = 0


def surroundings(model: ir.Model, site: Site) -> Surroundings:
    """Those of a site that linear layers read."""
    layers = {linear.name: linear for linear in linears(model.graph)}
    shapes = [layers[name].shape for name in site.feeds]
    outs = tuple(columns for _, columns in shapes)
    source = layers[site.feeds[0]].source
    node = source.producer()
    if node is not None and node.op_type == "LayerNormalization":
        return Surroundings("norm", shapes[0][0], outs)
    for layer in layers.values():
        path = readers(layer.output, frozenset({"Gelu", "Relu", "Erf", "Mul", "Div", "Add"}))
        if layer.output is not source and node is not None and node in path and node.op_type != "MatMul":
            return Surroundings("activation", shapes[0][0], outs, layer.shape[0])
    return Surroundings("other", shapes[0][0], outs)


def site_model(around: Surroundings, form: Lowering, encoding: Encoding | None, affine: Affine | None = None) -> bytes:
    """An ONNX file of the surroundings with their activation lowered in `form`, weights int8 per channel.

    `encoding` None leaves the activation float. `affine` is folded behind a norm; elsewhere a fold changes constants
    alone. The input is called "x", float32 of shape [BATCH, tokens / BATCH, features]; weights are random, as they
    decide no time.
    """
    model = _float_model(around)
    feeds = tuple(f"read{index}" for index in range(len(around.outs)))
    site = Site("site", Role.LINEAR_INPUT, None, "site", around.width, feeds)
    if affine is not None and around.maker == "norm":
        fold(model, {site: affine})
    spec = None if encoding is None else QuantSpec(encoding.dtype, PerTensor(), symmetric=False)
    entries = [PlanEntry(site, spec, form, "cost")]
    for linear in linears(model.graph):
        weight = Site(linear.name, Role.WEIGHT, None, str(linear.weight.name), linear.shape[1], (linear.name,))
        entries.append(PlanEntry(weight, INT8, "integer", "cost"))
    if around.maker == "activation":
        before = Site("before", Role.LINEAR_INPUT, None, "x", around.inner, ("make",))
        entries.append(PlanEntry(before, INT8, "qdq", "cost"))
    encodings = {"before": PLAIN} | ({} if encoding is None else {"site": encoding})
    quantize(model, QuantPlan("cpu", "matmul_inputs", tuple(entries)), encodings, _weight)
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def site_input(around: Surroundings, tokens: int) -> npt.NDArray[np.float32]:
    """Values for "x"."""
    features = around.inner or around.width
    shape = (BATCH, max(1, tokens // BATCH), features)
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def _weight(entry: PlanEntry, weight: npt.NDArray[np.generic]) -> tuple[Encoding, npt.NDArray[np.generic]]:
    del entry
    columns = weight.shape[1]
    scale = np.full(columns, np.abs(weight).max() / 127, np.float32)
    encoding = Encoding(INT8.dtype, PerChannel(1), scale, np.zeros(columns, np.int32))
    return encoding, codes_of(weight.astype(np.float32), encoding)


class _Builder:
    """Nodes and initializers of the float model, by name."""

    def __init__(self, features: int) -> None:
        shape = ir.Shape(["batch", "sequence", features])
        self.x = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._rng = np.random.default_rng(0)

    def constant(self, name: str, *shape: int) -> ir.Value:
        values = self._rng.normal(0, 0.05, shape).astype(np.float32)
        value = ir.Value(
            name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor(values)
        )
        self.initializers.append(value)
        return value

    def node(self, op_type: str, *inputs: ir.Value, name: str, output: str, width: int) -> ir.Value:
        shape = ir.Shape(["batch", "sequence", width])
        value = ir.Value(name=output, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
        self.nodes.append(ir.node(op_type, inputs, outputs=[value], name=name))
        return value

    def linear(self, source: ir.Value, name: str, rows: int, columns: int) -> ir.Value:
        weight, bias = self.constant(f"{name}_weight", rows, columns), self.constant(f"{name}_bias", columns)
        product = self.node("MatMul", source, weight, name=name, output=f"{name}_product", width=columns)
        return self.node("Add", product, bias, name=f"{name}_Add", output=f"{name}_out", width=columns)


def _float_model(around: Surroundings) -> ir.Model:
    build = _Builder(around.inner or around.width)
    site, outputs = build.x, []
    if around.maker == "norm":
        gain, bias = build.constant("gain", around.width), build.constant("bias", around.width)
        site = build.node("LayerNormalization", build.x, gain, bias, name="norm", output="site", width=around.width)
        outputs.append(build.node("Add", site, build.x, name="residual", output="residual_sum", width=around.width))
    elif around.maker == "activation":
        made = build.linear(build.x, "make", around.inner, around.width)
        site = build.node("Gelu", made, name="gelu", output="site", width=around.width)
    else:
        site = build.node("Neg", build.x, name="other", output="site", width=around.width)
    outputs += [build.linear(site, f"read{index}", around.width, out) for index, out in enumerate(around.outs)]
    graph = ir.Graph(
        [build.x], outputs, nodes=build.nodes, initializers=build.initializers, opset_imports={"": OPSET}, name="site"
    )
    return ir.Model(graph, ir_version=10)
