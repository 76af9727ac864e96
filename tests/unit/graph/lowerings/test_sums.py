"""Sums in front of a normalisation, and of integer products, are written as Sub or Sum, and nothing else is."""

import numpy as np
import onnx
import pytest
from onnx import helper

from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.sums import keep_norms_apart, subtract_products
from tests.unit.graph.lowerings.tiny import WIDTH, outliers, run
from tests.zoo import graphs


def test_only_the_add_that_a_norm_reads_changes_and_the_result_stays(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"], "first"),
        helper.make_node("Add", ["a", "x"], ["b"], "second"),
        helper.make_node("LayerNormalization", ["b", "gain"], ["n"], "norm"),
        helper.make_node("Add", ["n", "b"], ["y"], "third"),
    ]
    ports = [graphs.tensor(name, ["batch", WIDTH]) for name in "xy"]
    path = graphs.save(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], {"gain": np.ones(WIDTH, np.float32)})
    model = io.load(path)
    keep_norms_apart(Emitter(model.graph))
    io.save(model, tmp_path / "n.onnx")
    found = {node.name: node.op_type for node in onnx.load(tmp_path / "n.onnx").graph.node}
    assert found == {"first": "Add", "second": "Sum", "norm": "LayerNormalization", "third": "Add"}
    x = outliers(3, WIDTH)
    np.testing.assert_allclose(run(tmp_path / "n.onnx", x=x)[0], run(path, x=x)[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("pieces", "bias"), [(1, True), (1, False), (3, True)])
def test_an_integer_product_is_subtracted_with_its_sign_turned_bit_for_bit(tmp_path, pieces, bias):
    rng = np.random.default_rng(0)
    constants = {"scale": np.float32(0.3), "zero": np.uint8(99), "s": rng.uniform(0.01, 0.02, WIDTH).astype(np.float32)}
    constants |= {"gain": np.ones(WIDTH, np.float32)}
    constants |= {"b": rng.normal(0, 1, WIDTH).astype(np.float32)} if bias else {}
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], "quantize")]
    for i in range(pieces):
        constants[f"w{i}"] = rng.integers(-127, 127, (WIDTH, WIDTH)).astype(np.int8)
        inputs = ["codes", f"w{i}", "scale", "s", "zero", "", "b" if bias and i == 0 else ""]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [f"p{i}"], f"linear{i}", domain="com.microsoft"))
    names = [f"p{i}" for i in range(pieces)]
    if pieces > 1:
        nodes.append(helper.make_node("Sum", names, ["p"], "pieces"))
    nodes.append(helper.make_node("Add", ["p" if pieces > 1 else "p0", "x"], ["a"], "residual"))
    nodes.append(helper.make_node("LayerNormalization", ["a", "gain"], ["n"], "norm"))
    nodes.append(helper.make_node("MatMulIntegerToFloat", inputs[:5], ["other"], "tied", domain="com.microsoft"))
    ports = [graphs.tensor(name, ["batch", WIDTH]) for name in ("x", "a", "n", "other")]
    path = graphs.save(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], constants)
    model = io.load(path)
    emit = Emitter(model.graph)
    keep_norms_apart(emit)
    subtract_products(emit)
    model.graph.sort()
    io.save(model, tmp_path / "n.onnx")
    found = {node.name: node.op_type for node in onnx.load(tmp_path / "n.onnx").graph.node}
    assert found["residual"] == "Sub"
    assert "Sum" not in found.values()
    assert {f"linear{i}" for i in range(pieces)} <= set(found)
    x = outliers(3, WIDTH)
    for before, after in zip(run(path, x=x), run(tmp_path / "n.onnx", x=x), strict=True):
        np.testing.assert_array_equal(after, before)
