"""Packed tables: onnxruntime's GatherBlockQuantized reads rows whose codes stay packed while a session runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import Granularity, PerChannel, PerGroup
from qonnx_pipe.core.qtype import QType
from qonnx_pipe.graph.lowerings.blocks import LEAST_BLOCK, is_block, joined
from qonnx_pipe.graph.lowerings.emit import CONTRIB, Emitter

GATHERED = (2, 4)
"""Bits that the operator gathers and that lie packed; with 8 there is nothing to save."""


def stays_packed(dtype: QType, granularity: Granularity, width: int) -> bool:
    """Whether rows of `width` codes can be gathered packed: scales of a row or of its blocks, and no split bytes."""
    if dtype.bits not in GATHERED or width * dtype.bits % 8:
        return False
    return granularity == PerChannel(0) or (
        isinstance(granularity, PerGroup) and granularity.axis == 1 and is_block(granularity.size)
    )


def gather_packed(emit: Emitter, nodes: Sequence[ir.Node], codes: npt.NDArray[np.generic], encoding: Encoding) -> None:
    """Rewrite the Gathers of rows of one float table [rows, d] that `stays_packed`.

    Codes are stored without sign, [rows, d · bits / 8], the first in the lowest bits; a zero point in the middle is
    left out. A scale a row is that of one block as long as the row, or longer: sizes are powers of two.
    """
    name, bits = str(nodes[0].inputs[0].name if nodes[0].inputs[0] else ""), encoding.dtype.bits
    rows, width = codes.shape
    middle = 1 << (bits - 1)
    move = np.uint8(middle if encoding.dtype.signed else 0)
    stored = emit.constant(f"{name}_codes", joined(codes.astype(np.uint8) + move, bits))
    scale = emit.scales(f"{name}_scale", encoding.scale.reshape(rows, -1))
    zeros, zero = (encoding.zero_point + move).reshape(rows, -1), None
    if (zeros != middle).any():
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
