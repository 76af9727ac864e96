"""Packed tables: onnxruntime's GatherBlockQuantized reads rows whose codes stay packed while a session runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph.lowerings.blocks import LEAST_BLOCK, dividing_block, is_block, joined
from qonnx_pipe.graph.lowerings.emit import CONTRIB, Emitter

AXES = {"gather_axis": 0, "quantize_axis": 1}
BYTE = 8

_Kind = TypeVar("_Kind", bound=np.generic)

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


def gather_packed(
    emit: Emitter,
    nodes: Sequence[ir.Node],
    codes: npt.NDArray[np.generic],
    encoding: Encoding,
    *,
    heads: Sequence[ir.Node] = (),
    accuracy_level: int = 0,
) -> None:
    """Rewrite the Gathers of rows of one float table [rows, d] without a `packing_obstacle`.

    Codes are stored without sign, [rows, d · bits / 8], the first in the lowest bits; a zero point in the middle is
    left out. A scale a row is that of one block as long as the row, or longer: sizes are powers of two. `heads` are
    the MatMuls by the table's transpose, where it has no `tying_obstacle`: they become MatMulNBits of `accuracy_level`
    on the same codes, whose shape of blocks onnxruntime computes when a session opens.
    """
    name, (rows, width) = str(nodes[0].inputs[0].name if nodes[0].inputs[0] else ""), codes.shape
    bits, low = encoding.dtype.bits, encoding.dtype.qmin
    size = _block(encoding, width, tied=bool(heads))
    stored = emit.constant(f"{name}_codes", joined(codes.astype(np.int8) - np.int8(low), bits))
    blocks = -(-width // size)
    scales, zeros = _by_block(encoding.scale, rows, blocks), _by_block(encoding.zero_point - low, rows, blocks)
    operands = [emit.scales(f"{name}_scale", scales)]
    if (zeros != 1 << (bits - 1)).any():
        operands.append(emit.constant(f"{name}_zero_point", joined(zeros, bits)))
    attributes = {"bits": bits, "block_size": size}
    for node in nodes:
        inputs = (stored, node.inputs[1], *operands)
        made = emit.node("GatherBlockQuantized", inputs, f"{node.name}_{bits}bits", attributes | AXES, domain=CONTRIB)
        emit.replace(node, *made)
    if heads:
        shape = emit.constant(f"{name}_blocks", np.asarray([rows, blocks, size * bits // BYTE], np.int64))
        (weight,) = emit.node("Reshape", (stored, shape), f"{name}_Reshape")
        attributes |= {"K": width, "N": rows, "accuracy_level": accuracy_level}
    for head in heads:
        inputs = (head.inputs[0], weight, *operands)
        made = emit.node("MatMulNBits", inputs, f"{head.name}_nbits", attributes, domain=CONTRIB)
        emit.replace(head, *made)


def _block(encoding: Encoding, width: int, *, tied: bool) -> int:
    """Values of a row that share a scale; `tied` asks for blocks that divide the row."""
    if isinstance(encoding.granularity, PerGroup):
        return encoding.granularity.size
    return dividing_block(width) if tied else max(LEAST_BLOCK, 1 << (width - 1).bit_length())


def _by_block(part: npt.NDArray[_Kind], rows: int, blocks: int) -> npt.NDArray[_Kind]:
    """A scale or zero point for each block of a row, from one for each, or one for the row."""
    return np.ascontiguousarray(np.broadcast_to(part.reshape(rows, -1), (rows, blocks)))
