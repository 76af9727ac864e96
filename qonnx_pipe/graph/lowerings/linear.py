"""Linear layers: a MatMul or Gemm on quantized operands, in the one form that onnxruntime runs in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.core.plan import Lowering
from qonnx_pipe.graph.lowerings.activation import ActivationQuantizers
from qonnx_pipe.graph.lowerings.emit import Codes, Emitter
from qonnx_pipe.graph.walk import Linear

LARGEST_BIAS = np.iinfo(np.int32).max
CONTRIB = "com.microsoft"
"""Domain of onnxruntime's own operators."""


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """Codes [in, out] of a linear layer's weight and their encoding; new initializers are named after `name`."""

    name: str
    codes: npt.NDArray[np.generic]
    encoding: Encoding

    def __post_init__(self) -> None:
        if self.encoding.granularity not in (PerTensor(), PerChannel(1)):
            raise ValueError(f"{self.name}: weights of a linear layer are not lowered {self.encoding.granularity}")


class LinearLowering:
    """Rewrites linear layers.

    1. Both operands in 8 bits, form "integer": onnxruntime's MatMulIntegerToFloat on the codes, the bias inside; for
       an activation in K > 1 embedding groups K of them, one a piece, on the rows of the weight that belong to the
       piece's dimensions, and a Sum.
    2. Form "qdq", activation per tensor: DQ(activation) × DQ(codes); onnxruntime makes MatMulIntegerToFloat of it and
       leaves the Add of the bias.
    3. As 2, Gemm or a rank-2 MatMul and Add, which onnxruntime turns into one: the bias becomes int32 with scale
       s_x·s_w, else the Gemm stays float (→ QGemm).
    4. As 2, activation in K > 1 embedding groups: K MatMuls and a Sum; a Gemm's bias is added after the Sum.
    5. Activation float: float activation × DQ(codes). Not float in the kernel: onnxruntime makes a MatMulNBits of it
       that quantizes blocks of the activation as it runs (accuracy level 4), and the census counts it as integer.
    6. Weight float: quantized activation × float weight.
    Operands that no integer kernel takes (16 bits, signed × unsigned) have form "qdq", whatever was asked for.
    A Gemm with a transposed weight is turned first; weights that several layers share are emitted once.
    """

    def __init__(self, emitter: Emitter, activations: ActivationQuantizers) -> None:
        self.emit = emitter
        self.activations = activations
        self._constants: dict[tuple[QuantizedWeight, tuple[int, ...]], Codes] = {}
        self._dequantized: dict[Codes, ir.Value] = {}

    def lower(
        self, linear: Linear, activation: Encoding | None, weight: QuantizedWeight | None, form: Lowering
    ) -> None:
        """Rewrite one linear layer in place; the name of its output stays, and its own where it stays one node."""
        if weight is not None and activation is not None:
            if form == "integer" and _has_integer_kernel(activation, weight.encoding):
                self._integer(linear, activation, weight)
                return
            if _groups(activation) > 1:
                self._split(linear, activation, weight)
                return
        if activation is not None:
            linear.node.replace_input_with(0, self.activations.whole(linear.source, activation))
        if weight is not None:
            linear.node.replace_input_with(1, self._dequantize(weight))
            linear.node.attributes.pop("transB", None)
        if weight is not None and activation is not None and _is_gemm(linear):
            self._quantize_bias(linear, activation, weight)

    def _integer(self, linear: Linear, activation: Encoding, weight: QuantizedWeight) -> None:
        last, bias = linear.node, None
        if linear.bias is not None:
            last, index = linear.bias
            bias = last.inputs[index]
        pieces = self.activations.pieces(linear.source, activation)
        products: list[ir.Value] = []
        for index, piece in enumerate(pieces):
            name = linear.name if len(pieces) == 1 else f"{linear.name}_group{index}"
            codes = self._codes(weight, piece.dimensions)
            zero = codes.zero_point if weight.encoding.zero_point.any() else None
            inputs = (
                piece.codes.value,
                codes.value,
                piece.codes.scale,
                codes.scale,
                piece.codes.zero_point,
                zero,
                None if index else bias,
            )
            products += self.emit.node("MatMulIntegerToFloat", inputs, name, domain=CONTRIB)
        total = products[0] if len(products) == 1 else self.emit.node("Sum", products, f"{linear.name}_Sum")[0]
        self.emit.replace(last, total)
        if last is not linear.node:
            self.emit.remove(linear.node)
        if len(products) == 1 and (product := products[0].producer()) is not None:
            product.name = linear.name

    def _split(self, linear: Linear, activation: Encoding, weight: QuantizedWeight) -> None:
        products: list[ir.Value] = []
        for index, piece in enumerate(self.activations.pieces(linear.source, activation)):
            rows = self._dequantize(weight, piece.dimensions)
            products += self.emit.node("MatMul", (self.activations.real(piece), rows), f"{linear.name}_group{index}")
        total = products[0] if len(products) == 1 else self.emit.node("Sum", products, f"{linear.name}_Sum")[0]
        if linear.node.op_type == "Gemm" and linear.bias is not None:
            (total,) = self.emit.node("Add", (total, linear.node.inputs[2]), f"{linear.name}_Add")
        self.emit.replace(linear.node, total)

    def _codes(self, weight: QuantizedWeight, rows: tuple[int, ...] = ()) -> Codes:
        """The codes, or some of their rows, with scale and zero point of the same shape; emitted once."""
        key = (weight, rows)
        if key not in self._constants:
            suffix = f"_group{sum(other is weight for other, _ in self._constants)}" if rows else ""
            name = weight.name + suffix
            codes = weight.codes[list(rows)] if rows else weight.codes
            self._constants[key] = Codes(
                self.emit.constant(f"{name}_codes", codes),
                self.emit.constant(f"{name}_scale", weight.encoding.scale),
                self.emit.constant(
                    f"{name}_zero_point", weight.encoding.zero_point.astype(weight.encoding.dtype.storage)
                ),
            )
        return self._constants[key]

    def _dequantize(self, weight: QuantizedWeight, rows: tuple[int, ...] = ()) -> ir.Value:
        """DequantizeLinear of the codes, or of some of their rows; emitted once.

        The zero point has the scale's shape and the axis is positive, or onnxruntime fuses nothing; scales of rows it
        fuses and then fails.
        """
        codes = self._codes(weight, rows)
        if codes not in self._dequantized:
            attributes = {} if isinstance(weight.encoding.granularity, PerTensor) else {"axis": 1}
            inputs = (codes.value, codes.scale, codes.zero_point)
            (real,) = self.emit.node("DequantizeLinear", inputs, f"{codes.value.name}_DequantizeLinear", attributes)
            real.type, real.shape = ir.TensorType(ir.DataType.FLOAT), codes.value.shape
            self._dequantized[codes] = real
        return self._dequantized[codes]

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


def _has_integer_kernel(activation: Encoding, weight: Encoding) -> bool:
    """Whether MatMulIntegerToFloat takes the two types: 8 bits each, and no unsigned weight for a signed activation."""
    small = activation.dtype.bits == weight.dtype.bits == 8
    return small and not (activation.dtype.signed and not weight.dtype.signed)


def _is_gemm(linear: Linear) -> bool:
    """Whether onnxruntime runs the layer as a Gemm."""
    return linear.node.op_type == "Gemm" or (linear.source.shape is not None and len(linear.source.shape) == 2)
