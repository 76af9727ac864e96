"""Smooth: ranges of dimensions evened out between a LayerNormalization and the linear layers that read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.site import Site
from qonnx_pipe.graph.constants import constant
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import Linear, linears


@dataclass(frozen=True, eq=False)
class Smoothing:
    """What is wanted at a site: α in (0, 1], and the largest magnitude of each of its dimensions, shape (d,)."""

    site: Site
    alpha: float
    magnitude: FloatArray


def smooth(model: ir.Model, wishes: list[Smoothing]) -> dict[str, FloatArray]:
    """Divide each site's dimensions by scales, in place, without changing what the model computes; the scales by site.

    SmoothQuant (Xiao et al. 2022, eq. 4): s_j = max|X_j|^α / max|W_j|^(1−α), W_j being all weights that read dimension
    j. The LayerNormalization's gain and bias are divided by s, the rows of the weights multiplied; every other reader
    (the residual branch, a graph output) gets the tensor multiplied by s again.
    Requires sites without `obstacle`. New initializers are made: the old ones may be shared.
    """
    layers = {linear.name: linear for linear in linears(model.graph)}
    emit = Emitter(model.graph)
    scales = {}
    for wish in wishes:
        readers = [layers[name] for name in wish.site.feeds]
        scales[wish.site.id] = scale = _scale(wish, readers)
        _rescale(emit, readers, scale)
    model.graph.sort()
    return scales


def obstacle(model: ir.Model, site: Site) -> str:
    """Why a site cannot be smoothed; "" when it can."""
    layers = {linear.name: linear for linear in linears(model.graph)}
    readers = [layers[name] for name in site.feeds]
    if not readers:
        return "no weight MatMul reads it"
    value = readers[0].source
    node = value.producer()
    if node is None or node.op_type != "LayerNormalization" or value.name != site.tensor:
        return "it is not the output of a LayerNormalization"
    if any(reader.source is not value for reader in readers):
        return "a weight MatMul reads it behind data movement"
    if any(constant(operand) is None for operand in node.inputs[1:] if operand is not None):
        return "its LayerNormalization has a gain or bias that is no constant"
    mine = {reader.node for reader in readers}
    if any(usage.node not in mine for reader in readers for usage in reader.weight.uses()):
        return "another layer shares its weights"
    return ""


def _scale(wish: Smoothing, readers: list[Linear]) -> FloatArray:
    """s_j, shape (d,); 1 for a dimension that is always zero or that no weight reads."""
    rows = [np.abs(_matrix(reader)).max(axis=1) for reader in readers]
    weight = np.max(rows, axis=0)
    used = (wish.magnitude > 0) & (weight > 0)
    scale = np.ones(len(weight), np.float64)
    scale[used] = wish.magnitude[used] ** wish.alpha / weight[used] ** (1.0 - wish.alpha)
    return scale.astype(np.float32)


def _rescale(emit: Emitter, readers: list[Linear], scale: FloatArray) -> None:
    value = readers[0].source
    node = value.producer()
    assert node is not None
    name = str(value.name)
    for index in range(1, len(node.inputs)):
        if node.inputs[index] is not None:
            divided = (_floats(node.inputs[index]) / scale).astype(np.float32)
            node.replace_input_with(index, emit.constant(f"{name}_affine{index}", divided))
    mine = {reader.node for reader in readers}
    others = [usage for usage in value.uses() if usage.node not in mine]
    if others or value.is_graph_output():
        (restored,) = emit.node("Mul", (value, emit.constant(f"{name}_smoothing", scale)), f"{name}_restored")
        restored.type, restored.shape = value.type, value.shape
        for usage in others:
            usage.node.replace_input_with(usage.idx, restored)
        if value.is_graph_output():
            emit.replace_output(value, restored)
    for reader in readers:
        rows = scale[None, :] if reader.transposed else scale[:, None]
        multiplied = (_floats(reader.weight) * rows).astype(np.float32)
        smoothed = emit.constant(f"{reader.weight.name}_smoothed", multiplied)
        reader.node.replace_input_with(1, smoothed)
        emit.release(reader.weight)


def _matrix(linear: Linear) -> FloatArray:
    """The weight as [in, out]."""
    array = _floats(linear.weight)
    return array.T if linear.transposed else array


def _floats(value: ir.Value | None) -> FloatArray:
    array = constant(value)
    assert array is not None
    return array.astype(np.float32, copy=False)
