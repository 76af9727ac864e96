"""Moves: quantizers behind operators that only move values, where onnxruntime would add its own and get them wrong."""

from __future__ import annotations

import onnx_ir as ir

from qonnx_pipe.graph.lowerings.emit import Emitter

MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"})
TYPED_OPSET = 21
"""The first opset whose QuantizeLinear says its type in an attribute too."""


def quantize_moved(emit: Emitter) -> None:
    """Repeat a quantizer of signed codes with one scale behind every operator that moves what it gave.

    onnxruntime (1.31) does so itself, from opset TYPED_OPSET on with an `output_dtype`, and its CPU provider then makes
    the codes on x86 unsigned without it: the file cannot be opened ("output_dtype INT8 does not match y_zero_point type
    UINT8"). Values stay as they are, bit for bit; the CPU provider and OpenVINO move codes and drop both quantizers.
    """
    if emit.graph.opset_imports.get("", 0) < TYPED_OPSET:
        return
    waiting = [node for node in emit.graph if _is_signed(node)]
    while waiting:
        real = waiting.pop()
        for reader in [
            usage.node for usage in real.outputs[0].uses() if usage.idx == 0 and usage.node.op_type in MOVES
        ]:
            moved = reader.outputs[0]
            if not moved.is_graph_output():
                waiting.append(_repeated(emit, real, moved))


def _is_signed(node: ir.Node) -> bool:
    """Whether a node is the end of an activation's quantizer to int8, with one scale for the tensor."""
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    codes, scale = node.inputs[0], node.inputs[1]
    made = codes.producer()
    whole = scale.shape is not None and len(scale.shape) == 0
    return made is not None and made.op_type == "QuantizeLinear" and codes.dtype == ir.DataType.INT8 and whole


def _repeated(emit: Emitter, real: ir.Node, moved: ir.Value) -> ir.Node:
    """Give the readers of `moved` its values behind the quantizer that `real` is the end of; the new end."""
    scale, zero_point = real.inputs[1:3]
    readers = list(moved.uses())
    (codes,) = emit.node("QuantizeLinear", (moved, scale, zero_point), f"{moved.name}_QuantizeLinear")
    codes.type, codes.shape = ir.TensorType(ir.DataType.INT8), moved.shape
    (result,) = emit.node("DequantizeLinear", (codes, scale, zero_point), f"{moved.name}_DequantizeLinear")
    result.type, result.shape = moved.type, moved.shape
    for usage in readers:
        usage.node.replace_input_with(usage.idx, result)
    end = result.producer()
    assert end is not None
    return end
