"""Linear layers: every form computes what numpy's quantized arithmetic says, in onnxruntime's integer kernels."""

import numpy as np
import onnx
import pytest
from onnx import helper

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.numerics import fake_quantize
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.quantize import quantize
from tests.unit.graph.lowerings.tiny import (
    EPSILON,
    INT8,
    OUT,
    WIDTH,
    Layers,
    activation,
    encode,
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

FORMS = ("matmul", "matmul_add", "matmul_add_rank_2", "gemm", "gemm_transposed", "gemm_plain")
PER_TENSOR = QuantSpec(QTYPES["int8"], PerTensor(), True)
UNSIGNED = QuantSpec(QTYPES["uint8"], PerTensor(), False)
SHUFFLED = np.random.default_rng(3).permutation(WIDTH).tolist()


def assert_computes(layers, path, x, coding, spec=INT8):
    """Each output within the float32 bound; a Gemm's int32 bias adds half a step s_x·s_w."""
    for i, found in enumerate(run(path, x=x)):
        expected, bound = layers.expected(i, x, coding, spec)
        if layers.is_gemm and coding is not None and coding.scale.size == 1:
            encoding, _ = encode(layers.plan(weight_spec=spec).entries[1], layers.weights[i])
            bound = bound + 0.5 * coding.scale * encoding.scale
        assert np.all(np.abs(found - expected) <= bound)


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("spec", [INT8, PER_TENSOR, UNSIGNED], ids=["per_channel", "per_tensor", "uint8"])
@pytest.mark.parametrize("form", FORMS)
def test_per_tensor_activations_run_in_integers(tmp_path, form, spec, readers):
    layers = Layers(form, readers)
    x = layers.x()
    coding = per_tensor(x)
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(weight_spec=spec), {"x": coding})
    assert_computes(layers, path, x, coding, spec)
    ran = kernels(path, x=x)
    assert (ran.total, ran.integer) == (readers, readers), ran.floats
    assert {node.kernel for node in ran.nodes} == {"QGemm" if layers.is_gemm else "MatMulIntegerToFloat"}


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("spec", [INT8, PER_TENSOR, UNSIGNED], ids=["per_channel", "per_tensor", "uint8"])
@pytest.mark.parametrize("form", FORMS)
def test_the_integer_operator_can_be_written_outright(tmp_path, form, spec, readers):
    layers = Layers(form, readers)
    x = layers.x()
    coding = per_tensor(x)
    plan = layers.plan(weight_spec=spec, lowering="integer")
    path = quantized(layers.save(tmp_path / "m.onnx"), plan, {"x": coding})
    assert_computes(layers, path, x, coding, spec)
    ran = kernels(path, x=x)
    assert [(node.node, node.kernel) for node in ran.nodes] == [
        (f"linear{i}", "MatMulIntegerToFloat") for i in range(readers)
    ]
    assert {"Add", "DequantizeLinear"}.isdisjoint(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16"])
@pytest.mark.parametrize("spec", [INT8, UNSIGNED], ids=["int8", "uint8"])
def test_operands_that_the_integer_operator_lacks_are_written_as_qdq(tmp_path, spec, dtype):
    layers = Layers("matmul_add")
    x = layers.x()
    coding = per_tensor(x, dtype)
    plan = layers.plan(weight_spec=spec, lowering="integer")
    path = quantized(layers.save(tmp_path / "m.onnx"), plan, {"x": coding})
    assert_computes(layers, path, x, coding, spec)
    (operator,) = (node.op_type for node in onnx.load(path).graph.node if "MatMul" in node.op_type)
    assert operator == ("MatMulIntegerToFloat" if (dtype, spec) == ("int8", INT8) else "MatMul")


@pytest.mark.parametrize("lowering", ["qdq", "integer"])
@pytest.mark.parametrize("sizes", [(32,), (16, 16), (30, 2), (12, 10, 10), (6, 6, 5, 5, 5, 5)], ids=str)
@pytest.mark.parametrize("order", [None, SHUFFLED], ids=["in_order", "permuted"])
@pytest.mark.parametrize(
    ("form", "readers"),
    [("matmul", 1), ("matmul_add", 3), ("matmul_add_rank_2", 1), ("gemm", 1), ("gemm_transposed", 3)],
)
def test_groups_of_dimensions_become_integer_matmuls_of_their_own(tmp_path, form, readers, order, sizes, *, lowering):
    layers = Layers(form, readers)
    x = layers.x()
    coding = per_group(x, sizes, order)
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(lowering=lowering), {"x": coding})
    assert_computes(layers, path, x, coding)
    ran = kernels(path, x=x)
    assert (ran.total, ran.integer) == (readers * len(sizes), readers * len(sizes)), ran.floats


@pytest.mark.parametrize("lowering", ["qdq", "integer"])
@pytest.mark.parametrize(("form", "readers"), [("matmul", 1), ("matmul_add", 3), ("gemm", 1), ("gemm_transposed", 3)])
@pytest.mark.parametrize("sizes", [(1,) * WIDTH, (2,) * 15 + (1, 1)], ids=["dimensions", "groups"])
def test_many_groups_are_one_integer_matmul_on_scaled_rows(tmp_path, form, readers, sizes, *, lowering):
    layers = Layers(form, readers)
    x = layers.x()
    coding = per_group(x, sizes, SHUFFLED)
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(lowering=lowering), {"x": coding})
    assert_computes(layers, path, x, coding)
    ran = kernels(path, x=x)
    assert (ran.total, ran.integer) == (readers, readers), ran.floats
    assert [node.op_type for node in onnx.load(path).graph.node].count("QuantizeLinear") == 1


def test_many_groups_before_a_shared_weight_whose_readers_differ_stay_real(tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.normal(0, 0.2, (WIDTH, OUT)).astype(np.float32)
    nodes = [helper.make_node("MatMul", [f"x{i}", "w"], [f"y{i}"], f"linear{i}") for i in range(2)]
    ports = [[graphs.tensor(f"{side}{i}", ["batch", n]) for i in range(2)] for side, n in (("x", WIDTH), ("y", OUT))]
    source = graphs.save(tmp_path / "m.onnx", nodes, *ports, {"w": matrix})
    values = {f"x{i}": outliers(9, WIDTH, seed=i) for i in range(2)}
    codings = {name: per_group(x, (1,) * WIDTH) for name, x in values.items()}
    entries = [activation(f"x{i}", f"linear{i}") for i in range(2)] + [
        weight("w", "linear0", "linear1", lowering="integer")
    ]
    path = quantized(source, QuantPlan("cpu", "matmul_inputs", tuple(entries)), codings)
    w = known_weight(matrix, None)
    for found, (name, x) in zip(run(path, **values), values.items(), strict=True):
        seen = fake_quantize(x, codings[name]).astype(np.float64)
        assert np.all(np.abs(found - seen @ w) <= (WIDTH + 4) * EPSILON * (np.abs(seen) @ np.abs(w)))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16"])
@pytest.mark.parametrize("form", ["matmul_add", "gemm"])
def test_other_activation_types(tmp_path, form, dtype):
    layers = Layers(form)
    x = layers.x()
    coding = per_tensor(x, dtype)
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(), {"x": coding})
    assert_computes(layers, path, x, coding)
    ran = kernels(path, x=x)
    assert ran.integer == (dtype == "int8"), ran
    assert all(node.reason for node in ran.floats)


@pytest.mark.parametrize("form", ["matmul_add", "gemm_transposed"])
def test_a_float_activation_stays_float(tmp_path, form):
    layers = Layers(form)
    x = layers.x()
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(spec=None), {})
    expected, bound = layers.expected(0, x, None)
    (found,) = run(path, x=x)
    assert np.all(np.abs(found - expected) <= bound)
    (ran,) = kernels(path, x=x).nodes
    assert not ran.integer
    assert "activations are float" in ran.reason


@pytest.mark.parametrize("lowering", ["qdq", "integer"])
@pytest.mark.parametrize("dtype", ["int2", "int4", "uint4"])
def test_fewer_bits_run_in_the_integers_of_eight(tmp_path, dtype, lowering):
    layers = Layers("matmul_add")
    x = layers.x()
    coding = per_tensor(x)
    spec = QuantSpec(QTYPES[dtype], PerChannel(1), QTYPES[dtype].signed)
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(weight_spec=spec, lowering=lowering), {"x": coding})
    assert_computes(layers, path, x, coding, spec)
    assert kernels(path, x=x).fraction == 1


@pytest.mark.parametrize("sizes", [None, (30, 2)])
def test_a_float_weight_reads_the_quantized_activation(tmp_path, sizes):
    layers = Layers("gemm_transposed")
    x = layers.x()
    coding = per_tensor(x) if sizes is None else per_group(x, sizes, SHUFFLED)
    plan = layers.plan(weight_spec=None)
    (found,) = run(quantized(layers.save(tmp_path / "m.onnx"), plan, {"x": coding}), x=x)
    (expected,) = run(layers.save(tmp_path / "float.onnx"), x=fake_quantize(x, coding))
    np.testing.assert_array_equal(found, expected)  # the same float kernel on the same numbers


@pytest.mark.parametrize("lowering", ["qdq", "integer"])
@pytest.mark.parametrize("sizes", [None, (30, 2)])
@pytest.mark.parametrize("form", ["matmul_add", "gemm_transposed"])
def test_a_shared_weight_is_stored_once(tmp_path, form, sizes, lowering):
    layers = Layers(form, readers=3, shared=True)
    x = layers.x()
    coding = per_tensor(x) if sizes is None else per_group(x, sizes, SHUFFLED)
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(lowering=lowering), {"x": coding})
    assert_computes(layers, path, x, coding)
    codes = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(np.prod(tensor.dims) for tensor in codes if len(tensor.dims) == 2) == WIDTH * OUT
    assert kernels(path, x=x).fraction == 1


@pytest.mark.parametrize("bias", [np.float32(3e9), None])
def test_a_bias_that_int32_cannot_hold_keeps_the_gemm_float_and_right(tmp_path, bias):
    layers = Layers("gemm")
    layers.biases[0][3] = 3e9 if bias else 0.5
    x = layers.x()
    coding = per_tensor(x)
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(), {"x": coding})
    assert_computes(layers, path, x, coding)
    assert kernels(path, x=x).integer == (bias is None)


@pytest.mark.parametrize("granularity", [PerChannel(0), PerGroup(1, 12)])
def test_scales_that_no_kernel_takes_are_refused(tmp_path, granularity):
    layers = Layers("matmul")
    shape = (WIDTH,) if isinstance(granularity, PerChannel) else (WIDTH, 2)
    encoding = Encoding(QTYPES["int8"], granularity, np.ones(shape, np.float32), np.zeros(shape, np.int32))
    model = io.load(layers.save(tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match="not lowered"):
        quantize(
            model, layers.plan(), {"x": per_tensor(layers.x())}, lambda _, w: (encoding, np.zeros(w.shape, np.int8))
        )
