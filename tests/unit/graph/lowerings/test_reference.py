"""Reference: per-axis quantizers give numpy's numbers, to every reader; the file says which session it needs."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from qonnx_pipe.core.numerics import fake_quantize
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.runtime.session import evaluate
from tests.unit.graph.lowerings.test_activation import SHUFFLED, residual
from tests.unit.graph.lowerings.tiny import (
    OUT,
    WIDTH,
    Layers,
    activation,
    known_weight,
    outliers,
    per_group,
    per_tensor,
    quantized,
)

CODINGS = {
    "per_tensor": per_tensor,
    "groups": lambda x: per_group(x, (12, 10, 10)),
    "permuted": lambda x: per_group(x, (30, 2), SHUFFLED),
    "dimensions": lambda x: per_group(x, (1,) * WIDTH, SHUFFLED),
    "six_bits": lambda x: per_group(0.5 * x, (1,) * WIDTH, SHUFFLED, "uint6"),
}


def plan_of(layers):
    """The layers' own plan with their input in form "reference"."""
    first, *weights = layers.plan(lowering="integer").entries
    return QuantPlan("cpu", "matmul_inputs", (replace(first, lowering="reference"), *weights))


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS.keys())
@pytest.mark.parametrize(("form", "readers"), [("matmul", 1), ("matmul_add", 3), ("gemm_transposed", 1)])
def test_linear_layers_read_numpys_numbers(tmp_path, form, readers, coding):
    layers = Layers(form, readers)
    x = layers.x()
    encoding = coding(x)
    path = quantized(layers.save(tmp_path / "m.onnx"), plan_of(layers), {"x": encoding})
    for i, found in enumerate(evaluate(path, {"x": x}).values()):
        w, seen = known_weight(layers.weights[i], None), fake_quantize(x, encoding).astype(np.float64)
        # A Gemm's int32 bias errs by half a step s_x·s_w; else float32 sums, as in Layers.expected.
        bound = 34 * 2.0**-24 * (np.abs(seen) @ np.abs(w) + np.abs(layers.biases[i])) + 0.5 * encoding.scale.max() / 127
        assert np.all(np.abs(found - seen @ w - layers.biases[i]) <= bound)


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS.keys())
def test_all_other_readers_do_too(tmp_path, coding):
    a, b = outliers(2, 5, WIDTH, seed=0), outliers(2, 5, WIDTH, seed=1)
    encoding = coding(a + b)
    plan = QuantPlan("cpu", "full", (replace(activation("s"), lowering="reference"),))
    path = quantized(residual(tmp_path / "m.onnx"), plan, {"s": encoding})
    np.testing.assert_array_equal(evaluate(path, {"a": a, "b": b})["s"], fake_quantize(a + b, encoding))


def test_the_file_names_its_session_only_where_it_needs_it(tmp_path):
    layers = Layers("matmul")
    x = layers.x()
    codings = {"x": per_tensor(x)}
    path = quantized(layers.save(tmp_path / "m.onnx"), plan_of(layers), codings)
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert found == {"qonnx_pipe.kept": "yes", "qonnx_pipe.session": "session.disable_quant_qdq=1"}
    plain = quantized(layers.save(tmp_path / "plain.onnx"), layers.plan(), codings)
    assert {entry.key for entry in onnx.load(plain).metadata_props} == {"qonnx_pipe.kept"}
    assert onnx.load(path).graph.output[0].type.tensor_type.shape.dim[-1].dim_value == OUT
