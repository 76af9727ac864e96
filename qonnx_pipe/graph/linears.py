"""Weight MatMuls of a file: what multiplies by a constant matrix, in which form, and what would keep it float."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import onnx_ir as ir

from qonnx_pipe.core.kernels import FLOAT_ACTIVATION, FLOAT_WEIGHT, INTEGER_OPS, WeightMatMul
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.packing import packed
from qonnx_pipe.graph.walk import consumers, is_constant

FLOAT_OPS = {"MatMul": 1, "Gemm": 1, "FusedMatMul": 1, "FusedGemm": 1, "GemmFloat8": 1, "Attention": 1}
"""Operators that compute in float, and which input is the weight."""

PLAIN_OPS = frozenset({"Cast", "Sub", "Mul", "Div", "Reshape"})
"""Operators that a plain weight is made of (`lowerings.plain`)."""

PLAIN = "weight stored in integers, made real by plain arithmetic: activations are float, or groups have no kernel"

INT8_ACCURACY_LEVEL = 4
"""`accuracy_level` of MatMulNBits at which activations are quantized to int8; below, it computes in float."""


def linears(path: Path) -> tuple[WeightMatMul, ...]:
    """Every node of the file's main graph with a constant weight matrix, in graph order; errors as in `io.load`."""
    graph = io.load(path).graph
    return tuple(found for node in graph if (found := _weight_matmul(node)) is not None)


def _weight_matmul(node: ir.Node) -> WeightMatMul | None:
    place = {**FLOAT_OPS, **INTEGER_OPS}.get(node.op_type)
    if place is None or place >= len(node.inputs):
        return None
    operand = node.inputs[place]
    dequantize, codes = _dequantize(operand), stored_codes(operand)
    weight = dequantize.inputs[0] if dequantize else codes or _turned(operand) or operand
    if weight is None or not (is_constant(weight) or packed(weight)):
        return None
    integer = node.op_type in INTEGER_OPS and not _float_nbits(node)
    plain = node.op_type in FLOAT_OPS and codes is not None and dequantize is None
    obstacle = "" if integer else PLAIN if plain else _obstacle(node, dequantize)
    form = _form(weight, dequantize, node)
    return WeightMatMul(node.name or "", node.op_type, weight.name or "", integer, obstacle, form)


def _turned(value: ir.Value | None) -> ir.Value | None:
    """The constant that a value is the transpose of: a tied table in a head."""
    node = None if value is None else value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Transpose" else None
    return source if is_constant(source) else None


def _form(weight: ir.Value, *readers: ir.Node | None) -> str:
    """See `WeightMatMul.form`."""
    attributes = chain.from_iterable(reader.attributes.values() for reader in readers if reader)
    return " ".join((f"{_dtype(weight).name}{weight.shape}", *sorted(f"{one.name}={one.value}" for one in attributes)))


def stored_codes(value: ir.Value | None) -> ir.Value | None:
    """The constant or packed integers that a plain weight is computed from, and from constants alone; else None."""
    while not packed(value) and value is not None and (node := value.producer()) and node.op_type in PLAIN_OPS:
        if not all(is_constant(operand) for operand in node.inputs[1:]):
            return None
        value = node.inputs[0]
    known = value is not None and (is_constant(value) or packed(value))
    return value if known and _dtype(value).is_integer() else None


def _obstacle(node: ir.Node, weight: ir.Node | None) -> str:
    """What is known to keep onnxruntime's CPU provider from running this node in integers; "" when nothing is.

    Found by experiment on onnxruntime 1.31.
    """
    if node.op_type == "MatMulNBits":
        return f"MatMulNBits computes in float below accuracy_level {INT8_ACCURACY_LEVEL}"
    if weight is None:
        return FLOAT_WEIGHT
    activation = _dequantize(node.inputs[0])
    if activation is None:
        return FLOAT_ACTIVATION
    return _weight_obstacle(weight) or _activation_obstacle(activation) or _gemm_obstacle(node, weight)


def _weight_obstacle(weight: ir.Node) -> str:
    if _dtype(weight.inputs[0]) not in (ir.DataType.INT8, ir.DataType.UINT8):
        return f"weight is {_dtype(weight.inputs[0]).name.lower()}, not 8-bit"
    if _rank(weight.inputs[1]) > 0 and (axis := _axis(weight)) != 1:
        return f"the weight's DequantizeLinear has axis {axis}, onnxruntime wants the columns: 1"
    return ""


def _activation_obstacle(activation: ir.Node) -> str:
    if _dtype(activation.inputs[0]) in (ir.DataType.INT16, ir.DataType.UINT16):
        return "16-bit activation: the CPU provider has no such integer MatMul"
    if _rank(activation.inputs[1]) > 0:
        return "per-axis activation: onnxruntime's integer MatMuls take one scale"
    matmuls = [node for node in consumers(activation.outputs[0]) if node.op_type in FLOAT_OPS]
    if _dtype(activation.inputs[0]) is ir.DataType.INT8 and len(matmuls) > 1:
        return "int8 activation that feeds several MatMuls: onnxruntime leaves it float on x86, use uint8"
    return ""


def _gemm_obstacle(node: ir.Node, weight: ir.Node) -> str:
    """A Gemm is pickier than a MatMul."""
    if node.op_type != "Gemm":
        return ""
    if _zero_point(weight) is None:
        return "the weight of a Gemm needs a DequantizeLinear with a zero point"
    has_float_bias = len(node.inputs) > 2 and _dequantize(node.inputs[2]) is None
    return "Gemm with a float bias: quantize the bias to int32, or use MatMul and Add" if has_float_bias else ""


def _dequantize(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _zero_point(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _axis(node: ir.Node) -> int:
    attribute = node.attributes.get("axis")
    return 1 if attribute is None else attribute.as_int()


def _rank(value: ir.Value | None) -> int:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return 0 if tensor is None or tensor.size == 1 else len(tensor.shape)


def _dtype(value: ir.Value | None) -> ir.DataType:
    """Element type of a quantized value; a QuantizeLinear's output without type information has its zero point's."""
    if (codes := packed(value)) is not None:
        return codes.dtype
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "QuantizeLinear":
        value = _zero_point(node) or value
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    kind = tensor.dtype if tensor is not None else value.dtype if value is not None else None
    return kind or ir.DataType.UNDEFINED


def _float_nbits(node: ir.Node) -> bool:
    level = node.attributes.get("accuracy_level")
    return node.op_type == "MatMulNBits" and (level is None or level.as_int() != INT8_ACCURACY_LEVEL)
