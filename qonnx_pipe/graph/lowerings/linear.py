"""Linear layers: a MatMul or Gemm on quantized operands, in the one form that onnxruntime runs in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.graph.lowerings.activation import ActivationQuantizers
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.walk import Linear

LARGEST_BIAS = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """Codes [in, out] of a linear layer's weight and their encoding; new initializers are named after `name`."""

    name: str
    codes: npt.NDArray[np.generic]
    encoding: Encoding


class LinearLowering:
    """Rewrites linear layers.

    1. Weight quantized, activation per tensor: DQ(activation) × DQ(codes); onnxruntime makes MatMulIntegerToFloat.
    2. As 1, Gemm or a rank-2 MatMul and Add, which onnxruntime turns into one: the bias becomes int32 with scale
       s_x·s_w, else the Gemm stays float (→ QGemm).
    3. Weight quantized, activation in K > 1 embedding groups: K MatMuls, one a piece, on the rows of the weight that
       belong to the piece's dimensions, and a Sum; a Gemm's bias is added after the Sum.
    4. Activation float: float activation × DQ(codes). Not float in the kernel: onnxruntime makes a MatMulNBits of it
       that quantizes blocks of the activation as it runs (accuracy level 4), and the census counts it as integer.
    5. Weight float: quantized activation × float weight.
    A Gemm with a transposed weight is turned first; weights that several layers share are emitted once.
    """

    def __init__(self, emitter: Emitter, activations: ActivationQuantizers) -> None:
        self.emit = emitter
        self.activations = activations
        self._dequantized: dict[tuple[QuantizedWeight, tuple[int, ...]], ir.Value] = {}

    def lower(self, linear: Linear, activation: Encoding | None, weight: QuantizedWeight | None) -> None:
        """Rewrite one linear layer in place; its name and the name of its output stay."""
        if weight is not None and activation is not None and _groups(activation) > 1:
            self._split(linear, activation, weight)
            return
        if activation is not None:
            linear.node.replace_input_with(0, self.activations.whole(linear.source, activation))
        if weight is not None:
            linear.node.replace_input_with(1, self._dequantize(weight))
            linear.node.attributes.pop("transB", None)
        if weight is not None and activation is not None and _is_gemm(linear):
            self._quantize_bias(linear, activation, weight)

    def _split(self, linear: Linear, activation: Encoding, weight: QuantizedWeight) -> None:
        products: list[ir.Value] = []
        for index, piece in enumerate(self.activations.pieces(linear.source, activation)):
            rows = self._dequantize(weight, piece.dimensions)
            products += self.emit.node("MatMul", (piece.value, rows), f"{linear.name}_group{index}")
        total = products[0] if len(products) == 1 else self.emit.node("Sum", products, f"{linear.name}_Sum")[0]
        if linear.node.op_type == "Gemm" and linear.bias is not None:
            (total,) = self.emit.node("Add", (total, linear.node.inputs[2]), f"{linear.name}_Add")
        self.emit.replace(linear.node, total)

    def _dequantize(self, weight: QuantizedWeight, rows: tuple[int, ...] = ()) -> ir.Value:
        """DequantizeLinear of the codes, or of some of their rows; emitted once."""
        key = (weight, rows)
        if key not in self._dequantized:
            codes = weight.codes[list(rows)] if rows else weight.codes
            suffix = f"_group{sum(other is weight for other, _ in self._dequantized)}" if rows else ""
            self._dequantized[key] = _dequantize(self.emit, codes, weight.encoding, weight.name + suffix)
        return self._dequantized[key]

    def _quantize_bias(self, linear: Linear, activation: Encoding, weight: QuantizedWeight) -> None:
        """Bias [out] as int32; one that is no constant vector, or too large for int32, keeps the layer float."""
        if linear.bias is None:
            return
        node, index = linear.bias
        bias = node.inputs[index]
        tensor = None if bias is None else ir.convenience.get_const_tensor(bias)
        if bias is None or tensor is None or tensor.shape != (weight.codes.shape[1],):
            return
        scale = np.broadcast_to(activation.scale * weight.encoding.scale, tensor.shape.numpy()).astype(np.float32)
        codes = np.rint(tensor.numpy().astype(np.float64) / scale)
        if np.abs(codes).max(initial=0) > LARGEST_BIAS:
            return
        inputs = (
            self.emit.constant(f"{bias.name}_codes", codes.astype(np.int32)),
            self.emit.constant(f"{bias.name}_scale", scale),
            self.emit.constant(f"{bias.name}_zero_point", np.zeros(scale.shape, np.int32)),
        )
        (real,) = self.emit.node("DequantizeLinear", inputs, f"{bias.name}_DequantizeLinear", {"axis": 0})
        node.replace_input_with(index, real)


def _groups(encoding: Encoding) -> int:
    return len(encoding.granularity.sizes) if isinstance(encoding.granularity, EmbeddingGroups) else 1


def _is_gemm(linear: Linear) -> bool:
    """Whether onnxruntime runs the layer as a Gemm."""
    return linear.node.op_type == "Gemm" or (linear.source.shape is not None and len(linear.source.shape) == 2)


def _dequantize(emit: Emitter, codes: npt.NDArray[np.generic], encoding: Encoding, name: str) -> ir.Value:
    """DequantizeLinear of constant codes [in, out].

    The zero point has the scale's shape and the axis is positive, or onnxruntime fuses nothing; scales of rows it fuses
    and then fails.
    """
    attributes = {}
    match encoding.granularity:
        case PerChannel(axis) if axis % codes.ndim == 1:
            attributes["axis"] = 1
        case PerTensor():
            pass
        case other:
            raise ValueError(f"{name}: weights of a linear layer are not lowered {other}")
    inputs = (
        emit.constant(f"{name}_codes", codes),
        emit.constant(f"{name}_scale", encoding.scale),
        emit.constant(f"{name}_zero_point", encoding.zero_point.astype(encoding.dtype.storage)),
    )
    (real,) = emit.node("DequantizeLinear", inputs, f"{name}_DequantizeLinear", attributes)
    real.type, real.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(codes.shape)
    return real
