"""Expand: a session computes what numpy says, in one integer MatMul, whatever form the layer has."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from qonnx_pipe.core.encoding import Encoding, Windows
from qonnx_pipe.core.numerics import fake_quantize, sqnr_db
from qonnx_pipe.core.numerics import quantize as codes_of
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from tests.unit.graph.lowerings.test_linear import FORMS, PER_TENSOR
from tests.unit.graph.lowerings.tiny import (
    EPSILON,
    INT8,
    OUT,
    WIDTH,
    Layers,
    activation,
    encode,
    kernels,
    per_tensor,
    quantized,
    run,
    weight,
)
from tests.zoo import graphs

COLUMNS = [(dimension, sign * place) for dimension in (5, 20) for sign in (1, -1) for place in (1, 2, 3)]


def windowed(dtype: str = "uint8", low: float = -25, high: float = 35) -> Encoding:
    """[-25, 35] for every dimension, and three windows more on both sides for the two outliers."""
    kind = QTYPES[dtype]
    step = (high - low) / kind.levels
    layout = Windows(WIDTH, tuple(d for d, _ in COLUMNS), tuple(p for _, p in COLUMNS))
    return Encoding(kind, layout, np.float32(step), np.int32(round(kind.qmin - low / step)))


def assert_close(layers, path, x, coding, spec=INT8):
    """Within the bound of `Layers.expected`, over the magnitudes of all columns and of the constants in the bias.

    A column that rests adds a constant that the bias takes out: two terms of the float32 sum like any other.
    """
    codes, rows = codes_of(x, coding), list(coding.granularity.rows)
    columns = np.abs((codes.astype(np.int64) - coding.zero_point) * np.float64(coding.scale))
    for i, found in enumerate(run(path, x=x)):
        expected, _ = layers.expected(i, x, coding, spec)
        encoding, weights = encode(weight("w", spec=spec), layers.weights[i])
        w = np.abs((weights.astype(np.int64) - encoding.zero_point) * encoding.scale.astype(np.float64))
        bound = (
            (len(rows) + 6) * EPSILON * (columns @ w[rows] + columns.reshape(-1, len(rows)).max(axis=0) @ w[rows] + 4)
        )
        assert np.all(np.abs(found - expected) <= bound)


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("spec", [INT8, PER_TENSOR], ids=["per_channel", "per_tensor"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lowering", ["integer", "qdq"])
def test_one_integer_matmul_reads_all_columns(tmp_path, form, spec, readers, lowering):
    layers, coding = Layers(form, readers), windowed()
    x = layers.x()
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(weight_spec=spec, lowering=lowering), {"x": coding})
    assert_close(layers, path, x, coding, spec)
    ran = kernels(path, x=x)
    assert (ran.total, ran.integer) == (readers, readers), ran.floats


def test_readers_share_the_columns(tmp_path):
    layers = Layers("matmul_add", 3)
    plan = layers.plan(lowering="integer")
    path = quantized(layers.save(tmp_path / "m.onnx"), plan, {"x": windowed()})
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("QuantizeLinear") == 2
    assert operators.count("Gather") == operators.count("Concat") == 1
    assert operators.count("MatMulIntegerToFloat") == 3
    assert len(operators) == 8


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_the_sessions_codes_are_numpys(tmp_path, dtype):
    layers, coding = Layers("matmul"), windowed(dtype)
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(lowering="integer"), {"x": coding})
    model = onnx.load(path)
    joined = next(node.output[0] for node in model.graph.node if node.op_type == "Concat")
    model.graph.output.append(onnx.ValueInfoProto(name=joined))
    x = layers.x()
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run([joined], {"x": x})[0]
    expected = codes_of(x, coding)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_other_readers_get_the_sum_of_the_columns(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["y0"], "linear0"), helper.make_node("Neg", ["x"], ["n"], "neg")]
    shape = ["batch", "sequence"]
    outputs = [graphs.tensor("y0", [*shape, OUT]), graphs.tensor("n", [*shape, WIDTH])]
    layers, coding = Layers("matmul"), windowed()
    source = graphs.save(
        tmp_path / "m.onnx", nodes, [graphs.tensor("x", [*shape, WIDTH])], outputs, {"w0": layers.weights[0]}
    )
    plan = QuantPlan("cpu", "full", (activation("x", "linear0"), weight("w0", "linear0", lowering="integer")))
    path, x = quantized(source, plan, {"x": coding}), layers.x()
    matmul, negated = run(path, x=x)
    np.testing.assert_allclose(-negated, fake_quantize(x, coding), rtol=0, atol=200 * 16 * EPSILON)
    assert sqnr_db(layers.expected(0, x, coding)[0], matmul) > 90


def test_outliers_get_the_resolution_of_the_rest(tmp_path):
    layers = Layers("matmul_add")
    x = layers.x()
    exact = x.astype(np.float64) @ layers.weights[0] + layers.biases[0]
    found = {}
    for name, coding in {"plain": per_tensor(x), "windows": windowed(low=-18, high=18)}.items():
        path = quantized(layers.save(tmp_path / f"{name}.onnx"), layers.plan(lowering="integer"), {"x": coding})
        found[name] = sqnr_db(exact, run(path, x=x)[0])
    assert found["windows"] > found["plain"] + 8
