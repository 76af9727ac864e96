"""Size of a model on disk, by what the bytes hold: weights, embedding tables, scales, the rest."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from qonnx_pipe.core.kernels import INTEGER_OPS
from qonnx_pipe.core.packing import Packing
from qonnx_pipe.core.verdict import SizeParts
from qonnx_pipe.graph import io
from qonnx_pipe.graph.linears import FLOAT_OPS, PLAIN_OPS, stored_codes
from qonnx_pipe.graph.lowerings.packing import packed, unpacked

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
TABLES = frozenset({"Gather", "GatherBlockQuantized"})
INTEGER_SCALES = {
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulNBits": (2, 3),
    "GatherBlockQuantized": (2, 3),
}
"""Inputs of integer operators that hold scales and zero points."""


def size_parts(path: Path) -> SizeParts:
    """Bytes of a model and its external data by part; the parts add up to the files. Errors as in `io.load`.

    A table that is also a weight (tied) counts as an embedding. `other` is biases, norms, small constants and the
    graph itself.
    """
    graph = io.load(path).graph
    bytes_of = {"weights": 0, "embeddings": 0, "scales": 0, "other": 0}
    external: set[Path] = set()
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            bytes_of[part_of(value)] += tensor.nbytes
        if isinstance(tensor, ir.ExternalTensor):
            external.add(Path(tensor.path))
    total = path.stat().st_size + sum(data.stat().st_size for data in external)
    named = bytes_of["weights"] + bytes_of["embeddings"] + bytes_of["scales"]
    return SizeParts(bytes_of["weights"], bytes_of["embeddings"], bytes_of["scales"], total - named)


def low_bit_bytes(path: Path) -> int:
    """Bytes of the files, were the codes of every weight and table packed into as few bits as they need.

    8-bit codes within −8 … 7 need 4 bits; what `pack_codes` packed counts as it is. Errors as in `io.load`.
    """
    saved = 0
    for value in io.load(path).graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in BYTES or unpacked(value) is not value:
            continue
        if part_of(value) in ("weights", "embeddings"):
            packing = Packing.of(tensor.numpy())
            saved += tensor.size * (8 - packing.bits) // 8 if packing else 0
    return size_parts(path).total - saved


def part_of(value: ir.Value) -> str:
    """The part of the file that an initializer counts to, a field of SizeParts."""
    parts = {_use(usage.node, usage.idx) for usage in unpacked(value).uses()}
    return next((part for part in ("embeddings", "weights", "scales") if part in parts), "other")


def _use(node: ir.Node, index: int) -> str:
    """What an initializer is for the node that reads it at input `index`."""
    if (node.op_type in QUANTIZERS and index > 0) or index in INTEGER_SCALES.get(node.op_type, ()):
        return "scales"
    if node.op_type in TABLES and index == 0:
        return "other" if packed(node.outputs[0]) else "embeddings"
    if {**FLOAT_OPS, **INTEGER_OPS}.get(node.op_type) == index:
        return "weights"
    return _behind(node, index)


def _behind(node: ir.Node, index: int) -> str:
    """What an initializer is for those that read what `node` makes of it."""
    if packed(node.outputs[0]):
        return "other"
    plain = node.op_type in PLAIN_OPS and stored_codes(node.outputs[0]) is not None
    if plain and index > 0:
        return "scales"
    if node.op_type == "Cast" and not plain:
        return part_of(node.outputs[0])
    if plain or node.op_type in QUANTIZERS:
        uses = {_use(usage.node, usage.idx) for usage in node.outputs[0].uses()}
        return next((part for part in ("embeddings", "weights") if part in uses), "other")
    return "other"
