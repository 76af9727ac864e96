"""Embedding tables: Gather of codes, then dequantization of the gathered rows only; short tables once, at load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.graph.lowerings.emit import Emitter

SHORT = 1024
"""Rows at most of a table, of positions or token types, that fits into memory as floats without a thought."""


def lower_table(emit: Emitter, nodes: Sequence[ir.Node], codes: npt.NDArray[np.generic], encoding: Encoding) -> None:
    """Rewrite the Gathers of rows of one float table [rows, d].

    DequantizeLinear → Gather would dequantize the whole table at every run, so:

    1. PerTensor, or asymmetric with one scale a dimension: Gather(codes) → DequantizeLinear (along the last axis).
    2. Symmetric, one scale a dimension: Gather(codes) → Cast → Mul by the scales: about three times as fast as case 1,
       whose kernel works element by element. In a table of at most SHORT rows Cast and Mul come first: onnxruntime
       computes them once, when it loads the file.
    3. One scale a row: Gather(codes) → Cast → Sub of Gather(zero points), where there are any → Mul by Gather(scales).
    4. One scale for each group of a row: as 3, on codes stored as [rows, groups, size]; then Reshape to rows.

    A table that something else reads too (a tied head) stays, in float, for that. Raises ValueError for any other
    encoding.
    """
    name = str(nodes[0].inputs[0].name if nodes[0].inputs[0] else "")
    match encoding.granularity:
        case PerTensor() | PerChannel(1):
            lower = _lower_whole
        case PerChannel(0):
            lower = _lower_rows
        case PerGroup(1, size):
            lower, codes = _lower_rows, codes.reshape(len(codes), -1, size)
        case other:
            raise ValueError(f"{name}: tables are not lowered {other}")
    lower(emit, nodes, emit.constant(f"{name}_codes", codes), encoding)


def _lower_whole(emit: Emitter, nodes: Sequence[ir.Node], table: ir.Value, encoding: Encoding) -> None:
    """Cases 1 and 2: the scales are those of every row."""
    scale = emit.constant(f"{table.name}_scale", encoding.scale)
    if isinstance(encoding.granularity, PerChannel) and not np.any(encoding.zero_point):
        _multiply(emit, nodes, table, scale)
        return
    zero = emit.constant(f"{table.name}_zero_point", encoding.zero_point.astype(encoding.dtype.storage))
    for node in nodes:
        output = node.outputs[0]
        along_last = {"axis": -1 if output.shape is None else len(output.shape) - 1}
        attributes = along_last if isinstance(encoding.granularity, PerChannel) else {}
        inputs = (_rows(emit, node, table), scale, zero)
        emit.replace(node, *emit.node("DequantizeLinear", inputs, f"{node.name}_DequantizeLinear", attributes))


def _multiply(emit: Emitter, nodes: Sequence[ir.Node], table: ir.Value, scale: ir.Value) -> None:
    """Case 2."""
    rows = None if table.shape is None else table.shape[0]
    if isinstance(rows, int) and rows <= SHORT:
        (floats,) = emit.node("Mul", (_cast(emit, nodes[0], table), scale), f"{table.name}_Mul")
        floats.type = scale.type
        for node in nodes:
            node.replace_input_with(0, floats)
        return
    for node in nodes:
        emit.replace(node, *emit.node("Mul", (_cast(emit, node, _rows(emit, node, table)), scale), f"{node.name}_Mul"))


def _lower_rows(emit: Emitter, nodes: Sequence[ir.Node], table: ir.Value, encoding: Encoding) -> None:
    """Cases 3 and 4: each row has scales of its own."""
    scale = emit.constant(f"{table.name}_scale", encoding.scale[..., None])
    zero = None
    if np.any(encoding.zero_point):
        zero = emit.constant(f"{table.name}_zero_point", encoding.zero_point[..., None].astype(encoding.dtype.storage))
    for node in nodes:
        real = _cast(emit, node, _rows(emit, node, table))
        if zero is not None:
            zeros = _cast(emit, node, *emit.node("Gather", (zero, node.inputs[1]), f"{node.name}_zero_points"))
            (real,) = emit.node("Sub", (real, zeros), f"{node.name}_Sub")
        (scales,) = emit.node("Gather", (scale, node.inputs[1]), f"{node.name}_scales")
        (real,) = emit.node("Mul", (real, scales), f"{node.name}_Mul")
        if isinstance(encoding.granularity, PerGroup):
            (real,) = emit.node("Reshape", (real, _row_shape(emit, node)), f"{node.name}_Reshape")
        emit.replace(node, real)


def _rows(emit: Emitter, node: ir.Node, table: ir.Value) -> ir.Value:
    (rows,) = emit.node("Gather", (table, node.inputs[1]), f"{node.name}_codes")
    rows.type = table.type
    return rows


def _cast(emit: Emitter, node: ir.Node, value: ir.Value) -> ir.Value:
    return emit.node("Cast", (value,), f"{node.name}_Cast", {"to": int(ir.DataType.FLOAT)})[0]


def _row_shape(emit: Emitter, node: ir.Node) -> ir.Value:
    """[0, …, 0, −1]: the index's axes as they are, then whole rows."""
    index = node.inputs[1]
    if index is None or index.shape is None:
        raise ValueError(f"{node.name}: the rank of its index is not known")
    return emit.constant(f"{node.name}_rows", np.asarray([0] * len(index.shape) + [-1], np.int64))
