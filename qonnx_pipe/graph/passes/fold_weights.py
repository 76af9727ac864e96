"""Weights that pass through a constant Transpose, Cast or Identity are stored as they are used."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx_pipe.graph.constants import Constant, add_initializer, constant


class FoldWeights(ir.passes.InPlacePass):
    """Replace constant data movement by its result.

    Cases:
        1. Transpose of a constant, unless the constant is used elsewhere too: a tied table stays stored once.
        2. Cast of a constant to another number type, under the same condition.
        3. Identity of a constant: its users read the constant itself.
        4. Chains of these.

    Requires: nothing. Ensures: the weight of such a MatMul is an initializer [in, out]; outputs of the graph,
    subgraphs, and constants that a caller can override (graph inputs) stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in graph order, so that chains fold in one run."""
        modified = False
        for node in list(model.graph):
            if node.domain not in ("", "ai.onnx") or node.op_type not in _FOLDS or node.outputs[0].is_graph_output():
                continue
            source, array = node.inputs[0], constant(node.inputs[0])
            if source is None or array is None:
                continue
            if node.op_type == "Identity":
                folded = source
            elif len(source.uses()) > 1 or (result := _apply(node, array)) is None:
                continue
            else:
                name, node.outputs[0].name = node.outputs[0].name, None
                folded = add_initializer(model.graph, str(name), result)
            node.outputs[0].replace_all_uses_with(folded)
            model.graph.remove(node, safe=True)
            if not source.uses() and source.name in model.graph.initializers:
                model.graph.initializers.pop(str(source.name))
            modified = True
        return ir.passes.PassResult(model, modified)


_FOLDS = ("Transpose", "Cast", "Identity")


def _apply(node: ir.Node, array: Constant) -> Constant | None:
    if node.op_type == "Transpose":
        order = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
        return array.transpose(order)
    target = ir.DataType(node.attributes["to"].as_int())
    plain = target in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64)
    with np.errstate(over="ignore"):
        return array.astype(target.numpy()) if plain and array.dtype.kind in "fiu" else None
