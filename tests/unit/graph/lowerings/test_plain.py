"""A plain weight is stored in integers and computes in float, exactly."""

import numpy as np
import onnx
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.graph import io
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.graph.size import size_parts
from tests.unit.graph.lowerings.tiny import EPSILON, OUT, WIDTH, Layers, kernels, per_tensor, run

GROUPS = 4


def coded(dtype: str, granularity, zero: int) -> tuple[Encoding, np.ndarray, np.ndarray]:
    """An encoding, codes, and the real weight that they stand for."""
    rng = np.random.default_rng(5)
    kind = QTYPES[dtype]
    codes = rng.integers(kind.qmin, kind.qmax + 1, (WIDTH, OUT)).astype(kind.storage)
    shape = {PerTensor(): (), PerChannel(1): (OUT,)}.get(granularity, (GROUPS, OUT))
    scale = rng.uniform(0.01, 0.2, shape).astype(np.float32)
    rows = np.repeat(scale, WIDTH // GROUPS, axis=0) if len(shape) == 2 else scale
    encoding = Encoding(kind, granularity, scale, np.full(shape, zero, np.int32))
    return encoding, codes, (codes.astype(np.float32) - zero) * rows


def written(tmp_path, layers: Layers, encoding: Encoding, codes: np.ndarray, activations):
    model = io.load(layers.save(tmp_path / "m.onnx"))
    plan = layers.plan() if activations else layers.plan(spec=None)
    quantize(model, plan, activations, lambda _entry, _weight: (encoding, codes))
    io.save(model, tmp_path / "q.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"), full_check=True)
    return tmp_path / "q.onnx"


@pytest.mark.parametrize(("dtype", "zero"), [("int8", 0), ("int4", 0), ("int2", -1), ("uint4", 7)])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(1), PerGroup(0, WIDTH // GROUPS)], ids=str)
@pytest.mark.parametrize("form", ["matmul_add", "gemm_transposed"])
def test_float_activations_meet_the_very_weight(tmp_path, form, granularity, dtype, zero) -> None:
    layers = Layers(form)
    encoding, codes, real = coded(dtype, granularity, zero)
    path = written(tmp_path, layers, encoding, codes, {})
    x = layers.x()
    (found,) = run(path, x=x)
    bound = WIDTH * EPSILON * (np.abs(x) @ np.abs(real) + np.abs(layers.biases[0])) * 2
    assert np.all(np.abs(found - (x @ real + layers.biases[0])) <= bound)
    (ran,) = kernels(path, x=x).nodes
    assert ran.kernel in ("MatMul", "Gemm", "FusedGemm", "FusedMatMul")
    assert "plain arithmetic" in ran.reason


def test_the_bytes_are_those_of_the_codes_and_counted_as_weights(tmp_path) -> None:
    encoding, codes, _ = coded("int8", PerGroup(0, WIDTH // GROUPS), 0)
    path = written(tmp_path, Layers("matmul_add"), encoding, codes, {})
    parts = size_parts(path)
    assert parts.weights == WIDTH * OUT
    assert parts.scales == 4 * GROUPS * OUT
    (found,) = linears(path)
    assert (found.weight, found.integer) == ("w0_codes", False)


def test_groups_read_the_quantized_activation_in_float(tmp_path) -> None:
    layers = Layers("matmul_add")
    encoding, codes, real = coded("int8", PerGroup(0, WIDTH // GROUPS), 0)
    x = layers.x()
    coding = per_tensor(x)
    (found,) = run(written(tmp_path, layers, encoding, codes, {"x": coding}), x=x)
    steps = np.clip(np.rint(x / coding.scale) + coding.zero_point, 0, 255) - coding.zero_point
    expected = (steps * coding.scale).astype(np.float32) @ real + layers.biases[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
