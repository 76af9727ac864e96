"""NPU: graphs for accelerators that take nothing but integers: one static shape, a quantizer on every tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.npu.form import npu_form
from qonnx_pipe.graph.npu.quantizers import Coded, quantize_everywhere
from qonnx_pipe.graph.npu.ranges import Range, complete
from qonnx_pipe.graph.npu.stream import Stretch, scale, stretches
from qonnx_pipe.graph.walk import is_constant

__all__ = ["Encode", "Range", "Seen", "Written", "quantize_for_npu"]

Encode = Callable[[str, npt.NDArray[np.generic], Affine | None], Coded]
"""Name of a linear layer, its weight [in, out], and what its input went through, if anything → the weight's codes."""

NORM_BITS = 16
"""What a LayerNormalization between scaled tensors reads and writes: all scales meet there."""

LEAST = 1e-3
"""Smallest scale of a dimension, relative to the largest."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What calibration saw of a tensor: the range that its codes shall have, each dimension's own, and its groups.

    `groups`: the group of each dimension where the plan wants groups, else None.
    """

    limits: Range
    low: FloatArray
    high: FloatArray
    groups: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Written:
    """Encodings, and what tensors went through before these hold, by the names that `seen` had."""

    encodings: Mapping[str, Encoding]
    folds: Mapping[str, Affine]


def quantize_for_npu(
    model: ir.Model, shape: tuple[int, int], seen: Mapping[str, Seen], weights: Encode, *, bits: int
) -> Written:
    """Rewrite the float `model` in place: `shape` [batch, sequence], and a quantizer on every tensor.

    `seen` by tensor name; `weights` also hears what the input of a layer went through before. Groups at x, h or y of
    a residual stretch scale its dimensions (`stream`); elsewhere an NPU has one scale a tensor. Raises what `npu_form`
    and `complete` raise.
    """
    form = npu_form(model, shape)
    emit = Emitter(model.graph)
    homes = {form.homes[name]: name for name in seen if name in form.homes}
    at_home = {home: _multiplied(seen[name], form.factors.get(name, 1.0)) for home, name in homes.items()}
    stream = _scaled_stream(emit, at_home)
    known = {value: found.limits for value, found in at_home.items()} | stream.ranges
    folds = dict(stream.folds)
    for value, name in homes.items():
        if (factor := form.factors.get(name, 1.0)) != 1.0:
            folds[value] = Affine.scaling(np.full_like(at_home[value].low, 1 / factor))
    tables = {
        str(node.inputs[0].name): node.outputs[0]
        for node in model.graph
        if node.op_type == "Gather" and node.inputs[0] is not None and is_constant(node.inputs[0])
    }
    model.graph.sort()

    def coded(layer: str, matrix: npt.NDArray[np.generic]) -> Coded:
        return weights(layer, matrix, stream.inputs.get(layer))

    encodings = quantize_everywhere(emit, complete(model.graph, known, bits=bits), coded)
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    io.match_ir_version(model)
    named = {name: home for home, name in homes.items()} | tables
    return Written(
        {name: encodings[value] for name, value in named.items() if value in encodings},
        {homes[value]: fold for value, fold in folds.items()},
    )


def _multiplied(found: Seen, factor: float) -> Seen:
    limits = replace(found.limits, low=found.limits.low * factor, high=found.limits.high * factor)
    return replace(found, limits=limits, low=found.low * factor, high=found.high * factor)


@dataclass(frozen=True, eq=False)
class _Stream:
    """The residual stream with its dimensions scaled: ranges, what tensors and what inputs of layers went through."""

    ranges: dict[ir.Value, Range]
    folds: dict[ir.Value, Affine]
    inputs: dict[str, Affine]


def _scaled_stream(emit: Emitter, seen: Mapping[ir.Value, Seen]) -> _Stream:
    """Scale every stretch that has groups at x, h or y."""
    done = _Stream({}, {}, {})
    for stretch in list(stretches(emit.graph)):
        around = [seen[value] for value in stretch.tensors if value in seen]
        if len(around) < len(stretch.tensors) or all(found.groups is None for found in around):
            continue
        affines, ranges, own = _scaled(emit, stretch, *around)
        done.ranges.update(ranges)
        done.folds.update(zip(stretch.tensors, affines, strict=True))
        done.inputs.update({str(reader.name): own for reader in stretch.readers})
        if (last := stretch.after.outputs[0]) in seen:
            done.ranges.setdefault(last, replace(seen[last].limits, bits=NORM_BITS))
    return done


def _scaled(
    emit: Emitter, stretch: Stretch, x: Seen, h: Seen, y: Seen
) -> tuple[tuple[Affine, Affine, Affine], dict[ir.Value, Range], Affine]:
    """Scale a stretch; the affines of x, h and y, the ranges of all its tensors, the affine of the layers' input.

    The dimensions of the stream have the scales that y needs, and x and h, which it is the sum of, never finer ones;
    the linear layers get x in scales of its own.
    """
    own, sums = _filling(x), _filling(y)
    stream, branch = Affine(sums.scale, own.shift), Affine(sums.scale, sums.shift - own.shift)
    made = scale(emit, stretch, stream, sums.shift, own.scale if x.groups is not None else None)
    ranges = {
        made.x: _limits(stream, x, NORM_BITS),
        made.h: _limits(branch, h, h.limits.bits),
        made.y: _limits(sums, y, y.limits.bits),
        made.steps[0]: _limits(Affine.shifting(sums.shift), y, NORM_BITS),
        made.steps[1]: _limits(Affine.shifting(np.zeros_like(sums.shift)), y, NORM_BITS),
    }
    if made.matmul is not None:
        ranges[made.matmul] = _limits(own, x, NORM_BITS)
    return (stream, branch, sums), ranges, stream if made.matmul is None else own


def _filling(found: Seen) -> Affine:
    """The affine behind which every group of dimensions fills the same range around 0; nothing without groups."""
    if found.groups is None:
        return Affine.scaling(np.ones_like(found.low))
    of = np.asarray(found.groups)
    low = np.asarray([found.low[of == group].min() for group in of], np.float32)
    high = np.asarray([found.high[of == group].max() for group in of], np.float32)
    return Affine(_bounded(high - low), np.asarray((low + high) / 2, np.float32))


def _bounded(scales: FloatArray) -> FloatArray:
    bounded = np.maximum(scales, LEAST * scales.max())
    return np.asarray(bounded / np.median(bounded), np.float32)


def _limits(affine: Affine, found: Seen, bits: int) -> Range:
    """The range of all dimensions behind an affine."""
    low, high = affine(found.low.astype(np.float32)), affine(found.high.astype(np.float32))
    return Range(float(low.min()), float(high.max()), bits)
