"""Weight MatMuls are found in every form, with what would keep them float."""

import numpy as np
import pytest
from onnx import helper

from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph.linears import linears
from tests.zoo import graphs


def test_a_float_matmul(tmp_path):
    (found,) = linears(graphs.float_matmul(tmp_path / "m.onnx"))
    assert (found.node, found.op_type, found.weight) == ("matmul", "MatMul", "weight")
    assert (found.integer, found.obstacle, found.form) == (False, "weight not quantized", "FLOAT[32,32]")


@pytest.mark.parametrize(
    ("options", "obstacle"),
    [
        ({}, ""),
        ({"quantize_activation": False}, "activation not quantized"),
        ({"kind": np.uint16}, "16-bit activation"),
        ({"per_axis": True}, "per-axis activation"),
        ({"kind": np.int8, "readers": 2}, "int8 activation that feeds several MatMuls"),
        ({"bias": "gemm"}, "Gemm with a float bias"),
        ({"bias": "gemm", "zero_point": False}, "needs a DequantizeLinear with a zero point"),
    ],
)
def test_a_qdq_matmul_is_named_by_its_codes_and_says_what_hinders_it(tmp_path, options, obstacle):
    found = linears(graphs.qdq_matmul(tmp_path / "m.onnx", **options))
    assert [one.weight for one in found] == [f"w{i}_codes" for i in range(options.get("readers", 1))]
    assert all(obstacle in one.obstacle for one in found)
    assert obstacle or not any(one.obstacle for one in found)


def test_products_of_two_activations_are_no_weight_matmuls(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["y"], "scores"),
    ]
    shape = ["batch", "sequence", graphs.WIDTH]
    inputs, outputs = [graphs.tensor("x", shape)], [graphs.tensor("y", ["batch", "sequence", "sequence"])]
    assert linears(graphs.save(tmp_path / "m.onnx", nodes, inputs, outputs, {})) == ()


@pytest.mark.parametrize(("level", "integer"), [(4, True), (0, False), (None, False)])
def test_matmulnbits_is_integer_only_where_it_says_so(tmp_path, level, integer):
    width, block = graphs.WIDTH, 32
    options = {} if level is None else {"accuracy_level": level}
    node = helper.make_node(
        *("MatMulNBits", ["x", "codes", "scales"], ["y"], "nbits"),
        domain="com.microsoft", K=width, N=width, bits=4, block_size=block, **options,
    )  # fmt: skip
    constants = {
        "codes": np.full((width, width // block, block // 2), 0x88, np.uint8),
        "scales": np.ones((width, width // block), np.float32),
    }
    shape = ["batch", "sequence", width]
    path = graphs.save(tmp_path / "m.onnx", [node], [graphs.tensor("x", shape)], [graphs.tensor("y", shape)], constants)
    (found,) = linears(path)
    assert (found.weight, found.integer) == ("codes", integer)
    assert found.form.startswith("UINT8[32,1,16] K=32 N=32")
    assert "bits=4 block_size=32" in found.form
    assert ("computes in float" in found.obstacle) is not integer


def test_a_missing_or_damaged_file_is_a_model_error(tmp_path):
    with pytest.raises(ModelError):
        linears(tmp_path / "none.onnx")
    path = graphs.float_matmul(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError):
        linears(path)
