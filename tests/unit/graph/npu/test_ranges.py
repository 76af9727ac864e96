"""Ranges case by case; what a run computes lies within; what has none is named."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.npu.form import MASK, npu_form
from qonnx_pipe.graph.npu.ranges import Range, complete
from tests.unit.graph.npu import tiny
from tests.zoo import graphs

KNOWN = Range(-2.0, 3.0, 16)
SHAPE = [2, 4]


def completed(
    tmp_path: Path, nodes: list[onnx.NodeProto], known: dict[str, Range], *shape: int, **constants: np.ndarray
) -> dict[str, Range]:
    """x [2, 4] and a mask of whole numbers → out; ranges by name."""
    inputs = [graphs.tensor("x", SHAPE), graphs.tensor(MASK, SHAPE, TensorProto.INT64)]
    path = graphs.save(tmp_path / "m.onnx", nodes, inputs, [graphs.tensor("out", shape or SHAPE)], constants)
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
    graph = io.load(path).graph
    values = {str(value.name): value for node in graph for value in node.outputs}
    values |= {str(value.name): value for value in graph.inputs}
    found = complete(graph, {values[name]: limits for name, limits in known.items()}, bits=8)
    return {str(value.name): limits for value, limits in found.items()}


def node(op_type: str, *operands: str, out: str = "out", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, operands, [out], out, **attributes)


def test_data_movement_keeps_the_range(tmp_path: Path) -> None:
    nodes = [node("Transpose", "x", out="turned", perm=[1, 0]), node("Reshape", "turned", "flat")]
    found = completed(tmp_path, nodes, {"x": KNOWN}, 8, flat=np.int64([-1]))
    assert found["turned"] == found["out"] == KNOWN


def test_what_is_looked_up_has_the_range_of_its_table(tmp_path: Path) -> None:
    table = np.float32([[-1, 5], [2, 0]])
    nodes = [node("Gather", "table", MASK)]
    assert completed(tmp_path, nodes, {}, 2, 4, 2, table=table)["out"] == Range(-1, 5, 8)


def test_probabilities_lie_between_0_and_1(tmp_path: Path) -> None:
    assert completed(tmp_path, [node("Softmax", "x")], {"x": KNOWN})["out"] == Range(0, 1, 16)


@pytest.mark.parametrize(("operator", "expected"), [("Add", (-3.0, 7.0)), ("Sub", (-6.0, 4.0)), ("Mul", (-8.0, 12.0))])
def test_intervals_go_through_arithmetic_with_constants(
    tmp_path: Path, operator: str, expected: tuple[float, float]
) -> None:
    found = completed(tmp_path, [node(operator, "x", "c")], {"x": KNOWN}, c=np.float32([-1, 4, 0, 1]))
    assert found["out"] == Range(*expected, 16), "the bits are those of x, not of the constant"


@pytest.mark.parametrize(
    ("operator", "behind", "expected"),
    [("Gelu", (-0.17, 0.8413447), (-4.0, 1.0)), ("Relu", (0.0, 3.0), (0.0, 3.0)), ("Tanh", (-0.9, 0.8), (-4.0, 4.0))],
)
@pytest.mark.parametrize("moved", [False, True])
def test_in_front_of_a_function_that_is_flat(
    tmp_path: Path, operator: str, behind: tuple[float, float], expected: tuple[float, float], moved: bool
) -> None:
    middle = [node("Reshape", "product", "same", out="shaped")] if moved else []
    nodes = [node("MatMul", "x", "w", out="product"), *middle, node(operator, "shaped" if moved else "product")]
    constants = {"w": np.ones((4, 4), np.float32)} | ({"same": np.int64(SHAPE)} if moved else {})
    found = completed(tmp_path, nodes, {"x": KNOWN, "out": Range(*behind, 8)}, **constants)
    assert (found["product"].low, found["product"].bits) == (expected[0], 8)
    assert found["product"].high == pytest.approx(expected[1], abs=1e-5), "Gelu(1) is Φ(1)"


@pytest.mark.parametrize("first", [False, True])
def test_scores_behind_a_mask_reach_a_little_below(tmp_path: Path, first: bool) -> None:
    nodes = [
        node("Cast", MASK, out="real", to=TensorProto.FLOAT),
        node("Mul", "real", "far", out="padding"),
        node("Add", *(("padding", "x") if first else ("x", "padding")), out="masked"),
        node("Softmax", "masked"),
    ]
    found = completed(tmp_path, nodes, {"x": KNOWN}, far=np.float32([-100]))
    assert found["real"] == Range(0, 1, 8)
    assert found["padding"] == Range(-100, 0, 8), "the mask itself has all of its range"
    assert found["masked"] == Range(-12, 3, 16)


@pytest.mark.parametrize(("operator", "operands"), [("MatMul", ("x", "w")), ("Mul", ("x", "x")), ("Erf", ("x",))])
def test_a_tensor_that_has_none_is_named(tmp_path: Path, operator: str, operands: tuple[str, ...]) -> None:
    constants = {"w": np.ones((4, 4), np.float32)} if "w" in operands else {}
    with pytest.raises(ModelError, match=f"no range is known for out, which {operator} computes") as caught:
        completed(tmp_path, [node(operator, *operands)], {"x": KNOWN}, **constants)
    assert caught.value.where == "out"
    assert caught.value.fix


@pytest.mark.parametrize("scaling", ["div", "behind"])
def test_what_a_run_computes_lies_within(tmp_path: Path, scaling: str) -> None:
    """Of everything that is not known, from the ranges of what is: sums of linear layers, norms, scores, functions."""
    source = tiny.Encoder(layers=2, scaling=scaling).save(tmp_path / "float.onnx")
    model = io.load(source)
    npu_form(model, tiny.SHAPE)
    io.save(model, tmp_path / "form.onnx")
    computed = ("Gemm", "MatMul", "LayerNormalization", "Gelu", "Tanh")
    floats = [value for n in model.graph for value in n.outputs if value.dtype is ir.DataType.FLOAT]
    feeds = tiny.inputs()
    seen = tiny.run(tmp_path / "form.onnx", feeds, *(str(value.name) for value in floats))
    into_flat = {value for n in model.graph if n.op_type in ("Gelu", "Tanh") for value in before(n)}
    known = {
        value: Range(float(seen[str(value.name)].min()), float(seen[str(value.name)].max()), 8)
        for value in floats
        if value.producer().op_type in computed and value not in into_flat
    }
    found = complete(model.graph, known, bits=8)
    assert set(found) == set(floats)
    masked = {str(n.outputs[0].name) for n in model.graph if str(n.name).endswith(".masked")}
    assert len(masked) == 2
    for value, limits in found.items():
        values = seen[str(value.name)]
        if value in into_flat:
            values = values.clip(-4, 4)  # flat beyond
        elif value.name in masked:
            values = values[values > -50]  # what padding gets is below on purpose
        assert limits.low - 1e-6 <= values.min(), value.name
        assert values.max() <= limits.high + (1e-5 if value in into_flat else 1e-6), value.name


def before(function: ir.Node) -> list[ir.Value]:
    """The values in front of a function, back through one Reshape to a Gemm."""
    value = function.inputs[0]
    producer = value.producer()
    return [value] if producer.op_type == "Gemm" else [value, producer.inputs[0]]
