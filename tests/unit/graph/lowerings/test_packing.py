"""Low bits lie packed in the file; onnxruntime unpacks them when it opens it, and runs its integer kernel on them."""

import math

import numpy as np
import onnx
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.numerics import dequantize
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.packing import pack_codes, packed, unpacked
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.graph.size import low_bit_bytes, size_parts
from qonnx_pipe.graph.summary import summarise
from qonnx_pipe.runtime.census import profile
from tests.unit.graph.lowerings.tiny import EPSILON, OUT, WIDTH, Layers, kernels, per_tensor, run
from tests.zoo import graphs

DTYPES = ["int2", "uint2", "int3", "uint3", "int4", "uint4", "int6", "uint6"]


def coded(dtype: str, columns: int = OUT) -> tuple[Encoding, np.ndarray]:
    """Codes over the whole range of a type, one scale and (unsigned) zero point a column."""
    rng, kind = np.random.default_rng(5), QTYPES[dtype]
    codes = rng.integers(kind.qmin, kind.qmax + 1, (WIDTH, columns)).astype(kind.storage)
    zero = np.zeros(columns) if kind.signed else rng.integers(0, kind.qmax + 1, columns)
    scale = rng.uniform(0.01, 0.2, columns).astype(np.float32)
    return Encoding(kind, PerChannel(1), scale, zero.astype(np.int32)), codes


def written(tmp_path, layers: Layers, dtype: str, lowering="integer"):
    """The quantized file, its input, and what it must compute: x̂·ŵ + b."""
    x, (encoding, codes) = layers.x(), coded(dtype)
    coding = per_tensor(x)
    model = io.load(layers.save(tmp_path / "m.onnx"))
    quantize(model, layers.plan(lowering=lowering), {"x": coding}, lambda _entry, _weight: (encoding, codes))
    io.save(model, tmp_path / "q.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"), full_check=True)
    steps = np.clip(np.rint(x / coding.scale) + coding.zero_point, 0, 255) - coding.zero_point
    real, seen = dequantize(codes, encoding).astype(np.float64), steps * np.float64(coding.scale)
    bound = 2 * WIDTH * EPSILON * (np.abs(seen) @ np.abs(real) + np.abs(layers.biases[0]))
    bound += coding.scale * encoding.scale / 2  # a Gemm's bias is rounded to int32
    return tmp_path / "q.onnx", x, seen @ real + layers.biases[0], bound


@pytest.mark.parametrize("lowering", ["integer", "qdq"])
@pytest.mark.parametrize("form", ["matmul_add", "gemm_transposed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_weights_run_in_the_integer_kernel_exactly(tmp_path, dtype, form, lowering) -> None:
    path, x, expected, bound = written(tmp_path, Layers(form), dtype, lowering)
    (found,) = run(path, x=x)
    assert np.all(np.abs(found - expected) <= bound)
    (ran,) = kernels(path, x=x).nodes
    assert (ran.integer, ran.weight, ran.reason) == (True, "w0_codes", "")


@pytest.mark.parametrize("dtype", DTYPES)
def test_onnxruntime_unpacks_when_it_opens_the_file(tmp_path, dtype) -> None:
    path, x, *_ = written(tmp_path, Layers("matmul_add"), dtype)
    optimized = onnx.load(profile(path, {"x": x}, tmp_path, runs=1).optimized)
    assert [node.op_type for node in optimized.graph.node] == ["QuantizeLinear", "MatMulIntegerToFloat"]
    assert "w0_codes" in {one.name for one in optimized.graph.initializer}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_summary_counts_weights_with_their_bits(tmp_path, dtype) -> None:
    path, *_ = written(tmp_path, Layers("matmul_add"), dtype)
    (kinds,) = summarise(path).bits.values()
    assert kinds == {f"{QTYPES[dtype].bits} bits": WIDTH * OUT}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_takes_its_bits_and_no_more(tmp_path, dtype) -> None:
    path, *_ = written(tmp_path, Layers("matmul_add"), dtype)
    parts = size_parts(path)
    assert parts.weights == WIDTH * OUT * QTYPES[dtype].bits // 8
    assert parts.embeddings == 0
    assert parts.total == low_bit_bytes(path) == path.stat().st_size


def test_layers_that_share_a_weight_share_its_planes(tmp_path) -> None:
    layers = Layers("matmul_add", readers=2, shared=True)
    path, x, expected, bound = written(tmp_path, layers, "int3")
    assert size_parts(path).weights == WIDTH * OUT * 3 // 8
    first, second = run(path, x=x)
    assert np.all(np.abs(first - expected) <= bound)
    np.testing.assert_allclose(second - layers.biases[1], first - layers.biases[0], rtol=1e-5, atol=1e-4)
    assert {node.weight for node in kernels(path, x=x).nodes} == {"w0_codes"}


def test_codes_that_fill_no_whole_bytes(tmp_path) -> None:
    """5 × 3 codes of 3 bits: the last bytes of both planes hold zeros that nobody reads."""
    codes = np.arange(15, dtype=np.int8).reshape(5, 3) % 8 - 4
    model = unpacking(tmp_path, codes)
    np.testing.assert_array_equal(run(model)[0], codes.astype(np.float32) * 2)


def test_eight_bits_vectors_and_other_readers_stay(tmp_path) -> None:
    wide, narrow = np.int8([[-128, 127]]), np.int8([[-1, 1]])
    for codes, reader in ((wide, "Cast"), (narrow[0], "Cast"), (narrow, "Identity")):
        path = unpacking(tmp_path, codes, reader)
        assert "codes" in {one.name for one in onnx.load(path).graph.initializer}


def unpacking(tmp_path, codes, reader="Cast"):
    """A file of `reader`(codes) → Cast → Mul by 2, its codes packed."""
    make = onnx.helper.make_node
    nodes = [
        make(reader, ["codes"], ["a"], "a", **({"to": onnx.TensorProto.FLOAT} if reader == "Cast" else {})),
        make("Cast", ["a"], ["b"], "b", to=onnx.TensorProto.FLOAT),
        make("Mul", ["b", "two"], ["y"], "double"),
    ]
    constants = {"codes": codes, "two": np.float32(2)}
    path = graphs.save(tmp_path / "c.onnx", nodes, [], [graphs.tensor("y", list(codes.shape))], constants)
    model = io.load(path)
    pack_codes(Emitter(model.graph))
    model.graph.sort()
    io.save(model, path)
    return path


def test_what_is_packed_is_recognised_and_nothing_else(tmp_path) -> None:
    graph = io.load(unpacking(tmp_path, np.int8([[-4, 3]]))).graph
    (codes,) = [value for node in graph for value in node.outputs if value.name == "codes"]
    found = packed(codes)
    assert found is not None
    assert (found.bits, len(found.planes)) == (3, 2)
    assert [unpacked(plane) for plane in found.planes] == [codes, codes]
    others = [value for node in graph for value in node.outputs if value.name in ("a", "b", "y")]
    assert [packed(value) for value in (*others, None)] == [None] * 4
    two = graph.initializers["two"]
    assert unpacked(two) is two


def test_three_bits_need_an_operator_that_joins_two_planes(tmp_path) -> None:
    layers = Layers("matmul_add", opset=17)
    model = io.load(layers.save(tmp_path / "m.onnx"))
    model.graph.opset_imports[""] = 17
    encoding, codes = coded("int3")
    plan, coding = layers.plan(lowering="integer"), {"x": per_tensor(layers.x())}
    with pytest.raises(ModelError, match="3 or 6 bits need opset 18, the model has 17") as caught:
        quantize(model, plan, coding, lambda _entry, _weight: (encoding, codes))
    assert caught.value.where == "w0_codes_plane"


@pytest.mark.parametrize("granularity", [PerTensor(), PerGroup(0, 8)], ids=str)
def test_a_plain_weight_is_packed_too(tmp_path, granularity) -> None:
    layers, kind = Layers("matmul_add"), QTYPES["int3"]
    shape = () if isinstance(granularity, PerTensor) else (WIDTH // 8, OUT)
    encoding = Encoding(kind, granularity, np.full(shape, 0.1, np.float32), np.zeros(shape, np.int32))
    codes = np.random.default_rng(0).integers(-4, 4, (WIDTH, OUT)).astype(np.int8)
    model = io.load(layers.save(tmp_path / "m.onnx"))
    quantize(model, layers.plan(spec=None), {}, lambda _entry, _weight: (encoding, codes))
    io.save(model, tmp_path / "q.onnx")
    assert size_parts(tmp_path / "q.onnx").weights == math.ceil(WIDTH * OUT * 3 / 8)
    x = layers.x()
    expected = x @ dequantize(codes, encoding) + layers.biases[0]
    np.testing.assert_allclose(run(tmp_path / "q.onnx", x=x)[0], expected, rtol=1e-4, atol=1e-3)
    (ran,) = kernels(tmp_path / "q.onnx", x=x).nodes
    assert "plain arithmetic" in ran.reason
