"""Quantizers: QuantizeLinear and DequantizeLinear on every tensor of a graph, as an NPU's compiler expects them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import quantize, scale_and_zero_point
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.graph.constants import constant
from qonnx_pipe.graph.lowerings.emit import Codes, Emitter
from qonnx_pipe.graph.npu.ranges import Range
from qonnx_pipe.graph.walk import MOVES

Coded = tuple[Encoding, npt.NDArray[np.generic], FloatArray | None]
"""Encoding and codes of a weight [in, out], and what its rounding takes from the layer's mean output, (out,)."""

Weights = Callable[[str, npt.NDArray[np.generic]], Coded]
"""Name of a linear layer and its weight [in, out] → what it becomes."""

LARGEST_BIAS = 2**31 - 1

BIAS = 2
"""Which input of a Gemm or LayerNormalization is the bias."""


def encoding_of(limits: Range) -> Encoding:
    """The asymmetric per-tensor encoding of a range, which always holds 0."""
    dtype = QTYPES[f"uint{limits.bits}"]
    low, high = np.float64(min(limits.low, 0.0)), np.float64(max(limits.high, 0.0))
    scale, zero_point = scale_and_zero_point(low, high, dtype, symmetric=False)
    return Encoding(dtype, PerTensor(), scale, zero_point)


def quantize_everywhere(emit: Emitter, ranges: Mapping[ir.Value, Range], weights: Weights) -> dict[ir.Value, Encoding]:
    """Put quantizers on every tensor of `ranges` and every float constant, in place; the encodings of the tensors.

    1. A tensor: QuantizeLinear → DequantizeLinear. Where its reader computes in other bits, another pair converts it.
    2. Weight of a Gemm: codes of `weights`; its bias: int32 in units of the input's and the weight's scale.
    3. Gain of a LayerNormalization: 8 bits, whatever its input has; its bias as above.
    4. A table: 8 or 16 bits, with the very encoding of what is gathered: only then is a Gather no arithmetic.
    5. Other constants: the bits of the operator's output.
    """
    work = _Work(emit, ranges, weights)
    for node in [node for node in emit.graph if node.op_type not in ("Cast", "QuantizeLinear", "DequantizeLinear")]:
        if any(value in ranges for value in node.outputs):
            work.read(node)
    for value in ranges:
        work.write(value)
    return {value: encoding_of(limits) for value, limits in ranges.items()}


@dataclass(frozen=True)
class _Work:
    emit: Emitter
    ranges: Mapping[ir.Value, Range]
    weights: Weights
    _real: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _converted: dict[tuple[ir.Value, int], ir.Value] = field(default_factory=dict)
    _constants: dict[tuple[ir.Value, str, bytes], ir.Value] = field(default_factory=dict)

    def read(self, node: ir.Node) -> None:
        """Let a node read dequantized operands."""
        bits = self.ranges[node.outputs[0]].bits
        scales: list[FloatArray] = []
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if value in self.ranges:
                encoding = encoding_of(self.ranges[value])
                moves = node.op_type in MOVES
                fresh = self._tensor(value) if moves or encoding.dtype.bits == bits else self._convert(value, bits)
                if not moves:
                    encoding = encoding_of(Range(self.ranges[value].low, self.ranges[value].high, bits))
                scales.append(encoding.scale)
            elif (array := constant(value)) is not None and array.dtype == np.float32:
                fresh, scale = self._constant(node, index, bits, scales)
                scales.append(scale)
            else:
                continue
            node.replace_input_with(index, fresh)

    def write(self, value: ir.Value) -> None:
        """Let a graph output be the dequantized tensor."""
        if value.is_graph_output():
            self.emit.replace_output(value, self._tensor(value))

    def _tensor(self, value: ir.Value) -> ir.Value:
        if value not in self._real:
            self._real[value] = self._pair(value, value, encoding_of(self.ranges[value]), str(value.name))
        return self._real[value]

    def _convert(self, value: ir.Value, bits: int) -> ir.Value:
        key = (value, bits)
        if key not in self._converted:
            limits = self.ranges[value]
            encoding = encoding_of(Range(limits.low, limits.high, bits))
            self._converted[key] = self._pair(value, self._tensor(value), encoding, f"{value.name}_{bits}bit")
        return self._converted[key]

    def _pair(self, tensor: ir.Value, source: ir.Value, encoding: Encoding, name: str) -> ir.Value:
        codes = self.emit.quantize(source, encoding, name)
        codes.value.shape = tensor.shape
        return self.emit.dequantize(codes, name)

    def _constant(self, node: ir.Node, index: int, bits: int, scales: list[FloatArray]) -> tuple[ir.Value, FloatArray]:
        """A constant operand dequantized, and its scale; `scales` are those of the operands before it."""
        value = node.inputs[index]
        array = np.asarray(constant(value), np.float32)
        assert value is not None
        if node.op_type in ("Gemm", "LayerNormalization") and index == BIAS:
            return self._bias(node, str(value.name), array, np.asarray(scales[0] * scales[1], np.float32))
        if node.op_type in ("Gemm", "MatMul"):
            encoding, codes, missing = self.weights(str(node.name), array)
            if missing is not None and len(node.inputs) > BIAS:
                bias = np.asarray(constant(node.inputs[BIAS]), np.float32) + missing
                node.replace_input_with(BIAS, self.emit.constant(f"{node.name}_corrected", bias))
        else:
            own = Range(float(array.min()), float(array.max()), 8 if node.op_type == "LayerNormalization" else bits)
            encoding = encoding_of(self.ranges[node.outputs[0]] if node.op_type == "Gather" else own)
            codes = quantize(array, encoding)
        key = (value, encoding.dtype.name, encoding.scale.tobytes())
        if key not in self._constants:
            self._constants[key] = self._dequantized(str(value.name), codes, encoding)
        return self._constants[key], encoding.scale

    def _dequantized(self, name: str, codes: npt.NDArray[np.generic], encoding: Encoding) -> ir.Value:
        storage = encoding.dtype.storage
        parts = Codes(
            self.emit.constant(f"{name}_codes", np.asarray(codes, storage)),
            self.emit.constant(f"{name}_scale", encoding.scale),
            self.emit.constant(f"{name}_zero_point", encoding.zero_point.astype(storage)),
        )
        attributes = {"axis": 1} if encoding.scale.ndim else {}
        inputs = (parts.value, parts.scale, parts.zero_point)
        (real,) = self.emit.node("DequantizeLinear", inputs, f"{name}_DequantizeLinear", attributes)
        real.type, real.shape = parts.scale.type, parts.value.shape
        return real

    def _bias(self, node: ir.Node, name: str, array: FloatArray, scale: FloatArray) -> tuple[ir.Value, FloatArray]:
        codes = np.rint(array.astype(np.float64) / scale).clip(-LARGEST_BIAS, LARGEST_BIAS).astype(np.int32)
        label = f"{name}_of_{node.name}"
        inputs = (
            self.emit.constant(f"{label}_codes", codes),
            self.emit.constant(f"{label}_scale", scale),
            self.emit.constant(f"{label}_zero_point", np.zeros(scale.shape, np.int32)),
        )
        attributes = {"axis": 0} if scale.ndim else {}
        (real,) = self.emit.node("DequantizeLinear", inputs, f"{label}_DequantizeLinear", attributes)
        real.type, real.shape = inputs[1].type, inputs[0].shape
        return real, scale
