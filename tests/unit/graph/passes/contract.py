"""What every pass promises: same results, same names and shapes, a truthful `modified`, nothing left to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common
import onnxruntime as ort

Arrays = Mapping[str, np.ndarray]


def parse(text: str, *, opset: int = 21, **constants: np.ndarray) -> ir.Model:
    """A checked model from ONNX's text form; `constants` become initializers."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}]> '
    proto = onnx.parser.parse_model(header + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.checker.check_model(proto)
    for number, node in enumerate(proto.graph.node):
        node.name = f"node_{number}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def run(model: ir.Model, inputs: Arrays) -> dict[str, np.ndarray]:
    """Outputs of a session that optimizes nothing, by name."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def frame(model: ir.Model) -> list[tuple[str | None, str, str]]:
    """Names, types and shapes of the inputs and outputs."""
    return [(value.name, str(value.type), str(value.shape)) for value in (*model.graph.inputs, *model.graph.outputs)]


def bytes_of(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def check_rewrites(rewrite: ir.passes.InPlacePass, model: ir.Model, inputs: Arrays, *, atol: float = 1e-6) -> ir.Model:
    """Apply a pass that must change `model`, keep its contract, and then be done; returns the cleaned model."""
    before, expected, framed = bytes_of(model), run(model, inputs), frame(model)
    assert rewrite(model).modified
    assert bytes_of(model) != before
    assert frame(model) == framed
    once = bytes_of(model)
    assert not rewrite(model).modified, "a second run finds nothing"
    assert bytes_of(model) == once
    ir.passes.common.RemoveUnusedNodesPass()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    found = run(model, inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol)
    return model


def check_leaves(rewrite: ir.passes.InPlacePass, model: ir.Model) -> None:
    """Apply a pass that must not touch `model`."""
    before = bytes_of(model)
    assert not rewrite(model).modified
    assert bytes_of(model) == before
