"""Size of a model on disk, by what the bytes hold: weights, embedding tables, scales, the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from qonnx_pipe.core.kernels import INTEGER_OPS
from qonnx_pipe.core.packing import Packing
from qonnx_pipe.core.verdict import SizeParts
from qonnx_pipe.graph import io
from qonnx_pipe.graph.linears import FLOAT_OPS, PLAIN_OPS, stored_codes
from qonnx_pipe.graph.lowerings.packing import packed, unpacked
from qonnx_pipe.graph.walk import consumers

BYTE = 8

UNSAID = 4
"""Bits of MatMulNBits and GatherBlockQuantized without an attribute `bits`."""

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
TABLES = frozenset({"Gather", "GatherBlockQuantized"})
SCALES = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearMatMul": (1, 4, 6),
    "QGemm": (1, 4, 7),
    "MatMulIntegerToFloat": (2, 3),
    "DynamicQuantizeMatMul": (2,),
    "MatMulNBits": (2,),
    "GatherBlockQuantized": (2,),
}
"""Inputs of operators that hold scales."""

ZERO_POINTS = {
    "QuantizeLinear": (2,),
    "DequantizeLinear": (2,),
    "QLinearMatMul": (2, 5, 7),
    "QGemm": (2, 5, 8),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (4, 5),
    "DynamicQuantizeMatMul": (3,),
    "MatMulNBits": (3,),
    "GatherBlockQuantized": (3,),
}
"""Inputs of operators that hold zero points."""

PLAIN_OPERANDS = {"Sub": "zero points", "Mul": "scales", "Div": "scales"}
"""What plain arithmetic makes codes real with (`lowerings.plain`, `lowerings.gather`): its second operand."""


@dataclass(frozen=True)
class Stored:
    """A weight or table as it lies in the file: so many elements of `bits` bits; `kind`: its type or packed bits."""

    kind: str
    bits: int
    elements: int


@dataclass(frozen=True)
class Part:
    """One part of a file: its bytes there, and nominally, elements × bits; None for what has no codes."""

    bytes: int = 0
    nominal_bytes: int | None = None


def breakdown(path: Path) -> dict[str, Part]:
    """The parts of a model and its external data by name; their bytes add up to the files. Errors as in `io.load`.

    weights, embeddings (a tied table too) · scales, zero points · unpacking: what turns packed codes into bytes ·
    constants: biases, norms, … · graph: all that is no initializer.
    """
    graph = io.load(path).graph
    names = ("weights", "embeddings", "scales", "zero points", "unpacking", "constants")
    bytes_of = dict.fromkeys(names, 0)
    nominal = dict.fromkeys(("weights", "embeddings"), 0.0)
    external: set[Path] = set()
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        bytes_of[name := _named(value)] += tensor.nbytes
        if name in nominal:
            nominal[name] += _nominal(value)
        if isinstance(tensor, ir.ExternalTensor):
            external.add(Path(tensor.path))
    total = path.stat().st_size + sum(data.stat().st_size for data in external)
    parts = {name: Part(held, round(nominal[name]) if name in nominal else None) for name, held in bytes_of.items()}
    return {**parts, "graph": Part(total - sum(bytes_of.values()))}


def size_parts(path: Path) -> SizeParts:
    """The same in four parts: `scales` with zero points, `other` with all that is no weight, table or scale."""
    return coarse(breakdown(path))


def coarse(parts: Mapping[str, Part]) -> SizeParts:
    """The four parts of a verdict."""
    held = {name: part.bytes for name, part in parts.items()}
    scales, other = held["scales"] + held["zero points"], held["unpacking"] + held["constants"] + held["graph"]
    return SizeParts(held["weights"], held["embeddings"], scales, other)


def nominal_bytes(parts: Mapping[str, Part]) -> int:
    """Bytes of all weights and tables at their bits, without anything that makes them usable."""
    return sum(part.nominal_bytes or 0 for part in parts.values())


def stored(value: ir.Value) -> Stored | None:
    """A weight or table, the first plane of it where it is packed, or its unpacked codes; None for anything else."""
    codes = unpacked(value)
    found, tensor = packed(codes), codes.const_value
    kept = codes if found is None else found.planes[0]
    if part_of(kept) not in ("weights", "embeddings") or (value is not codes and value is not kept):
        return None
    readers = {node.op_type: node.attributes for node in consumers(codes)}
    if blocks := readers.get("MatMulNBits"):
        bits = blocks.get_int("bits", UNSAID) * (BYTE if found is None else found.bits) // BYTE
        return Stored(f"{bits} bits", bits, blocks["K"].as_int() * blocks["N"].as_int())
    if "GatherBlockQuantized" in readers and tensor is not None and tensor.dtype is ir.DataType.UINT8:
        bits = readers["GatherBlockQuantized"].get_int("bits", UNSAID)
        return Stored(f"{bits} bits", bits, tensor.size * BYTE // bits)
    if found is not None:
        return Stored(f"{found.bits} bits", found.bits, math.prod(codes.shape.numpy() if codes.shape else ()))
    assert tensor is not None
    return Stored(tensor.dtype.name.lower(), tensor.dtype.bitwidth, tensor.size)


def _nominal(value: ir.Value) -> float:
    """Elements × bits of an initializer that is a weight or table, in bytes; 0 for later planes of one."""
    found = stored(value)
    return 0.0 if found is None else found.elements * found.bits / BYTE


def _named(value: ir.Value) -> str:
    part = part_of(value)
    if part == "other":
        return "unpacking" if any(packed(node.outputs[0]) for node in consumers(value)) else "constants"
    return part


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
    """The part of the file that an initializer counts to; "other" for what unpacks codes, and for constants."""
    parts = {_use(usage.node, usage.idx) for usage in unpacked(value).uses()}
    return next((part for part in ("embeddings", "weights", "scales", "zero points") if part in parts), "other")


def _use(node: ir.Node, index: int) -> str:
    """What an initializer is for the node that reads it at input `index`."""
    for part, places in (("scales", SCALES), ("zero points", ZERO_POINTS)):
        if index in places.get(node.op_type, ()):
            return part
    if node.op_type == "Gather" and index == 0 and (part := _beside_codes(node)):
        return part
    if node.op_type in TABLES and index == 0:
        return "other" if packed(node.outputs[0]) else "embeddings"
    if {**FLOAT_OPS, **INTEGER_OPS}.get(node.op_type) == index:
        return "weights"
    return _behind(node, index)


def _beside_codes(node: ir.Node) -> str:
    """What a Gather takes of the rows that another one takes codes of (`lowerings.gather`); "" where none does."""
    value = node.outputs[0]
    readers = consumers(value)
    if readers and readers[0].op_type == "Cast":
        value = readers[0].outputs[0]
        readers = consumers(value)
    if not readers or readers[0].op_type not in PLAIN_OPERANDS or readers[0].inputs[1] is not value:
        return ""
    other = readers[0].inputs[0]
    while (maker := other.producer() if other else None) is not None and maker.op_type in ("Cast", "Sub"):
        other = maker.inputs[0]
    if maker is None or maker.op_type != "Gather" or maker.inputs[1] is not node.inputs[1]:
        return ""
    kind = maker.inputs[0].dtype if maker.inputs[0] else None
    return PLAIN_OPERANDS[readers[0].op_type] if kind is not None and kind.is_integer() else ""


def _behind(node: ir.Node, index: int) -> str:
    """What an initializer is for those that read what `node` makes of it."""
    if packed(node.outputs[0]):
        return "other"
    plain = node.op_type in PLAIN_OPS and stored_codes(node.outputs[0]) is not None
    if plain and index > 0:
        return PLAIN_OPERANDS.get(node.op_type, "other")
    if node.op_type == "Cast" and not plain:
        return part_of(node.outputs[0])
    if plain or node.op_type in QUANTIZERS:
        uses = {_use(usage.node, usage.idx) for usage in node.outputs[0].uses()}
        return next((part for part in ("embeddings", "weights") if part in uses), "other")
    return "other"
