"""A weight that a model uses in several places is stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qonnx_pipe.graph.constants import Constant, constant

_Key = tuple[str, tuple[int, ...], bytes]


class Deduplicate(ir.passes.InPlacePass):
    """Share initializers with the same content.

    Cases:
        1. Same type, shape and bytes (ALBERT's layers, tied embeddings): the first one stays.
        2. The matrix of a MatMul that is the transpose of a table that a Gather reads (the language-model head tied
           to the word embedding): the MatMul reads a Transpose of the table.

    Requires: nothing. Ensures: no two initializers of the main graph have the same content; those that are inputs or
    outputs of the graph, and subgraphs' own, stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Case 1 for all, then case 2."""
        kept: dict[_Key, ir.Value] = {}
        modified = False
        for name, value in list(model.graph.initializers.items()):
            array = constant(value)
            if array is None or value.is_graph_output():
                continue
            first = kept.setdefault(_key(array), value)
            if first is not value:
                value.replace_all_uses_with(first)
                model.graph.initializers.pop(name)
                modified = True
        return ir.passes.PassResult(model, _tie_heads(model.graph, kept) or modified)


def _tie_heads(graph: ir.Graph, kept: Mapping[_Key, ir.Value]) -> bool:
    tables = {value: key for key, value in kept.items() if any(use.node.op_type == "Gather" for use in value.uses())}
    modified = False
    for node in [node for node in graph if node.op_type == "MatMul"]:
        weight, array = node.inputs[1], constant(node.inputs[1])
        if weight is None or array is None or array.ndim != 2 or len(weight.uses()) > 1 or weight.is_graph_output():
            continue
        if not any(key[1] == array.shape[::-1] for key in tables.values()):
            continue
        table = kept.get(_key(np.ascontiguousarray(array.T)))
        if table in tables and table is not weight:
            transpose = ir.node("Transpose", [table], attributes={"perm": [1, 0]}, name=f"{node.name}/tied")
            transpose.outputs[0].name = f"{weight.name}_tied"
            graph.insert_before(node, transpose)
            node.replace_input_with(1, transpose.outputs[0])
            graph.initializers.pop(str(weight.name))
            modified = True
    return modified


def _key(array: Constant) -> _Key:
    return array.dtype.name, array.shape, hashlib.sha256(array.tobytes()).digest()
