"""Embedding tables: Gather of codes, then dequantization of the gathered rows only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.graph.lowerings.emit import Emitter


def lower_table(emit: Emitter, nodes: Sequence[ir.Node], codes: npt.NDArray[np.generic], encoding: Encoding) -> None:
    """Rewrite the Gathers of rows of one float table [rows, d].

    DequantizeLinear → Gather would dequantize the whole table at every run, so:

    1. PerTensor, or asymmetric with one scale a dimension: Gather(codes) → DequantizeLinear (along the last axis).
    2. Symmetric, one scale a dimension: Gather(codes) → Cast → Mul by the scales: about three times as fast as case 1,
       whose kernel works element by element.
    3. Symmetric, one scale a row: Gather(codes) → Cast → Mul by Gather(scales).

    A table that something else reads too (a tied head) stays, in float, for that. Raises ValueError for any other
    encoding.
    """
    name = str(nodes[0].inputs[0].name if nodes[0].inputs[0] else "")
    per_row = encoding.granularity == PerChannel(0)
    if not (per_row or encoding.granularity == PerChannel(1) or isinstance(encoding.granularity, PerTensor)):
        raise ValueError(f"{name}: tables are not lowered {encoding.granularity}")
    if per_row and np.any(encoding.zero_point):
        raise ValueError(f"{name}: one scale a row needs a symmetric type")
    table = emit.constant(f"{name}_codes", codes)
    scale = emit.constant(f"{name}_scale", encoding.scale[:, None] if per_row else encoding.scale)
    for node in nodes:
        index, output = node.inputs[1], node.outputs[0]
        (rows,) = emit.node("Gather", (table, index), f"{node.name}_codes")
        rows.type, rows.shape = table.type, output.shape
        if isinstance(encoding.granularity, PerTensor) or np.any(encoding.zero_point):
            zero = emit.constant(f"{name}_zero_point", encoding.zero_point.astype(encoding.dtype.storage))
            axis = -1 if output.shape is None else len(output.shape) - 1
            attributes = {} if isinstance(encoding.granularity, PerTensor) else {"axis": axis}
            (result,) = emit.node("DequantizeLinear", (rows, scale, zero), f"{node.name}_DequantizeLinear", attributes)
        else:
            factor = emit.node("Gather", (scale, index), f"{node.name}_scales")[0] if per_row else scale
            (real,) = emit.node("Cast", (rows,), f"{node.name}_Cast", {"to": int(ir.DataType.FLOAT)})
            (result,) = emit.node("Mul", (real, factor), f"{node.name}_Mul")
        emit.replace(node, result)
