"""Weights in blocks of inputs: MatMulNBits and blocked DequantizeLinear compute what the codes say."""

import numpy as np
import onnx
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerGroup
from qonnx_pipe.core.numerics import dequantize
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.blocks import is_block, joined
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.graph.size import size_parts
from qonnx_pipe.graph.summary import summarise
from tests.unit.graph.lowerings.tiny import OUT, WIDTH, Layers, kernels, per_tensor, run

SIZE = 16
DTYPES = ["int2", "uint2", "int3", "uint3", "int4", "uint4", "int8", "uint8"]
FLOAT, INTEGER = 1e-5, 1.0
"""Error of float32 sums, relative to Σ|x·w|; of activations in 8 bits, in steps of the largest of their block."""


def coded(dtype: str, *, middle: bool) -> tuple[Encoding, np.ndarray]:
    """Codes over the whole range of a type; zero points all over it, or (`middle`) where the kernel takes none."""
    rng, kind = np.random.default_rng(5), QTYPES[dtype]
    codes = rng.integers(kind.qmin, kind.qmax + 1, (WIDTH, OUT)).astype(kind.storage)
    shape = (WIDTH // SIZE, OUT)
    zero = np.full(shape, (kind.qmin + kind.qmax + 1) // 2) if middle else rng.integers(kind.qmin, kind.qmax + 1, shape)
    scale = rng.uniform(0.01, 0.2, shape).astype(np.float16).astype(np.float32)
    return Encoding(kind, PerGroup(0, SIZE), scale, zero.astype(np.int32)), codes


def written(tmp_path, layers: Layers, encoding, codes, lowering, *, level=0, activations=None):
    spec = QuantSpec(encoding.dtype, encoding.granularity, False, accuracy_level=level)
    model = io.load(layers.save(tmp_path / "m.onnx"))
    wanted = {} if activations else {"spec": None}
    plan = layers.plan(weight_spec=spec, lowering=lowering, **wanted)
    quantize(model, plan, activations or {}, lambda _entry, _weight: (encoding, codes))
    io.save(model, tmp_path / "q.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"), full_check=True)
    return tmp_path / "q.onnx"


def close(found, x, real, bias, tolerance) -> bool:
    expected = x.astype(np.float64) @ real + bias
    bound = FLOAT * (np.abs(x) @ np.abs(real) + np.abs(bias)) + 1e-6
    if tolerance == INTEGER:
        steps = np.abs(x.reshape(*x.shape[:-1], -1, SIZE)).max(-1, keepdims=True) / 127
        bound += np.broadcast_to(steps, (*steps.shape[:-1], SIZE)).reshape(x.shape) @ np.abs(real)
    return bool(np.all(np.abs(found - expected) <= bound))


@pytest.mark.parametrize(("level", "tolerance"), [(0, FLOAT), (4, INTEGER)])
@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matmulnbits_computes_what_the_codes_say(tmp_path, dtype, middle, level, tolerance) -> None:
    layers, (encoding, codes) = Layers("matmul_add"), coded(dtype, middle=middle)
    path = written(tmp_path, layers, encoding, codes, "nbits", level=level)
    x = layers.x()
    assert close(run(path, x=x)[0], x, dequantize(codes, encoding).astype(np.float64), layers.biases[0], tolerance)
    (ran,) = kernels(path, x=x).nodes
    assert (ran.kernel, ran.weight, ran.integer) == ("MatMulNBits", "w0_codes", level == 4)
    assert ("computes in float" in ran.reason) is (level == 0)


@pytest.mark.parametrize("form", ["matmul", "matmul_add_rank_2", "gemm_transposed", "gemm_plain"])
def test_every_form_of_a_linear_layer(tmp_path, form) -> None:
    layers, (encoding, codes) = Layers(form), coded("uint4", middle=False)
    x = layers.x()
    (found,) = run(written(tmp_path, layers, encoding, codes, "nbits"), x=x)
    assert close(found, x, dequantize(codes, encoding).astype(np.float64), layers.biases[0], FLOAT)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_holds_the_bits_half_scales_and_zero_points_where_needed(tmp_path, dtype) -> None:
    bits, blocks = QTYPES[dtype].bits, WIDTH // SIZE
    for middle in (True, False):
        path = written(tmp_path, Layers("matmul"), *coded(dtype, middle=middle), "nbits")
        parts = size_parts(path)
        assert list(summarise(path).bits.values()) == [{f"{bits} bits": WIDTH * OUT}]
        assert parts.weights == WIDTH * OUT * bits // 8
        zeros = 0 if middle and bits != 3 else OUT * -(-blocks * (4 if bits == 3 else bits) // 8)
        symmetric = middle and bits == 3 and dtype.startswith("int")
        assert parts.scales == 2 * OUT * blocks + (0 if symmetric else zeros)
        assert parts.total == (tmp_path / "q.onnx").stat().st_size


def test_layers_that_share_a_weight_share_its_initializers(tmp_path) -> None:
    layers, (encoding, codes) = Layers("matmul_add", readers=2, shared=True), coded("uint3", middle=False)
    path = written(tmp_path, layers, encoding, codes, "nbits")
    assert size_parts(path).weights == WIDTH * OUT * 3 // 8
    x, real = layers.x(), dequantize(codes, encoding).astype(np.float64)
    for found, bias in zip(run(path, x=x), layers.biases, strict=True):
        assert close(found, x, real, bias, FLOAT)


def test_a_quantized_activation_is_read_as_the_plan_says(tmp_path) -> None:
    layers, (encoding, codes) = Layers("matmul_add"), coded("int4", middle=True)
    x = layers.x()
    coding = per_tensor(x)
    seen = (np.clip(np.rint(x / coding.scale) + coding.zero_point, 0, 255) - coding.zero_point) * coding.scale
    (found,) = run(written(tmp_path, layers, encoding, codes, "nbits", activations={"x": coding}), x=x)
    assert close(found, seen, dequantize(codes, encoding).astype(np.float64), layers.biases[0], FLOAT)


@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_blocked_dequantizers_are_standard_and_onnxruntime_fuses_them(tmp_path, dtype, middle) -> None:
    layers, (encoding, codes) = Layers("matmul_add"), coded(dtype, middle=middle)
    path = written(tmp_path, layers, encoding, codes, "blocked")
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    assert size_parts(path).weights == WIDTH * OUT // 2
    x, real = layers.x(), dequantize(codes, encoding).astype(np.float64)
    for found, bias in zip(run(path, x=x), layers.biases, strict=True):
        assert close(found, x, real, bias, INTEGER)
    assert {node.kernel for node in kernels(path, x=x).nodes} == {"MatMulNBits"}


def test_sizes_of_blocks() -> None:
    assert [size for size in range(1, 300) if is_block(size)] == [16, 32, 64, 128, 256]


def test_the_first_value_lies_in_the_lowest_bits() -> None:
    assert joined(np.array([[1, 2, 3]]), 4).tolist() == [[0x21, 0x03]]
    assert joined(np.array([1, 2, 3, 0, 2]), 2).tolist() == [0b00_11_10_01, 0b10]
    assert joined(np.array([255]), 8).tolist() == [255]
