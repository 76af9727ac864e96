"""Losses of QAT by hand, and quantizers where the plan wants them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.core.network import Network, Node
from qonnx_pipe.core.numerics import fake_quantize
from qonnx_pipe.core.plan import Placement, PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.recipe.training import QAT

torch = pytest.importorskip("torch")

from qonnx_pipe.source import heads  # noqa: E402 (they need torch)
from qonnx_pipe.source.qat import QuantizedGraph, _Recorder, _squared  # noqa: E402

pytestmark = pytest.mark.export

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(4, 3)).astype(np.float32)
TURNED = RNG.normal(size=(2, 3)).astype(np.float32)
INPUT = RNG.normal(size=(5, 4)).astype(np.float32)
NETWORK = Network(
    ("x",),
    ("y", "s"),
    (
        Node("h", "Neg", ("x",), ("h",), {}),
        Node("first", "MatMul", ("h", "w"), ("m",), {}),
        Node("last", "Gemm", ("m", "v"), ("y",), {"transB": 1}),
        Node("side", "Add", ("h", "h"), ("s",), {}),
    ),
    {"w": WEIGHT, "v": TURNED},
)
ACTIVATION = QuantSpec(QTYPES["uint4"], PerTensor(), symmetric=False)
COLUMNS = QuantSpec(QTYPES["int3"], PerChannel(1), symmetric=True)
ENCODINGS = {
    "h": Encoding(ACTIVATION.dtype, PerTensor(), np.float32(0.3), np.int32(7)),
    "w": Encoding(COLUMNS.dtype, PerChannel(1), np.float32([0.3, 0.4, 0.5]), np.zeros(3, np.int32)),
    "v": Encoding(COLUMNS.dtype, PerChannel(1), np.float32([0.2, 0.6]), np.zeros(2, np.int32)),
}


def plan(placement: Placement, *, fed: bool = True) -> QuantPlan:
    sites = (
        Site("h", Role.FFN_INPUT if fed else Role.ATTENTION_KEY, 0, "h", 4, ("first",) if fed else ()),
        Site("w", Role.WEIGHT, 0, "w", 3, ("first",)),
        Site("v", Role.WEIGHT, None, "v", 2, ("last",)),
    )
    entries = tuple(PlanEntry(one, COLUMNS if one.is_weight else ACTIVATION, "integer", "rule") for one in sites)
    return QuantPlan("cpu", placement, entries)


@pytest.mark.parametrize(
    ("placement", "fed"),
    [("full", True), ("matmul_inputs", True), ("all_matmul_inputs", True), ("all_matmul_inputs", False)],
)
def test_quantizers_sit_where_the_file_has_them(placement: Placement, *, fed: bool) -> None:
    graph = QuantizedGraph(NETWORK, plan(placement, fed=fed), ENCODINGS, QAT())
    with torch.inference_mode():
        found = graph({"x": torch.from_numpy(INPUT)})
    hidden = fake_quantize(-INPUT, ENCODINGS["h"])
    weight, turned = fake_quantize(WEIGHT, ENCODINGS["w"]), fake_quantize(TURNED.T.copy(), ENCODINGS["v"])
    np.testing.assert_allclose(found["y"].numpy(), hidden @ weight @ turned, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["s"].numpy(), 2 * (hidden if placement == "full" or not fed else -INPUT))


def test_its_encodings_are_those_of_the_plan() -> None:
    graph = QuantizedGraph(NETWORK, plan("full"), ENCODINGS, QAT(ranges="current"))
    found = graph.encodings()
    assert found.keys() == ENCODINGS.keys()
    assert found["h"].scale == ENCODINGS["h"].scale, "activations keep theirs"
    np.testing.assert_allclose(found["w"].scale, np.abs(WEIGHT).max(0) / 3, rtol=1e-6)
    np.testing.assert_allclose(found["v"].scale, np.abs(TURNED).max(1) / 3, rtol=1e-6)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def divergence(mine: np.ndarray, taught: np.ndarray) -> np.ndarray:
    p, q = softmax(taught), softmax(mine)
    return (p * np.log(p / q)).sum(-1)


def test_divergence_of_classes_is_softened() -> None:
    mine, taught = RNG.normal(size=(2, 5, 3))
    found = heads.divergence(tensors(logits=mine), tensors(logits=taught), "class", 2.0, None)
    assert found.item() == pytest.approx(4 * divergence(mine / 2, taught / 2).mean())


def test_divergence_of_tags_leaves_padding_out() -> None:
    mine, taught = RNG.normal(size=(2, 2, 4, 3))
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    found = heads.divergence(tensors(logits=mine), tensors(logits=taught), "tags", 1.0, torch.from_numpy(mask))
    assert found.item() == pytest.approx(divergence(mine, taught)[mask == 1].mean())


def test_divergence_of_spans_is_over_the_tokens() -> None:
    mine, taught = ({name: RNG.normal(size=(3, 6)) for name in ("start_logits", "end_logits")} for _ in range(2))
    found = heads.divergence(tensors(**mine), tensors(**taught), "answers", 1.0, None)
    assert found.item() == pytest.approx(np.mean([divergence(mine[name], taught[name]).mean() for name in mine]))


def test_errors_leave_padding_out() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    tokens = Site("z", Role.LAYER_OUTPUT, 0, "z", 4)
    mine, taught = RNG.normal(size=(2, 2, 3, 4))
    expected = np.concatenate([(mine - taught)[0, :2], (mine - taught)[1, :1]])
    found = _squared(torch.from_numpy(mine), torch.from_numpy(taught), mask, tokens)
    assert found.item() == pytest.approx(np.square(expected).mean())
    pairs = Site("s", Role.ATTENTION_SCORES, 0, "s", 0, pairwise=True)
    mine, taught = RNG.normal(size=(2, 2, 5, 3, 3))
    expected = np.concatenate([(mine - taught)[0, :, :2, :2].ravel(), (mine - taught)[1, :, 0, 0].ravel()])
    found = _squared(torch.from_numpy(mine), torch.from_numpy(taught), mask, pairs)
    assert found.item() == pytest.approx(np.square(expected).mean())


def tensors(**arrays: np.ndarray) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_a_tied_head_is_trained_on_the_codes_of_its_table() -> None:
    table = RNG.normal(size=(6, 4)).astype(np.float32)
    nodes = (
        Node("look", "Gather", ("table", "ids"), ("rows",), {}),
        Node("turn", "Transpose", ("table",), ("turned",), {"perm": [1, 0]}),
        Node("head", "MatMul", ("rows", "turned"), ("y",), {}),
    )
    network = Network(("ids",), ("rows", "y"), nodes, {"table": table})
    spec = QuantSpec(QTYPES["int3"], PerChannel(0), symmetric=True)
    entry = PlanEntry(Site("word", Role.EMBEDDING_WORD, None, "table", 4, ("look",)), spec, "gather_nbits", "rule")
    coded = Encoding(spec.dtype, PerChannel(0), np.linspace(0.3, 0.6, 6, dtype=np.float32), np.zeros(6, np.int32))
    graph = QuantizedGraph(network, QuantPlan("cpu", "matmul_inputs", (entry,)), {"word": coded}, QAT())
    with torch.inference_mode():
        found = graph({"ids": torch.tensor([[5, 0]])})
    real = fake_quantize(table, coded)
    np.testing.assert_array_equal(found["rows"].numpy(), real[[[5, 0]]])
    np.testing.assert_allclose(found["y"].numpy(), real[[[5, 0]]] @ real.T, rtol=1e-5, atol=1e-6)  # sums may cancel


def test_tensors_of_a_step_are_free_when_it_is_over() -> None:
    """Without Python's search for rings: what a step of a large model records is hundreds of megabytes."""
    compared = {"hidden": (Site("h", Role.LAYER_OUTPUT, 0, "h", 4, ()),)}
    gc.disable()
    try:
        recorder = _Recorder(compared)
        heard = recorder.hooks["h"](torch.ones(4))
        assert recorder.tensors["h"] is heard
        alive = weakref.ref(heard)
        del recorder, heard
        assert alive() is None
    finally:
        gc.enable()
