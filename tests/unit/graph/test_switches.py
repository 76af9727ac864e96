"""Switches: off is the float model, on is core.numerics at the readers of a site, whatever the encoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerChannel, PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph.switches import add_switches
from qonnx_pipe.runtime.session import evaluate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4)).astype(np.float32) * np.array([1, 1, 1, 20], np.float32)
W = RNG.normal(size=(4, 5)).astype(np.float32)
SITE = Site("layer.0/ffn.input", Role.FFN_INPUT, 0, "t", 4, ("mm",))
WEIGHT = Site("layer.0/weight[ffn.activation]", Role.WEIGHT, 0, "w", 5, ("mm",), Role.FFN_ACTIVATION)
GROUPS = EmbeddingGroups((3, 1), (2, 0, 1, 3))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """t = 2x; y = t·w (a linear layer); r = t + x (a residual); t itself is an output."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["t"], name="double"),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="mm"),
        helper.make_node("Add", ["t", "x"], ["r"], name="add"),
    ]
    shapes = {"x": ["b", "s", 4], "y": ["b", "s", 5], "r": ["b", "s", 4], "t": ["b", "s", 4]}
    ports = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    weights = [numpy_helper.from_array(W, "w"), numpy_helper.from_array(np.float32(2), "two")]
    graph = helper.make_graph(nodes, "g", [ports["x"]], [ports[name] for name in "yrt"], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made)
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def plan(spec: QuantSpec, placement: str = "full", weight: QuantSpec | None = None) -> QuantPlan:
    entries = (PlanEntry(SITE, spec, "qdq", "activations"), PlanEntry(WEIGHT, weight, "qdq", "weights"))
    return QuantPlan("cpu", placement, entries)


def by_hand(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, low: int, high: int) -> np.ndarray:
    """A quantizer written out."""
    codes = np.minimum(np.maximum(np.round(values / scale) + zero, low), high)
    return ((codes - zero) * scale).astype(np.float32)


CASES = {
    "uint8": (PerTensor(), PerTensor(), 0.1, 100),
    "int8": (PerTensor(), PerTensor(), 0.2, -3),
    "uint16": (PerTensor(), PerTensor(), 0.001, 30000),
    "int4": (PerTensor(), PerTensor(), 3.0, 1),
    "uint8 grouped": (PerEmbeddingGroup((3, 1), "range"), GROUPS, [0.02, 0.4], [100, 120]),
}


@pytest.mark.parametrize("name", CASES)
def test_on_is_the_quantizer_and_off_the_float_model(model: Path, tmp_path: Path, name: str) -> None:
    granularity, resolved, scale, zero = CASES[name]
    dtype = QTYPES[name.split(maxsplit=1)[0]]
    encoding = Encoding(dtype, resolved, np.float32(scale), np.array(zero, np.int32))
    board = add_switches(model, plan(QuantSpec(dtype, granularity, False)), tmp_path / "switched.onnx")
    assert board.sites == (SITE,)
    off = evaluate(board.path, {"x": X, **board.inputs({SITE.id: encoding}, ())})
    exact = evaluate(model, {"x": X})
    assert list(off) == list(exact)
    for output, values in exact.items():
        np.testing.assert_array_equal(off[output], values)
    on = evaluate(board.path, {"x": X, **board.inputs({SITE.id: encoding}, {SITE.id})})
    steps = np.float32(scale) if np.ndim(scale) == 0 else np.array([0.02, 0.02, 0.02, 0.4], np.float32)
    zeros = zero if np.ndim(zero) == 0 else np.array([100, 100, 100, 120])
    wanted = by_hand(2 * X, steps, zeros, dtype.qmin, dtype.qmax)
    np.testing.assert_array_equal(on["t"], wanted)
    np.testing.assert_array_equal(on["r"], wanted + X)
    np.testing.assert_allclose(on["y"], wanted @ W, rtol=1e-5, atol=1e-5)  # float32 sums in another order


def test_one_session_takes_every_encoding(model: Path, tmp_path: Path) -> None:
    board = add_switches(model, plan(QuantSpec(QTYPES["uint8"], PerTensor(), False)), tmp_path / "switched.onnx")
    for scale, zero in ((0.5, 7), (0.01, 255), (3.0, 0)):
        encoding = Encoding(QTYPES["uint8"], PerTensor(), np.float32(scale), np.int32(zero))
        seen = evaluate(board.path, {"x": X, **board.inputs({SITE.id: encoding}, {SITE.id})})
        np.testing.assert_array_equal(seen["t"], by_hand(2 * X, np.float32(scale), zero, 0, 255))


def test_matmul_inputs_leave_the_residual_float(model: Path, tmp_path: Path) -> None:
    spec = QuantSpec(QTYPES["uint8"], PerTensor(), False)
    board = add_switches(model, plan(spec, "matmul_inputs"), tmp_path / "switched.onnx")
    encoding = Encoding(QTYPES["uint8"], PerTensor(), np.float32(0.3), np.int32(128))
    seen = evaluate(board.path, {"x": X, **board.inputs({SITE.id: encoding}, {SITE.id})})
    np.testing.assert_array_equal(seen["t"], 2 * X)
    np.testing.assert_array_equal(seen["r"], 2 * X + X)
    wanted = by_hand(2 * X, np.float32(0.3), 128, 0, 255) @ W
    np.testing.assert_allclose(seen["y"], wanted, rtol=1e-5, atol=1e-5)  # float32 sums in another order


def test_a_site_that_feeds_no_linear_layer_reaches_all_its_readers(model: Path, tmp_path: Path) -> None:
    spec = QuantSpec(QTYPES["uint8"], PerTensor(), False)
    site = replace(SITE, role=Role.ATTENTION_QUERY, feeds=())
    made = QuantPlan("cpu", "all_matmul_inputs", (PlanEntry(site, spec, "qdq", "activations"),))
    board = add_switches(model, made, tmp_path / "switched.onnx")
    encoding = Encoding(QTYPES["uint8"], PerTensor(), np.float32(0.3), np.int32(128))
    seen = evaluate(board.path, {"x": X, **board.inputs({SITE.id: encoding}, {SITE.id})})
    wanted = by_hand(2 * X, np.float32(0.3), 128, 0, 255)
    np.testing.assert_array_equal(seen["t"], wanted)
    np.testing.assert_array_equal(seen["r"], wanted + X)
    np.testing.assert_allclose(seen["y"], wanted @ W, rtol=1e-5, atol=1e-5)  # float32 sums in another order


def test_weights_are_what_they_are_made(model: Path, tmp_path: Path) -> None:
    spec = QuantSpec(QTYPES["uint8"], PerTensor(), False)
    seen: list[np.ndarray] = []

    def halve(entry: PlanEntry, weight: np.ndarray) -> np.ndarray:
        seen.append(weight)
        return weight / 2

    wanted = plan(spec, weight=QuantSpec(QTYPES["int8"], PerChannel(1), True))
    encoding = Encoding(QTYPES["uint8"], PerTensor(), np.float32(1), np.int32(0))
    board = add_switches(model, wanted, tmp_path / "switched.onnx", weights=halve)
    result = evaluate(board.path, {"x": X, **board.inputs({SITE.id: encoding}, ())})
    np.testing.assert_array_equal(seen[0], W)
    np.testing.assert_allclose(result["y"], 2 * X @ (W / 2), rtol=1e-5, atol=1e-5)  # float32 sums in another order
    left = add_switches(model, replace(wanted), tmp_path / "left.onnx")
    np.testing.assert_array_equal(
        evaluate(left.path, {"x": X, **left.inputs({SITE.id: encoding}, ())})["y"], evaluate(model, {"x": X})["y"]
    )
