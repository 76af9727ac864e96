"""`placement: full`: every reader of a site gets the quantized tensor, whole and in its own order."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from qonnx_pipe.core.numerics import fake_quantize
from qonnx_pipe.core.plan import QuantPlan
from tests.unit.graph.lowerings.tiny import (
    EPSILON,
    WIDTH,
    activation,
    displaced,
    kernels,
    known_weight,
    outliers,
    per_group,
    per_tensor,
    quantized,
    run,
    weight,
)
from tests.zoo import graphs

SHUFFLED = np.random.default_rng(3).permutation(WIDTH).tolist()
CODINGS = {
    "per_tensor": per_tensor,
    "int16": lambda x: per_tensor(x, "int16"),
    "one_group": lambda x: per_group(x, (WIDTH,), SHUFFLED),
    "groups": lambda x: per_group(x, (12, 10, 10)),
    "permuted": lambda x: per_group(x, (30, 2), SHUFFLED),
    "dimensions": lambda x: per_group(x, (1,) * WIDTH, SHUFFLED),
}
SQUARE = np.random.default_rng(2).normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32)


def residual(path):
    """s = a + b is a site; it feeds a linear layer, the residual sum y = s + s·W, and is an output itself."""
    shape = ["batch", "sequence", WIDTH]
    nodes = [
        helper.make_node("Add", ["a", "b"], ["s"], "first"),
        helper.make_node("MatMul", ["s", "w"], ["h"], "linear"),
        helper.make_node("Add", ["h", "s"], ["y"], "second"),
    ]
    inputs = [graphs.tensor(name, shape) for name in "ab"]
    return graphs.save(path, nodes, inputs, [graphs.tensor(name, shape) for name in "ys"], {"w": SQUARE})


def plan(placement, lowering="qdq"):
    return QuantPlan("cpu", placement, (activation("s", "linear"), weight("w", "linear", lowering=lowering)))


@pytest.mark.parametrize("lowering", ["qdq", "integer"])
@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS.keys())
def test_the_sum_and_the_output_read_what_the_linear_layer_reads(tmp_path, coding, lowering):
    a, b = outliers(2, 5, WIDTH, seed=0), outliers(2, 5, WIDTH, seed=1)
    encoding = coding(a + b)
    path = quantized(residual(tmp_path / "m.onnx"), plan("full", lowering), {"s": encoding})
    y, s = run(path, a=a, b=b)
    expected = fake_quantize(a + b, encoding)
    np.testing.assert_array_equal(s, expected)
    w = known_weight(SQUARE, encoding)
    bound = (WIDTH + 4) * EPSILON * (np.abs(expected) @ np.abs(w) + np.abs(expected) + displaced(encoding, w))
    assert np.all(np.abs(y - (expected + expected.astype(np.float64) @ w)) <= bound)
    assert [value.name for value in onnx.load(path).graph.output] == ["y", "s"]


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS.keys())
def test_placed_on_matmul_inputs_the_sum_stays_float(tmp_path, coding):
    a, b = outliers(2, 5, WIDTH, seed=0), outliers(2, 5, WIDTH, seed=1)
    path = quantized(residual(tmp_path / "m.onnx"), plan("matmul_inputs"), {"s": coding(a + b)})
    np.testing.assert_array_equal(run(path, a=a, b=b)[1], a + b)


def test_a_tensor_has_one_quantizer_however_many_read_it(tmp_path):
    x = outliers(2, 5, WIDTH)
    path = quantized(residual(tmp_path / "m.onnx"), plan("full"), {"s": per_tensor(x + x)})
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert (operators.count("QuantizeLinear"), operators.count("DequantizeLinear")) == (1, 2)
    assert kernels(path, a=x, b=x).fraction == 1


def test_a_matmul_without_bias_can_be_a_site_itself(tmp_path):
    a = outliers(2, 5, WIDTH)
    both = replace(plan("full"), entries=(*plan("full").entries, activation("h"), activation("y")))
    (whole,) = run(residual(tmp_path / "float.onnx"), a=a, b=a)[:1]
    codings = {"s": per_group(a + a, (16, 16)), "h": per_tensor(np.float32([-90, 90])), "y": per_tensor(whole)}
    y = run(quantized(residual(tmp_path / "m.onnx"), both, codings), a=a, b=a)[0]
    np.testing.assert_array_equal(y, fake_quantize(y, codings["y"]))
    assert np.abs(y - whole).max() < 0.02 * np.abs(whole).max()


def test_a_graph_input_can_be_a_site(tmp_path):
    a, b = outliers(2, 5, WIDTH, seed=0), outliers(2, 5, WIDTH, seed=1)
    coding = per_group(b, (30, 2), SHUFFLED)
    only = QuantPlan("cpu", "full", (activation("b"),))
    s = run(quantized(residual(tmp_path / "m.onnx"), only, {"b": coding}), a=a, b=b)[1]
    np.testing.assert_array_equal(s, a + fake_quantize(b, coding))
