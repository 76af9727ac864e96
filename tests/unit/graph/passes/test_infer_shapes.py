"""Shapes become as precise as ONNX's rules allow, and nothing that was known gets lost."""

import onnx_ir as ir

from qonnx_pipe.graph.passes.infer_shapes import InferShapes
from tests.unit.graph.passes.contract import parse


def value(model: ir.Model, name: str) -> ir.Value:
    return next(out for node in model.graph for out in node.outputs if out.name == name)


def test_a_vague_shape_becomes_precise() -> None:
    model = parse("g (float[B,4] x) => (float[B,4] y) { a = Neg(x) y = Abs(a) }")
    value(model, "a").shape = ir.Shape(["old", "older"])
    assert InferShapes()(model).modified
    assert value(model, "a").shape == ir.Shape(["B", 4])
    assert not InferShapes()(model).modified


def test_what_cannot_be_inferred_keeps_its_shape() -> None:
    model = parse("g (float[B,4] x) => (float[B,4] y) { a = Neg(x) y = Abs(a) }")
    odd = ir.node("Odd", [value(model, "a")], domain="elsewhere", name="odd")
    odd.outputs[0].name = "b"
    odd.outputs[0].shape = ir.Shape([7])
    model.graph.insert_before(model.graph[-1], odd)
    model.graph.opset_imports["elsewhere"] = 1
    InferShapes()(model)
    assert value(model, "b").shape == ir.Shape([7])


def test_the_frame_of_the_graph_stays() -> None:
    model = parse("g (float[B,4] x) => (float[C,D] y) { y = Neg(x) }")
    InferShapes()(model)
    assert [str(item.shape) for item in (model.graph.inputs[0], model.graph.outputs[0])] == ["[B,4]", "[C,4]"]
