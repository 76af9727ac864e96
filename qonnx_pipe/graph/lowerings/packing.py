"""Packing: codes that need fewer than 8 bits lie as planes of bytes in the file, unpacked when a session opens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.packing import Packing
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph.constants import Constant, constant
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import consumers

CODES: Mapping[str, int] = {"MatMulIntegerToFloat": 1, "DequantizeLinear": 0, "Cast": 0, "Gather": 0}
"""Operators that the lowerings give codes to, and at which input."""

ROWS = 256
"""A table has one for every byte."""

STANDARD: Mapping[int, tuple[int, str]] = {2: (25, "INT2"), 4: (21, "INT4")}
"""Bits that the standard has types for: the first opset, and the type's name."""

JOINED = 18
"""The first opset with BitwiseOr."""


@dataclass(frozen=True)
class Packed:
    """Initializers that hold some codes, the bits of a code in all of them, and the type that the codes unpack to."""

    planes: tuple[ir.Value, ...]
    bits: int
    dtype: ir.DataType


def pack_codes(emit: Emitter) -> None:
    """Store each matrix of 8-bit codes in as few bits as its codes need (`core.packing`).

    1. 2 and 4 bits, where the model's opset has such a type: Cast of it.
    2. Others: each plane as Cast to int32 → Gather of the rows of a table, which hold what each byte adds to its codes;
       BitwiseOr of two planes; Reshape.

    onnxruntime computes this once, when it opens a session: its kernels see the initializer that stood there before,
    under the same name. Raises ModelError where two planes need an operator that the model's opset lacks.
    """
    unpacker = Unpacker(emit)
    for value in list(emit.graph.initializers.values()):
        codes = constant(value)
        if codes is None or codes.dtype not in (np.int8, np.uint8) or codes.ndim < 2 or value.is_graph_output():
            continue
        if _holds_codes(value) and (packing := Packing.of(codes)):
            unpacker.replace(value, codes, packing)


def _holds_codes(value: ir.Value) -> bool:
    """Whether only what takes codes reads a value, and it is no plane or table of what was packed before."""
    uses = [(usage.node, usage.idx) for usage in value.uses()]
    tables = [node for node, _ in uses if node.op_type == "Gather" and packed(node.outputs[0])]
    return not tables and unpacked(value) is value and all(CODES.get(node.op_type) == index for node, index in uses)


def packed(value: ir.Value | None) -> Packed | None:
    """The planes that `value` is unpacked from, as `pack_codes` writes it, or None."""
    node = None if value is None else value.producer()
    if node is None:
        return None
    match node.op_type:
        case "Cast":
            return _of_type(node)
        case "Gather":
            return _plane(node)
        case "Reshape" | "Slice":
            return packed(node.inputs[0])
        case "BitwiseOr":
            high, low = (packed(operand) for operand in node.inputs)
            return Packed(high.planes + low.planes, high.bits + low.bits, high.dtype) if high and low else None
    return None


def _of_type(cast: ir.Node) -> Packed | None:
    """Case 1."""
    stored, bits = cast.inputs[0], {f"{sign}{name}": bits for bits, (_, name) in STANDARD.items() for sign in ("", "U")}
    if stored is None or constant(stored) is None or stored.dtype is None or stored.dtype.name not in bits:
        return None
    return Packed((stored,), bits[stored.dtype.name], ir.DataType(cast.attributes["to"].as_int()))


def _plane(node: ir.Node) -> Packed | None:
    """One plane of case 2, where `node` looks its bytes up in a table."""
    index, table = node.inputs[1], constant(node.inputs[0])
    cast = None if index is None else index.producer()
    stored = None if cast is None or cast.op_type != "Cast" else cast.inputs[0]
    if stored is None or constant(stored) is None or table is None or table.ndim < 2 or len(table) != ROWS:
        return None
    return Packed((stored,), 8 * ROWS // table.size, ir.DataType.from_numpy(table.dtype))


def unpacked(plane: ir.Value) -> ir.Value:
    """The codes that a plane is a part of; `plane` itself where it is none."""
    casts = consumers(plane)
    if len(casts) != 1 or casts[0].op_type != "Cast":
        return plane
    value = casts[0].outputs[0]
    while len(readers := consumers(value)) == 1 and packed(readers[0].outputs[0]):
        value = readers[0].outputs[0]
    return value if packed(value) else plane


class Unpacker:
    """Emits the operators that unpack; what several weights need is emitted once."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._opset = emit.graph.opset_imports[""]
        self._constants: dict[tuple[str, bytes], ir.Value] = {}

    def replace(self, value: ir.Value, codes: Constant, packing: Packing) -> None:
        """Let unpacked planes stand for an initializer, under its name."""
        first, kind = STANDARD.get(packing.bits, (math.inf, ""))
        if self._opset >= first:
            dtype = ir.DataType[kind if packing.signed else f"U{kind}"]
            stored = self._emit.constant(f"{value.name}_{packing.bits}bits", codes.astype(dtype.numpy()))
            found = self._cast(stored, ir.DataType.from_numpy(codes.dtype))
        else:
            tables = packing.tables(codes.dtype)
            found = self.looked_up(f"{value.name}_plane", packing.pack(codes), tables, codes.shape)
        found.type, found.shape = value.type, value.shape
        value.replace_all_uses_with(found)
        name = value.name
        self._emit.release(value)
        found.name = name

    def looked_up(
        self, name: str, planes: Sequence[Constant], tables: Sequence[Constant], shape: tuple[int, ...]
    ) -> ir.Value:
        """Case 2: what the tables say of the planes' bytes, [shape]."""
        parts: list[ir.Value] = []
        for plane, table in zip(planes, tables, strict=True):
            stored = self._emit.constant(f"{name}_{len(parts)}", plane)
            parts.append(self._node("Gather", self._shared(table), self._cast(stored, ir.DataType.INT32)))
        if len(parts) > 1 and self._opset < JOINED:
            what = f"weights of 3 or 6 bits need opset {JOINED}, the model has {self._opset}"
            raise ModelError(what, where=name, fix=f"export with opset {JOINED} or later, or use 2, 4 or 8 bits")
        found = parts[0] if len(parts) == 1 else self._node("BitwiseOr", *parts)
        if planes[-1].size * tables[-1][0].size > (size := math.prod(shape)):
            found = self._node("Reshape", found, self._sizes(-1))
            found = self._node("Slice", found, self._sizes(0), self._sizes(size))
        return self._node("Reshape", found, self._sizes(*shape))

    def _cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        return self._emit.node("Cast", (value,), "unpack_Cast", {"to": int(to)})[0]

    def _node(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        return self._emit.node(op_type, inputs, f"unpack_{op_type}")[0]

    def _sizes(self, *sizes: int) -> ir.Value:
        return self._shared(np.asarray(sizes, np.int64))

    def _shared(self, array: Constant) -> ir.Value:
        key = (f"{array.dtype} {array.shape}", array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._emit.constant("unpack", array)
        return self._constants[key]
