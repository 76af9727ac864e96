"""The passes that simplify a float graph, in their order, and why this order."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from qonnx_pipe.graph.passes.deduplicate import Deduplicate
from qonnx_pipe.graph.passes.fold_weights import FoldWeights
from qonnx_pipe.graph.passes.fuse_gelu import FuseGelu
from qonnx_pipe.graph.passes.fuse_layer_norm import FuseLayerNorm
from qonnx_pipe.graph.passes.infer_shapes import InferShapes
from qonnx_pipe.graph.passes.sink_expand import SinkExpand
from qonnx_pipe.graph.passes.static_shapes import StaticShapes
from qonnx_pipe.graph.passes.unflatten_gemm import UnflattenGemm

SHAPE_ROUNDS = 3
"""A layer has two Reshapes behind each other, and all layers are done at once; rounds end when nothing changes."""


def simplifying() -> ir.passes.Sequential:
    """The passes in order; run them after onnxsim."""
    return ir.passes.Sequential(
        # One kind of constant: every later pass reads initializers.
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        # Weights in their final layout, before anything looks for [in, out].
        FoldWeights(),
        # Fusions need the size of the last axis.
        InferShapes(),
        FuseGelu(),
        FuseLayerNorm(),
        SinkExpand(),
        # Shapes become known behind a Reshape that became static, and make the next one match.
        ir.passes.PassManager(
            [UnflattenGemm(), StaticShapes(), RemoveUnusedNodesPass(), InferShapes()],
            steps=SHAPE_ROUNDS,
            early_stop=True,
        ),
        # Last, since the passes above leave equal constants behind.
        Deduplicate(),
        RemoveUnusedNodesPass(),
        ClearMetadataAndDocStringPass(),
    )
