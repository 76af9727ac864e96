"""Shapes of inner values are inferred anew, so that older and vaguer ones do not stand in the way."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass


class InferShapes(ir.passes.InPlacePass):
    """Forget the shapes of inner values and infer them with ONNX's own rules.

    Requires: nothing. Ensures: shapes of the graph's inputs and outputs stay; where inference fails the shapes of
    inner values that it cannot tell are restored. Subgraphs are inferred too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Truthful about shapes: modified means that one of them differs, symbols' names included."""
        inner = [value for node in model.graph for value in node.outputs if not value.is_graph_output()]
        before = {value: value.shape for value in inner}
        for value in inner:
            value.shape = None
        ShapeInferencePass(strict_mode=False, data_prop=True)(model)
        for value in inner:
            if value.shape is None:
                value.shape = before[value]
        return ir.passes.PassResult(model, any(value.shape != before[value] for value in inner))
