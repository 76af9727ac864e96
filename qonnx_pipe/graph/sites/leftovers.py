"""Leftovers: weighted operators that no role covers, each with the reason why it stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from qonnx_pipe.core.site import Skipped
from qonnx_pipe.graph.sites.collector import Collector
from qonnx_pipe.graph.walk import MOVES, consumers, is_constant, is_matrix, through_moves

OTHER_WEIGHTS = frozenset({"Conv", "ConvTranspose", "LSTM", "GRU", "RNN"})
FUSED = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"})
QUANTIZED = frozenset({"DequantizeLinear", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "DynamicQuantizeLinear"})


def leftovers(graph: ir.Graph, collector: Collector) -> Iterator[Skipped]:
    """What holds weights and has no role.

    1. Linear layers outside of any structure that is understood: they are sites all the same.
    2. Convolutions and recurrent layers (ViT's patches).
    3. MatMul with a constant that is no float32 matrix [in, out]: tied to a table behind a Transpose (the head of a
       language model), or relative positions behind a Tile (DeBERTa).
    4. Tables that add nothing to the embedding (MPNet's relative positions).
    5. Attention in one fused operator, and operators that are quantized already.
    """
    linears = {linear.node: linear for linear in collector.linears}
    for node in graph:
        if node in linears:
            reason = (
                "" if collector.is_owned(linears[node]) else "a linear layer outside attention, FFN, pooler and head"
            )
        else:
            reason = "" if node.name in collector.claimed else _reason(node)
        if reason:
            yield Skipped(str(node.name), reason)


def _reason(node: ir.Node) -> str:
    if node.op_type in OTHER_WEIGHTS:
        return f"{node.op_type} with weights: only MatMul, Gemm and embedding tables are quantized"
    if node.op_type in FUSED:
        return f"{node.op_type} is one fused operator: export the model without fused attention"
    if node.op_type in QUANTIZED:
        return f"{node.op_type}: the model is quantized already"
    if node.op_type == "Gather" and is_matrix(node.inputs[0]):
        return "a table that is no part of the embedding's sum (relative positions?) stays float"
    return _product(node) if node.op_type in ("MatMul", "Gemm") else ""


def _product(node: ir.Node) -> str:
    """Why a MatMul or Gemm with a constant operand is no linear layer."""
    for operand in (value for value in node.inputs[:2] if value is not None):
        source = _constant_origin(operand)
        if source is not None and any(reader.op_type == "Gather" for reader in consumers(source)):
            return "its weight is tied to an embedding table: computed in float"
        if source is not None:
            return "it multiplies by a constant that is no float32 matrix [in, out] (relative positions?): stays float"
    return ""


def _constant_origin(value: ir.Value) -> ir.Value | None:
    """The constant that `value` holds elements of."""
    origin = through_moves(value)
    node = origin.producer()
    if node is not None and node.op_type in MOVES:
        origin = node.inputs[0] or origin
    return origin if is_constant(origin) else None
