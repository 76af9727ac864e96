"""Blocks: weights whose blocks of inputs share a scale, as onnxruntime's MatMulNBits or as blocked DequantizeLinear."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.granularity import PerGroup
from qonnx_pipe.core.packing import Packing
from qonnx_pipe.graph.lowerings.emit import CONTRIB, Emitter
from qonnx_pipe.graph.lowerings.packing import Unpacker
from qonnx_pipe.graph.lowerings.weight import QuantizedWeight

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.generic]

THREE = 3
NBITS = (2, 3, 4, 8)
"""Bits that MatMulNBits can be given; 3 as the values of 4."""

BLOCKED = {2: 25, 4: 21, 8: 21}
"""Bits → the first opset whose DequantizeLinear takes blocks of them."""

LEAST_BLOCK = 16
"""Inputs that share a scale at least; always a power of two."""


def is_block(size: int) -> bool:
    """Whether onnxruntime's kernels take blocks of `size` inputs."""
    return size >= LEAST_BLOCK and size & (size - 1) == 0


def dividing_block(width: int) -> int:
    """The largest power of two that divides `width`: blocks of it need no padding."""
    return width & -width


class Blocks:
    """Emits the constants of weights in blocks of inputs, each once, whichever layers share them."""

    def __init__(self, emit: Emitter) -> None:
        self.emit = emit
        self._unpacker = Unpacker(emit)
        self._operands: dict[str, tuple[ir.Value | None, ...]] = {}

    def multiply(self, name: str, source: ir.Value, weight: QuantizedWeight, bias: ir.Value | None) -> ir.Value:
        """Source × weight + bias as MatMulNBits.

        Its weight is stored [out, blocks, bytes], without sign; a zero point in the middle is left out. Codes of
        3 bits lie in two planes and become nibbles when a session opens.
        """
        rows, columns = weight.codes.shape
        if weight.name not in self._operands:
            self._operands[weight.name] = self._stored(weight)
        inputs = (source, *self._operands[weight.name], *((None, bias) if bias is not None else ()))
        attributes = {"K": rows, "N": columns, "bits": _width(weight), "block_size": _size(weight)}
        attributes["accuracy_level"] = weight.accuracy_level
        return self.emit.node("MatMulNBits", inputs, name, attributes, domain=CONTRIB)[0]

    def dequantize(self, weight: QuantizedWeight) -> ir.Value:
        """The weight [in, out] as DequantizeLinear in blocks.

        One for each reader, and scales as they are: else onnxruntime makes no MatMulNBits of them.
        """
        name, encoding = weight.name, weight.encoding
        if name not in self._operands:
            kind, zero = ir.DataType[encoding.dtype.name.upper()].numpy(), None
            if encoding.zero_point.any():
                zero = self.emit.constant(f"{name}_zero_point", encoding.zero_point.astype(kind))
            stored = self.emit.constant(f"{name}_codes", weight.codes.astype(kind))
            self._operands[name] = (stored, self.emit.constant(f"{name}_scale", encoding.scale), zero)
        attributes = {"axis": 0, "block_size": _size(weight)}
        (real,) = self.emit.node("DequantizeLinear", self._operands[name], f"{name}_DequantizeLinear", attributes)
        real.type, real.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(weight.codes.shape)
        return real

    def _stored(self, weight: QuantizedWeight) -> tuple[ir.Value | None, ...]:
        """Codes, scales and zero points (None where they are in the middle) as MatMulNBits reads them."""
        name, encoding, bits = weight.name, weight.encoding, _width(weight)
        middle = 1 << (bits - 1)
        move = middle if encoding.dtype.signed else 0
        blocks = weight.codes.T.reshape(weight.codes.shape[1], len(encoding.scale), -1)
        if encoding.dtype.bits == THREE:
            stored = self._of_three(name, blocks, signed=encoding.dtype.signed)
        else:
            stored = self.emit.constant(f"{name}_codes", joined(blocks.astype(np.int16) + move, bits))
        zeros, zero = (encoding.zero_point + move).T, None
        if (zeros != middle).any():
            zero = self.emit.constant(f"{name}_zero_point", joined(zeros, bits))
        return stored, self.emit.scales(f"{name}_scale", np.ascontiguousarray(encoding.scale.T)), zero

    def _of_three(self, name: str, blocks: Codes, *, signed: bool) -> ir.Value:
        """Nibbles of codes with 8 added, or of unsigned codes; what is added depends on the two higher bits alone."""
        low, move = (-4, 4) if signed else (0, 0)
        packing = Packing(THREE, signed=False)
        high, last = (table.astype(np.int16) for table in packing.tables(np.uint8))
        tables = joined(high + move, 4), joined(last.reshape(len(last), -1), 4).reshape(len(last), 2, 2)
        planes = packing.pack((blocks.astype(np.int16) - low).astype(np.uint8))
        value = self._unpacker.looked_up(f"{name}_plane", planes, tables, (*blocks.shape[:2], blocks.shape[2] // 2))
        self.emit.rename(value, f"{name}_codes")
        return value


def _width(weight: QuantizedWeight) -> int:
    """Bits of a code as MatMulNBits reads it."""
    bits = weight.encoding.dtype.bits
    return 4 if bits == THREE else bits


def joined(values: npt.NDArray[np.integer], bits: int) -> Bytes:
    """Values of `bits` bits side by side along the last axis, the first in the lowest bits, zeros at the end."""
    count = 8 // bits
    padding = [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % count)]
    fields = np.pad(values.astype(np.uint8), padding).reshape(*values.shape[:-1], -1, count)
    packed: Bytes = np.bitwise_or.reduce(fields << np.arange(0, 8, bits, dtype=np.uint8), axis=-1)
    return packed


def _size(weight: QuantizedWeight) -> int:
    assert isinstance(weight.encoding.granularity, PerGroup)
    return weight.encoding.granularity.size
