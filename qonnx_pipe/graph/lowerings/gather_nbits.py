"""Packed tables: onnxruntime's GatherBlockQuantized reads rows whose codes stay packed while a session runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph.lowerings.blocks import LEAST_BLOCK, is_block, joined
from qonnx_pipe.graph.lowerings.emit import CONTRIB, Emitter

GATHERED = (2, 4)
"""Bits that the operator gathers and that lie packed; with 8 there is nothing to save. 2 needs onnxruntime 1.27."""


def packing_obstacle(spec: QuantSpec, width: int) -> str:
    """Why rows of `width` codes cannot be gathered packed; "" when they can.

    Rows are whole bytes, with a scale a row or a block of it. For zero points of 4 bits the number of blocks is even:
    onnxruntime before 1.27 would take others from the wrong place. (INT4 has no such trouble, and takes 35 times as
    long.)
    """
    bits = spec.dtype.bits
    if bits not in GATHERED:
        return f"GatherBlockQuantized gathers codes of {' or '.join(map(str, GATHERED))} bits, not {bits}"
    match spec.granularity:
        case PerChannel(0):
            blocks = 1
        case PerGroup(1, size) if is_block(size):
            blocks = -(-width // size)
        case other:
            takes = f"per_row or {{per_group: N}}, N a power of two from {LEAST_BLOCK}"
            return f"GatherBlockQuantized takes {takes}, not {other}"
    if width * bits % 8:
        return f"rows of {width} codes of {bits} bits are no whole bytes"
    if spec.symmetric or bits == 2 or blocks % 2 == 0:
        return ""
    return f"without symmetric: true, {bits} bits want an even number of blocks a row, not {blocks}"


def gather_packed(emit: Emitter, nodes: Sequence[ir.Node], codes: npt.NDArray[np.generic], encoding: Encoding) -> None:
    """Rewrite the Gathers of rows of one float table [rows, d] without a `packing_obstacle`.

    Codes are stored without sign, [rows, d · bits / 8], the first in the lowest bits; a zero point in the middle is
    left out. A scale a row is that of one block as long as the row, or longer: sizes are powers of two.
    """
    name, (rows, width) = str(nodes[0].inputs[0].name if nodes[0].inputs[0] else ""), codes.shape
    bits, low = encoding.dtype.bits, encoding.dtype.qmin
    stored = emit.constant(f"{name}_codes", joined(codes.astype(np.int8) - np.int8(low), bits))
    scale = emit.scales(f"{name}_scale", encoding.scale.reshape(rows, -1))
    zeros, zero = (encoding.zero_point - low).reshape(rows, -1), None
    if (zeros != 1 << (bits - 1)).any():
        zero = emit.constant(f"{name}_zero_point", joined(zeros, bits))
    match encoding.granularity:
        case PerGroup(1, size):
            pass
        case _:
            size = max(LEAST_BLOCK, 1 << (width - 1).bit_length())
    attributes = {"bits": bits, "block_size": size, "gather_axis": 0, "quantize_axis": 1}
    for node in nodes:
        inputs = (stored, node.inputs[1], scale, *((zero,) if zero else ()))
        made = emit.node("GatherBlockQuantized", inputs, f"{node.name}_{bits}bits", attributes, domain=CONTRIB)
        emit.replace(node, *made)
