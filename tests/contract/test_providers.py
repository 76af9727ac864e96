"""Every execution provider: described, refused with a hint where it is not, and proven by what ran where it is."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from qonnx_pipe.core.granularity import PerChannel, PerGroup
from qonnx_pipe.core.kernels import executed
from qonnx_pipe.core.numerics import dequantize, fake_quantize, sqnr_db
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.errors import ProviderError
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.runtime import providers
from qonnx_pipe.runtime.client import Worker, installed, problem_of
from qonnx_pipe.runtime.session import evaluate
from tests.unit.graph.lowerings import tiny
from tests.zoo import graphs

X = np.random.default_rng(0).normal(size=(2, 4, graphs.WIDTH)).astype(np.float32)
SAME_DB = 40.0
"""Of a quantized product: one code of 255 more or less in a few places, where two providers round differently."""


@pytest.fixture(params=providers.known())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def here(name: str) -> str:
    """The provider's name, where it can run."""
    if providers.find(name).version() is None:
        pytest.skip(f"{name} is not installed")
    if problem := problem_of(name):
        pytest.skip(f"{name}: {problem}")
    return name


@pytest.fixture
def dynamic(here: str) -> str:
    """The provider's name, where it takes floats and inputs of any size; tests/e2e/test_qnn.py is about the others."""
    if providers.find(here).static:
        pytest.skip(f"{here} takes integers in one shape alone")
    return here


def with_a_stranger(path: Path) -> Path:
    """A float product, and a hash that only onnxruntime's own kernels compute."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["y"], "matmul"),
        helper.make_node("MurmurHash3", ["ids"], ["hash"], "hash", domain="com.microsoft", positive=0),
    ]
    shape = ["batch", "sequence", graphs.WIDTH]
    inputs = [graphs.tensor("x", shape), graphs.tensor("ids", ["count"], TensorProto.INT32)]
    outputs = [graphs.tensor("y", shape), graphs.tensor("hash", ["count"], TensorProto.INT32)]
    return graphs.save(path, nodes, inputs, outputs, {"weight": graphs.weight()})


def test_the_cpu_is_always_here() -> None:
    assert "cpu" in providers.known()
    assert providers.require("cpu").version() == ort.__version__
    assert providers.find("cpu").install == "pip install onnxruntime"


def test_it_says_what_it_is_and_how_to_get_it(name: str) -> None:
    provider = providers.find(name)
    assert provider.name == name
    assert provider.title
    assert provider.install
    assert provider.int8
    assert isinstance(provider.needs.missing(), str)
    assert provider.requirements or provider.needs.missing()
    assert provider.ep.endswith("ExecutionProvider")


def test_where_it_is_not_it_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(providers.find(name)), "version", lambda _: None)
    with pytest.raises(ProviderError, match="not available here") as caught:
        providers.require(name)
    assert caught.value.fix == providers.find(name).install


def test_where_it_is_not_a_worker_says_so(name: str) -> None:
    if providers.find(name).version() is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ProviderError, match=f"'{name}' is not available here") as caught:
        installed(name)
    assert caught.value.exit_code == 4
    assert caught.value.fix == providers.find(name).install


def test_it_computes_what_the_cpu_computes(here: str, tmp_path: Path) -> None:
    for path in (graphs.float_matmul(tmp_path / "float.onnx"), graphs.qdq_matmul(tmp_path / "qdq.onnx")):
        with Worker(path, here, threads=1) as worker:
            (found,) = worker.predict([{"x": X}])
        for key, values in evaluate(path, {"x": X}).items():
            assert sqnr_db(values, found[key]) > SAME_DB, path.name


@pytest.mark.parametrize(
    ("dtype", "granularity", "lowering"),
    [
        ("int4", PerChannel(1), "integer"),
        ("int4", PerChannel(1), "qdq"),
        ("uint3", PerChannel(1), "qdq"),
        ("uint2", PerChannel(1), "qdq"),
        ("int4", PerGroup(0, 16), "blocked"),
        ("uint4", PerGroup(0, 16), "nbits"),
        ("uint2", PerGroup(0, 16), "nbits"),
    ],
)
def test_it_computes_with_weights_of_few_bits(dynamic: str, tmp_path: Path, dtype, granularity, lowering) -> None:
    layers, spec = tiny.Layers("matmul_add"), QuantSpec(QTYPES[dtype], granularity, dtype.startswith("int"))
    x = layers.x()
    coding = tiny.per_tensor(x) if lowering in ("integer", "qdq") else None
    plan = layers.plan(spec=coding and tiny.UINT8, weight_spec=spec, lowering=lowering)
    path = tiny.quantized(layers.save(tmp_path / "m.onnx"), plan, {} if coding is None else {"x": coding})
    with Worker(path, dynamic, threads=1) as worker:
        (found,) = worker.predict([{"x": x}])
    encoding, codes = tiny.encode(tiny.weight("w0", spec=spec), layers.weights[0])
    seen = x if coding is None else fake_quantize(x, coding)
    assert sqnr_db(seen @ dequantize(codes, encoding) + layers.biases[0], found["y0"]) > SAME_DB


@pytest.mark.parametrize("integer", [False, True])
def test_its_kernels_are_told_and_it_took_every_node(dynamic: str, tmp_path: Path, integer: bool) -> None:
    path = (graphs.qdq_matmul if integer else graphs.float_matmul)(tmp_path / "m.onnx")
    with Worker(path, dynamic, threads=1) as worker:
        seen = worker.census({"x": X})
        optimized = linears(seen.optimized) if seen.optimized else None
    (kernel,) = executed(linears(path), optimized, seen.events).nodes
    assert (kernel.integer, kernel.provider) == (integer, providers.find(dynamic).ep)
    assert kernel.reason == ("" if integer else "weight not quantized")
    assert (seen.partition is not None) == providers.find(dynamic).compiles
    if seen.partition is not None:
        assert (seen.partition.subgraphs, seen.partition.fallbacks) == (1, ())


def test_what_it_leaves_to_the_cpu_is_listed_or_refused(dynamic: str, tmp_path: Path) -> None:
    path = with_a_stranger(tmp_path / "m.onnx")
    inputs = {"x": X, "ids": np.int32([1, 2, 3])}
    with Worker(path, dynamic, threads=1) as worker:
        seen = worker.census(inputs).partition
    fell_back = [(one.op_type, one.count) for one in seen.fallbacks] if seen is not None else []
    assert fell_back == ([] if dynamic == "cpu" else [("MurmurHash3", 1)])
    with Worker(path, dynamic, threads=1, fallback=False) as worker:
        if dynamic == "cpu":
            assert list(worker.predict([inputs]))
            return
        with pytest.raises(ProviderError, match="fallback to CPU EP has been explicitly disabled"):
            list(worker.predict([inputs]))


def test_it_can_be_timed(here: str, tmp_path: Path) -> None:
    with Worker(graphs.qdq_matmul(tmp_path / "m.onnx"), here, threads=1) as worker:
        spell = worker.time({"x": X}, seconds=0.0, least=3)
    assert len(spell.seconds) == 3
    assert spell.first_s > 0
