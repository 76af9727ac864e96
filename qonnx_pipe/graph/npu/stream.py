"""Stream: the residual stream of an encoder between two LayerNormalizations, in scaled dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.graph.constants import constant
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import consumers, through_moves


@dataclass(frozen=True, eq=False)
class Stretch:
    """x = LayerNormalization(…), h = Gemm(…), y = x + h, LayerNormalization(y): x also enters `readers` as rows.

    `branch` makes h. `rows` is the Reshape of x that its linear layers read.
    """

    norm: ir.Node
    branch: ir.Node
    total: ir.Node
    after: ir.Node
    rows: ir.Node
    readers: tuple[ir.Node, ...]

    @property
    def tensors(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """x, h and y."""
        return self.norm.outputs[0], self.branch.outputs[0], self.total.outputs[0]


def stretches(graph: ir.Graph) -> Iterator[Stretch]:
    """Every stretch of the stream, in graph order; one whose x something else reads, or that is an output, is none."""
    for norm in [node for node in graph if node.op_type == "LayerNormalization"]:
        x = norm.outputs[0]
        total = next((node for node in consumers(x) if node.op_type == "Add"), None)
        rows = next((node for node in consumers(x) if node.op_type == "Reshape"), None)
        if total is None or rows is None or len(x.uses()) != 2 or x.is_graph_output():
            continue
        other = total.inputs[1 if total.inputs[0] is x else 0]
        branch = None if other is None else through_moves(other).producer()
        after = consumers(total.outputs[0])
        if branch is None or branch.op_type != "Gemm" or [node.op_type for node in after] != ["LayerNormalization"]:
            continue
        if total.outputs[0].is_graph_output() or any(node.op_type != "Gemm" for node in consumers(rows.outputs[0])):
            continue
        yield Stretch(norm, branch, total, after[0], rows, consumers(rows.outputs[0]))


@dataclass(frozen=True, eq=False)
class Scaled:
    """The tensors of a stretch that was scaled.

    `matmul`: x as the linear layers read it, where it is another than the sum reads, else None.
    `steps`: y on its way back to its own units.
    """

    x: ir.Value
    h: ir.Value
    y: ir.Value
    steps: tuple[ir.Value, ...]
    matmul: ir.Value | None


def scale(emit: Emitter, stretch: Stretch, stream: Affine, middle: FloatArray, matmul: FloatArray | None) -> Scaled:
    """Let x, h and y hold (x − z)/s, (h − m + z)/s and (y − m)/s: s, z of `stream`, m `middle`, all of shape (d,).

    Scales of the dimensions make one scale for the tensor a scale a dimension: per-embedding quantization (Bondarenko
    et al. 2021, §4) of all three without slices, in operators that every NPU has.

    1. The LayerNormalization gives (x − z)/s by its gain and bias.
    2. h comes scaled and moved by the columns and the bias of its Gemm.
    3. In front of the next LayerNormalization y gets back its units: Mul by s, Add of m.
    4. The linear layers read (x − z)/`matmul`, behind a Mul, unless it is None; their rows and bias take it in.
    """
    norm, branch, y = stretch.norm, stretch.branch, stretch.total.outputs[0]
    _replace(emit, norm, 1, _array(norm, 1) / stream.scale)
    _replace(emit, norm, 2, (_bias(norm) - stream.shift) / stream.scale)
    _replace(emit, branch, 1, _array(branch, 1) / stream.scale)
    _replace(emit, branch, 2, (_bias(branch) - middle + stream.shift) / stream.scale)
    product = _elementwise(emit, "Mul", y, stream.scale)
    steps = (product, _elementwise(emit, "Add", product, middle))
    stretch.after.replace_input_with(0, steps[-1])
    x = norm.outputs[0]
    moved = None
    if matmul is not None:
        moved = _elementwise(emit, "Mul", x, stream.scale / matmul)
        stretch.rows.replace_input_with(0, moved)
    for reader in stretch.readers:
        weight = _array(reader, 1)
        rows = stream.scale if matmul is None else matmul
        _replace(emit, reader, 1, weight * rows[:, None])
        _replace(emit, reader, 2, _bias(reader) + stream.shift @ weight)
    return Scaled(x, branch.outputs[0], y, steps, moved)


def _elementwise(emit: Emitter, operator: str, value: ir.Value, operand: FloatArray) -> ir.Value:
    """An operator along the last axis."""
    name = f"{value.name}_{operator}"
    (result,) = emit.node(operator, (value, emit.constant(f"{name}_by", operand.astype(np.float32))), name)
    result.type, result.shape = value.type, value.shape
    return result


def _bias(node: ir.Node) -> FloatArray:
    """Of a Gemm or LayerNormalization; zeros where it has none."""
    has_one = len(node.inputs) > 2 and node.inputs[2] is not None
    return _array(node, 2) if has_one else np.zeros(_array(node, 1).shape[-1], np.float32)


def _array(node: ir.Node, index: int) -> FloatArray:
    return np.asarray(constant(node.inputs[index]), np.float32)


def _replace(emit: Emitter, node: ir.Node, index: int, array: FloatArray) -> None:
    fresh = emit.constant(f"{node.name}_{index}_scaled", array.astype(np.float32))
    if index < len(node.inputs):
        node.replace_input_with(index, fresh)
    else:
        node.resize_inputs(index + 1)
        node.replace_input_with(index, fresh)
