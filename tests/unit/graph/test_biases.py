"""A vector is added to what a linear layer gives, whatever bias it has; names and shared constants stay."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from qonnx_pipe.graph import io
from qonnx_pipe.graph.biases import add_to_biases
from tests.unit.graph.lowerings.tiny import OUT, Layers, run
from tests.zoo import graphs

FORMS = ["matmul", "matmul_add", "matmul_add_rank_2", "gemm", "gemm_plain", "gemm_transposed"]


@pytest.mark.parametrize("form", FORMS)
def test_the_output_grows_by_the_vector(tmp_path: Path, form: str) -> None:
    layers = Layers(form, readers=2)
    source = layers.save(tmp_path / "float.onnx")
    vector = np.linspace(-3, 3, OUT, dtype=np.float32)
    model = io.load(source)
    add_to_biases(model, {"linear1": vector})
    io.save(model, tmp_path / "more.onnx")
    onnx.checker.check_model(tmp_path / "more.onnx", full_check=True)
    before, after = run(source, x=layers.x()), run(tmp_path / "more.onnx", x=layers.x())
    np.testing.assert_array_equal(before[0], after[0])
    scale = np.abs(before[1]).max()
    np.testing.assert_allclose(after[1], before[1] + vector, atol=scale * 1e-6)
    names = [[port.name for port in onnx.load(path).graph.output] for path in (source, tmp_path / "more.onnx")]
    assert names[0] == names[1]


def test_a_bias_that_two_layers_share_changes_for_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", f"w{i}", "b"], [f"y{i}"], f"linear{i}") for i in range(2)]
    constants = {f"w{i}": np.eye(4, dtype=np.float32) for i in range(2)} | {"b": np.float32([1])}
    ports = [graphs.tensor(f"y{i}", ["batch", 4]) for i in range(2)]
    source = graphs.save(tmp_path / "float.onnx", nodes, [graphs.tensor("x", ["batch", 4])], ports, constants)
    model = io.load(source)
    add_to_biases(model, {"linear0": np.float32([1, 2, 3, 4])})
    io.save(model, tmp_path / "more.onnx")
    first, second = run(tmp_path / "more.onnx", x=np.zeros((1, 4), np.float32))
    assert (first.tolist(), second.tolist()) == ([[2, 3, 4, 5]], [[1, 1, 1, 1]])
