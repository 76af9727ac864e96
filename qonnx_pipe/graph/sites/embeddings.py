"""Embeddings: tables, their sums and their normalisation, backwards from the first layer's input."""

from __future__ import annotations

import onnx_ir as ir

from qonnx_pipe.core.site import Role
from qonnx_pipe.graph.sites.attention import Attention
from qonnx_pipe.graph.sites.collector import Collector
from qonnx_pipe.graph.walk import attribute, constant_shape, is_constant, is_matrix, through_moves

TYPE_TABLE_ROWS = 16
"""Tables with at most so many rows hold segment types: type vocabularies have 1 or 2 rows, positions tens and more."""


def place_embeddings(collector: Collector, first: Attention) -> None:
    """Place everything before the first layer.

    1. BERT, RoBERTa, MPNet, DistilBERT: tables → sums → LayerNormalization → layer 0.
    2. ALBERT, ELECTRA: … → LayerNormalization → projection (a linear layer) → layer 0.
    3. DeBERTa: … → LayerNormalization → Mul by the padding mask → layer 0.
    4. ViT: patches → sum with the positions → layer 0's own LayerNormalization (pre-norm).
    """
    entry = through_moves(first.query.source)
    projection = next((linear for linear in collector.linears if linear.output is entry), None)
    if projection is not None:
        collector.place(Role.EMBEDDING_PROJECTION, None, entry)
        collector.own(projection, Role.EMBEDDING_PROJECTION, None)
        entry = through_moves(projection.source)
    collector.place(Role.EMBEDDING_NORM, None, entry)
    norm = _back_to_norm(entry)
    if norm is None or norm.inputs[0] is None:
        collector.skip(str(entry.name), "the first layer's input comes from no LayerNormalization")
        return
    sums, leaves = _sum_tree(norm.inputs[0])
    for value in sums:
        collector.place(Role.EMBEDDING_SUM, None, value)
    _place_tables(collector, leaves)


def _back_to_norm(value: ir.Value) -> ir.Node | None:
    """The LayerNormalization that computed `value`, behind data movement and masks."""
    frontier = [value]
    for current in frontier:
        node = through_moves(current).producer()
        if node is not None and node.op_type == "LayerNormalization":
            return node
        if node is not None and node.op_type in ("Mul", "Where"):
            frontier += [operand for operand in node.inputs if operand is not None]
    return None


def _sum_tree(value: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
    """Sums below `value`, innermost first, and the summands that are no sums."""
    node = through_moves(value).producer()
    if node is None or node.op_type != "Add":
        return [], [value]
    sums: list[ir.Value] = []
    leaves: list[ir.Value] = []
    for summand in node.inputs:
        if summand is not None and not is_constant(summand):
            inner, ends = _sum_tree(summand)
            sums += inner
            leaves += ends
    return [*sums, node.outputs[0]], leaves


def _place_tables(collector: Collector, leaves: list[ir.Value]) -> None:
    """Tell the tables apart: indexed by a graph input and largest → word; few rows → type; else → position."""
    tables = {node: table for leaf in leaves if (node := _gather(leaf)) and (table := node.inputs[0])}
    rows = {node: constant_shape(table)[0] for node, table in tables.items()}
    direct = [node for node in rows if node.inputs[1] is not None and through_moves(node.inputs[1]).is_graph_input()]
    word = max(direct, key=lambda node: rows[node], default=None)
    for node, table in tables.items():
        if node is word:
            role = Role.EMBEDDING_WORD
        elif rows[node] <= TYPE_TABLE_ROWS:
            role = Role.EMBEDDING_TYPE
        else:
            role = Role.EMBEDDING_POSITION
        collector.table(role, table, node)


def _gather(value: ir.Value) -> ir.Node | None:
    """The Gather of rows of a constant matrix that computes `value`, behind data movement."""
    node = through_moves(value).producer()
    is_rows = node is not None and node.op_type == "Gather" and attribute(node, "axis", 0) == 0
    return node if node is not None and is_rows and is_matrix(node.inputs[0]) else None
