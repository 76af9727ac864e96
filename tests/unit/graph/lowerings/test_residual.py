"""Residual sums in front of a normalisation are written as Sum, and nothing else is."""

import numpy as np
import onnx
from onnx import helper

from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.residual import keep_norms_apart
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
    keep_norms_apart(model.graph)
    io.save(model, tmp_path / "n.onnx")
    found = {node.name: node.op_type for node in onnx.load(tmp_path / "n.onnx").graph.node}
    assert found == {"first": "Add", "second": "Sum", "norm": "LayerNormalization", "third": "Add"}
    x = outliers(3, WIDTH)
    np.testing.assert_allclose(run(tmp_path / "n.onnx", x=x)[0], run(path, x=x)[0], rtol=1e-5, atol=1e-4)
