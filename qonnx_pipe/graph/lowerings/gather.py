"""Embedding tables: Gather of codes, then dequantization of the gathered rows only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.graph.lowerings.emit import Emitter


def lower_table(emit: Emitter, node: ir.Node, codes: npt.NDArray[np.generic], encoding: Encoding) -> None:
    """Rewrite a Gather of rows of a float table [rows, d]; DQ → Gather would dequantize the whole table at every run.

    1. PerTensor, PerChannel(1), one scale a dimension: Gather(codes) → DequantizeLinear along the last axis.
    2. PerChannel(0), one scale a row: Gather(codes) → Cast → Mul by Gather(scales); symmetric only.
    """
    name, index, output = str(node.inputs[0].name if node.inputs[0] else ""), node.inputs[1], node.outputs[0]
    if index is None:
        raise ValueError(f"{node.name}: a Gather without indices")
    table = emit.constant(f"{name}_codes", codes)
    (rows,) = emit.node("Gather", (table, index), f"{node.name}_codes", {"axis": 0})
    rows.type, rows.shape = table.type, output.shape
    if encoding.granularity == PerChannel(0):
        real = _scale_rows(emit, name, rows, index, encoding)
    else:
        real = _dequantize_rows(emit, name, rows, encoding, output)
    emit.replace(node, real)


def _dequantize_rows(emit: Emitter, name: str, rows: ir.Value, encoding: Encoding, output: ir.Value) -> ir.Value:
    attributes: dict[str, int] = {}
    if encoding.granularity == PerChannel(1):
        attributes["axis"] = -1 if output.shape is None else len(output.shape) - 1
    elif not isinstance(encoding.granularity, PerTensor):
        raise ValueError(f"{name}: tables are not lowered {encoding.granularity}")
    scale = emit.constant(f"{name}_scale", encoding.scale)
    zero = emit.constant(f"{name}_zero_point", encoding.zero_point.astype(encoding.dtype.storage))
    return emit.node("DequantizeLinear", (rows, scale, zero), f"{name}_DequantizeLinear", attributes)[0]


def _scale_rows(emit: Emitter, name: str, rows: ir.Value, index: ir.Value, encoding: Encoding) -> ir.Value:
    if np.any(encoding.zero_point):
        raise ValueError(f"{name}: one scale a row needs a symmetric type")
    scales = emit.constant(f"{name}_scale", encoding.scale[:, None])
    (real,) = emit.node("Cast", (rows,), f"{name}_Cast", {"to": int(ir.DataType.FLOAT)})
    (factor,) = emit.node("Gather", (scales, index), f"{name}_scale_rows", {"axis": 0})
    return emit.node("Mul", (real, factor), f"{name}_Mul")[0]
