"""Linear layers: a MatMul or Gemm on quantized operands, in the one form that onnxruntime runs in integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.plan import Lowering
from qonnx_pipe.graph.lowerings.activation import ActivationQuantizers, Piece
from qonnx_pipe.graph.lowerings.blocks import Blocks
from qonnx_pipe.graph.lowerings.emit import CONTRIB, Codes, Emitter
from qonnx_pipe.graph.lowerings.plain import plain_weight
from qonnx_pipe.graph.lowerings.weight import QuantizedWeight
from qonnx_pipe.graph.walk import Linear

LARGEST_BIAS = np.iinfo(np.int32).max


class LinearLowering:
    """Rewrites linear layers.

    1. Both operands in 8 bits, form "integer": onnxruntime's MatMulIntegerToFloat on the codes, the bias inside; for
       an activation in K > 1 pieces K of them, on the rows of the weight that belong to the piece's dimensions, and a
       Sum. What codes read too much (`Piece.surplus`) leaves the bias.
    2. Form "qdq", activation per tensor: DQ(activation) × DQ(codes); onnxruntime makes MatMulIntegerToFloat of it and
       leaves the Add of the bias.
    3. As 2, Gemm or a rank-2 MatMul and Add, which onnxruntime turns into one: the bias becomes int32 with scale
       s_x·s_w, else the Gemm stays float (→ QGemm).
    4. As 2, any other encoding: a MatMul a piece and a Sum of them and the bias, less the surplus.
    5. Activation float, in form "reference", or in more groups than pieces before a weight whose rows were not scaled
       (layers share it, or its codes were learned); or weight in groups of inputs: real activation × plain weight
       (`plain_weight`), in float.
    6. Weight float: quantized real activation × the weight, in float.
    7. Form "nbits", weight in blocks of inputs: MatMulNBits with the bias inside, on the real activation.
    8. Form "blocked", the same weight: real activation × DequantizeLinear in blocks; onnxruntime makes MatMulNBits of
       the MatMul.
    Operands that no integer kernel takes (16 bits, signed × unsigned) have form "qdq", whatever was asked for.
    A Gemm with a transposed weight is turned first; weights that several layers share are emitted once.
    """

    def __init__(self, emitter: Emitter, activations: ActivationQuantizers) -> None:
        self.emit = emitter
        self.activations = activations
        self._constants: dict[tuple[QuantizedWeight, tuple[int, ...]], Codes] = {}
        self._dequantized: dict[Codes, ir.Value] = {}
        self._plains: dict[QuantizedWeight, ir.Value] = {}
        self._blocks = Blocks(emitter)

    def lower(
        self, linear: Linear, activation: Encoding | None, weight: QuantizedWeight | None, form: Lowering
    ) -> None:
        """Rewrite one linear layer in place; the name of its output stays, and its own where it stays one node."""
        in_codes = weight is not None and activation is not None and self._reads_pieces(activation, weight)
        if in_codes and weight is not None and activation is not None:
            if form == "integer" and _has_integer_kernel(activation, weight):
                self._integer(linear, weight, self.activations.pieces(linear.source, activation))
                return
            if not isinstance(activation.granularity, PerTensor) and not _is_one_group(activation):
                self._qdq(linear, weight, self.activations.pieces(linear.source, activation))
                return
            if _is_gemm(linear):
                self._quantize_bias(linear, activation, weight)
        if activation is not None:
            linear.node.replace_input_with(0, self.activations.whole(linear.source, activation))
        if weight is not None and form == "nbits":
            self._nbits(linear, weight)
        elif weight is not None:
            linear.node.replace_input_with(1, self._real(weight, form, in_codes=in_codes))
            linear.node.attributes.pop("transB", None)

    def _nbits(self, linear: Linear, weight: QuantizedWeight) -> None:
        bias = None if linear.bias is None else linear.bias[0].inputs[linear.bias[1]]
        product = self._blocks.multiply(f"{linear.name}_nbits", linear.source, weight, bias)
        self._finish(linear, [product], [product])

    def _real(self, weight: QuantizedWeight, form: Lowering, *, in_codes: bool) -> ir.Value:
        """The weight as a float operand: behind a DequantizeLinear that onnxruntime fuses, or plain."""
        if form == "blocked":
            return self._blocks.dequantize(weight)
        return self._dequantize(weight) if in_codes else self._plain(weight)

    def _reads_pieces(self, activation: Encoding, weight: QuantizedWeight) -> bool:
        """Whether the layer reads codes; a weight whose rows were not scaled as they ask for reads real values."""
        return not (self.activations.is_reference(activation) or weight.is_grouped) and (
            weight.row_scale is not None or self.activations.row_scale(activation) is None
        )

    def _integer(self, linear: Linear, weight: QuantizedWeight, pieces: tuple[Piece, ...]) -> None:
        bias = self._less_surplus(linear, weight, pieces)
        products: list[ir.Value] = []
        for index, piece in enumerate(pieces):
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
            products += self.emit.node("MatMulIntegerToFloat", inputs, f"{linear.name}_group{index}", domain=CONTRIB)
        self._finish(linear, products, products)

    def _qdq(self, linear: Linear, weight: QuantizedWeight, pieces: tuple[Piece, ...]) -> None:
        """The bias is a summand: behind a rank-2 MatMul, onnxruntime would make a float Gemm of an Add."""
        bias = self._less_surplus(linear, weight, pieces)
        products: list[ir.Value] = []
        for index, piece in enumerate(pieces):
            rows = self._dequantize(weight, piece.dimensions)
            products += self.emit.node("MatMul", (self.activations.real(piece), rows), f"{linear.name}_group{index}")
        self._finish(linear, products, products if bias is None else [*products, bias])

    def _finish(self, linear: Linear, products: list[ir.Value], summands: list[ir.Value]) -> None:
        """Let the sum of `summands` stand for the layer's output, bias and all; a lone product keeps its name."""
        for product in products:
            product.type = ir.TensorType(ir.DataType.FLOAT)
        total = summands[0] if len(summands) == 1 else self.emit.node("Sum", summands, f"{linear.name}_Sum")[0]
        last = linear.node if linear.bias is None else linear.bias[0]
        self.emit.replace(last, total)
        if last is not linear.node:
            self.emit.remove(linear.node)
        if len(products) == 1 and (only := products[0].producer()) is not None:
            only.name = linear.name

    def _less_surplus(self, linear: Linear, weight: QuantizedWeight, pieces: tuple[Piece, ...]) -> ir.Value | None:
        """The bias less Σ surplus · weight, in the *quantized* weight: exactly what the codes read too much."""
        bias = None if linear.bias is None else linear.bias[0].inputs[linear.bias[1]]
        total = np.zeros(weight.codes.shape[1], np.float64)
        for piece in pieces:
            if piece.surplus is not None:
                rows = weight.codes[list(piece.dimensions)] if piece.dimensions else weight.codes
                steps = piece.surplus.astype(np.int64) @ (rows.astype(np.int64) - weight.encoding.zero_point)
                total += steps * (_number(piece.codes.scale) * weight.encoding.scale.astype(np.float64))
        if not total.any():
            return bias
        known = None if bias is None else ir.convenience.get_const_tensor(bias)
        if bias is None or known is not None:
            less = -total if known is None else known.numpy().astype(np.float64) - total
            return self.emit.constant(f"{linear.name}_bias", less.astype(np.float32))
        surplus = self.emit.constant(f"{linear.name}_surplus", total.astype(np.float32))
        return self.emit.node("Sub", (bias, surplus), f"{linear.name}_bias")[0]

    def _codes(self, weight: QuantizedWeight, rows: tuple[int, ...] = ()) -> Codes:
        """The codes, or some of their rows, with scale and zero point of the same shape; emitted once."""
        key = (weight, rows)
        if key not in self._constants:
            suffix = f"_group{sum(other is weight for other, _ in self._constants)}" if rows else ""
            name = weight.name + suffix
            kind, codes = weight.kernel_type, weight.codes[list(rows)] if rows else weight.codes
            self._constants[key] = Codes(
                self.emit.constant(f"{name}_codes", codes.astype(kind, copy=False)),
                self.emit.constant(f"{name}_scale", weight.encoding.scale),
                self.emit.constant(f"{name}_zero_point", weight.encoding.zero_point.astype(kind)),
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

    def _plain(self, weight: QuantizedWeight) -> ir.Value:
        """The weight as a float operand; emitted once."""
        if weight not in self._plains:
            self._plains[weight] = plain_weight(self.emit, weight.name, weight.codes, weight.encoding, weight.row_scale)
        return self._plains[weight]

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


def _is_one_group(encoding: Encoding) -> bool:
    return isinstance(encoding.granularity, EmbeddingGroups) and len(encoding.granularity.sizes) == 1


def _number(scalar: ir.Value) -> float:
    tensor = ir.convenience.get_const_tensor(scalar)
    assert tensor is not None
    return float(tensor.numpy())


def _has_integer_kernel(activation: Encoding, weight: QuantizedWeight) -> bool:
    """Whether MatMulIntegerToFloat takes the two: codes of a byte, and no unsigned weight for a signed activation."""
    small = activation.dtype.storage.itemsize == weight.kernel_type.itemsize == 1
    return small and not (activation.dtype.signed and weight.kernel_type.kind == "u")


def _is_gemm(linear: Linear) -> bool:
    """Whether onnxruntime runs the layer as a Gemm."""
    return linear.node.op_type == "Gemm" or (linear.source.shape is not None and len(linear.source.shape) == 2)
