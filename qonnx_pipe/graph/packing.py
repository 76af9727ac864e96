"""Packing: codes that need fewer than 8 bits lie as planes of bytes in the file, unpacked when a session opens."""

from __future__ import annotations

import math
from collections.abc import Mapping
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

INTEGERS = {"to": int(ir.DataType.INT32)}
BYTES = 256

OPSET = 18
"""The first with BitwiseOr, which joins two planes."""


@dataclass(frozen=True)
class Packed:
    """Initializers that hold the planes of some codes, the bits of a code in all of them, and the codes' type."""

    planes: tuple[ir.Value, ...]
    bits: int
    dtype: ir.DataType


def pack_codes(emit: Emitter) -> None:
    """Store each matrix of 8-bit codes in as few bits as its codes need (`core.packing`).

    Every plane: Cast to int32 → Gather of the rows of a table, which say what each byte adds to its codes → Reshape;
    BitwiseOr of two. onnxruntime computes all of this once, when it opens a session, so that its kernels see the
    initializer of int8 or uint8 codes that stood there before, under the same name. Raises ModelError where
    the model's opset has no BitwiseOr.
    """
    unpacker = _Unpacker(emit)
    for value in list(emit.graph.initializers.values()):
        codes = constant(value)
        if codes is None or codes.dtype not in (np.int8, np.uint8) or codes.ndim < 2 or value.is_graph_output():
            continue
        if all(CODES.get(usage.node.op_type) == usage.idx for usage in value.uses()) and (packing := Packing.of(codes)):
            unpacker.replace(value, codes, packing)


def packed(value: ir.Value | None) -> Packed | None:
    """The planes that `value` is unpacked from, as `pack_codes` writes it, or None."""
    node = None if value is None else value.producer()
    if node is None or node.op_type == "Gather":
        return None if node is None else _plane(node)
    if node.op_type in ("Reshape", "Slice"):
        return packed(node.inputs[0])
    halves = [packed(operand) for operand in node.inputs] if node.op_type == "BitwiseOr" else []
    found = [half for half in halves if half is not None]
    if not found or len(found) < len(halves):
        return None
    planes = tuple(plane for half in found for plane in half.planes)
    return Packed(planes, sum(half.bits for half in found), found[0].dtype)


def unpacked(plane: ir.Value) -> ir.Value:
    """The codes that a plane is a part of; `plane` itself where it is none."""
    casts = consumers(plane)
    lookups = consumers(casts[0].outputs[0]) if len(casts) == 1 and casts[0].op_type == "Cast" else ()
    if len(lookups) != 1 or packed(value := lookups[0].outputs[0]) is None:
        return plane
    while len(readers := consumers(value)) == 1 and packed(readers[0].outputs[0]):
        value = readers[0].outputs[0]
    return value


def _plane(node: ir.Node) -> Packed | None:
    """One plane, where `node` looks its bytes up in a table."""
    table, index = (*node.inputs, None, None)[:2] if node.op_type == "Gather" else (None, None)
    cast = None if index is None else index.producer()
    array = constant(table)
    if cast is None or cast.op_type != "Cast" or array is None or array.ndim != 2 or len(array) != BYTES:
        return None
    stored = cast.inputs[0]
    if stored is None or constant(stored) is None:
        return None
    return Packed((stored,), 8 // array.shape[1], ir.DataType.from_numpy(array.dtype))


class _Unpacker:
    """Emits the operators that unpack; tables and shapes are emitted once."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._constants: dict[tuple[str, bytes], ir.Value] = {}

    def replace(self, value: ir.Value, codes: Constant, packing: Packing) -> None:
        """Let unpacked planes stand for an initializer, under its name."""
        name, tables = str(value.name), packing.tables()
        if len(tables) > 1 and (opset := self._emit.graph.opset_imports[""]) < OPSET:
            what = f"{packing.bits}-bit weights need opset {OPSET}, the model has {opset}"
            raise ModelError(what, where=name, fix=f"export with opset {OPSET} or later, or use 2, 4 or 8 bits")
        halves = [
            self._unpacked(name, plane, table, codes.shape)
            for plane, table in zip(packing.pack(codes), tables, strict=True)
        ]
        (real,) = halves if len(halves) == 1 else self._emit.node("BitwiseOr", halves, f"{name}_BitwiseOr")
        real.type, real.shape = value.type, value.shape
        value.replace_all_uses_with(real)
        self._emit.release(value)
        real.name = name

    def _unpacked(self, name: str, plane: Constant, table: Constant, shape: tuple[int, ...]) -> ir.Value:
        count, size = table.shape[1], math.prod(shape)
        name = f"{name}_{8 // count}bits"
        (index,) = self._emit.node("Cast", (self._emit.constant(name, plane),), f"{name}_Cast", INTEGERS)
        (codes,) = self._emit.node("Gather", (self._constant("unpack", table), index), f"{name}_Gather")
        if size % count:
            (codes,) = self._emit.node("Reshape", (codes, self._integers(-1)), f"{name}_flat")
            (codes,) = self._emit.node("Slice", (codes, self._integers(0), self._integers(size)), f"{name}_Slice")
        return self._emit.node("Reshape", (codes, self._integers(*shape)), f"{name}_Reshape")[0]

    def _integers(self, *values: int) -> ir.Value:
        return self._constant("sizes", np.asarray(values, np.int64))

    def _constant(self, name: str, array: Constant) -> ir.Value:
        key = (f"{name} {array.dtype} {array.shape}", array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._emit.constant(name, array)
        return self._constants[key]
