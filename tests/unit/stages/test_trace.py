"""Inside both models: noise is what stands in layers.json, not a fold, an order of dimensions, or padding."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qonnx_pipe.core.changes import Change, changes
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.layers import Layers
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.site import Role, Site, SiteMap
from qonnx_pipe.recipe import load
from qonnx_pipe.runtime.client import Limits
from qonnx_pipe.stages.plan import plan_stage
from qonnx_pipe.stages.quantize import quantize_stage
from qonnx_pipe.stages.trace import BATCHES, ROWS, trace_stage
from tests.unit.recipe.texts import PLAIN, written
from tests.unit.stages.test_quantize import seen

STREAM = 2 + 4 * 2
"""Sites of a BERT of two layers: sum and norm of the embeddings; two sums and two norms a layer."""

FINE = """  weights: {dtype: float}
  embeddings: {dtype: float}
  rules:
    - match: {role: [embedding.norm, ffn.input, layer.output]}
"""
ORDERED = "{dtype: uint16, granularity: {per_embedding_group: 4}, permute: range, share: model, lowering: split}"


@pytest.fixture
def bert(exported: Callable[..., Path]) -> Path:
    return exported("bert", "text-classification")


def quantized(bert: Path, folder: Path, text: str) -> tuple[Path, QuantPlan, dict[str, object], Batch]:
    plan = plan_stage(load(written(folder, f"{PLAIN}quantize:\n{text}")), bert)
    table, inputs = seen(bert, plan)
    encodings = quantize_stage(bert, plan, table, folder / "q.onnx").to_json()
    return folder / "q.onnx", plan, json.loads(json.dumps(encodings)), Batch(inputs, (None,) * 8)


@pytest.mark.export
@pytest.mark.parametrize(
    ("key", "activations"),
    [
        ("smoothing", "{dtype: uint16, range: minmax, lowering: fold}"),
        ("shifts", "{dtype: uint16, range: minmax, lowering: fold, shift: true}"),
        ("orders", ORDERED),
    ],
)
def test_what_quantizing_did_besides_noise_is_undone(bert, tmp_path, key, activations):
    """16-bit activations and float weights: nearly no noise is left, unless a fold or an order counts as noise."""
    text = f"{FINE}      activations: {activations}\n    - match: {{role: [attention.context, ffn.activation]}}\n"
    model, plan, encodings, batch = quantized(bert, tmp_path, f"{text}      activations: {{dtype: uint16}}\n")
    assert encodings[key]
    found = trace_stage(model, bert, plan.sites, changes(encodings), [batch], workdir=tmp_path)
    assert found.skipped == ()
    assert len(found.sites) >= STREAM
    assert min(site.sqnr_db for site in found.sites) > 50
    blind = trace_stage(model, bert, plan.sites, {}, [batch], workdir=tmp_path)
    assert min(site.sqnr_db for site in blind.sites) < 40


def values(model: Path, tensor: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    exposed = onnx.load(model)
    exposed.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([tensor], {port.name: inputs[port.name][:ROWS] for port in session.get_inputs()})[0]


@pytest.mark.export
def test_the_noise_of_eight_bits(bert, tmp_path):
    model, plan, encodings, batch = quantized(bert, tmp_path, "  activations: {range: minmax}\n")
    found = trace_stage(model, bert, plan.sites, changes(encodings), [batch], workdir=tmp_path)
    by_site = {site.site: site.sqnr_db for site in found.sites}
    for name in ("embedding.norm", "layer.0/attention.sum", "layer.1/layer.output"):
        exact, noisy = (values(path, plan.sites.by_id[name].tensor, batch.inputs) for path in (bert, model))
        assert by_site[name] == pytest.approx(
            10 * np.log10(np.mean(exact**2) / np.mean((exact - noisy) ** 2)), abs=0.01
        )
    assert Layers.from_json(json.loads(json.dumps(found.to_json()))) == found


def affine(path: Path, *, factor: float, offset: float, tensor: str = "y") -> Path:
    """y = factor · x + offset, x [batch, tokens, 2]; `mask` is read, and does nothing."""
    make = onnx.helper
    floats = onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("Mul", ["x", "factor"], ["scaled"], "mul"),
        make.make_node("Add", ["scaled", "offset"], [tensor], "add"),
        make.make_node("Cast", ["attention_mask"], ["m"], "cast", to=floats),
        make.make_node("ReduceSum", ["m"], ["count"], "sum"),
    ]
    constants = [
        make.make_tensor(name, floats, [], [value]) for name, value in (("factor", factor), ("offset", offset))
    ]
    ports = [make.make_tensor_value_info("x", floats, ["b", "t", 2])]
    ports += [make.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, ["b", "t"])]
    outputs = [make.make_tensor_value_info("count", floats, None)]
    graph = make.make_graph(nodes, "g", ports, outputs, constants)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10), path)
    return path


SITE = Site("layer.0/layer.output", Role.LAYER_OUTPUT, 0, "y", 2)


def batch(rows: int = 2) -> Batch:
    """Values 1 at tokens, 1000 at padding."""
    mask = np.ones((rows, 3), np.int64)
    mask[:, 2] = 0
    x = np.where(mask[..., None] == 1, 1.0, 1000.0).repeat(2, axis=-1).astype(np.float32)
    return Batch({"x": x, "attention_mask": mask}, (None,) * rows)


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    return affine(tmp_path / "f.onnx", factor=1.0, offset=0.0)


def test_sqnr_by_hand_and_padding_does_not_count(exact, tmp_path):
    noisy = affine(tmp_path / "q.onnx", factor=1.1, offset=0.0)
    found = trace_stage(noisy, exact, SiteMap((SITE,)), {}, [batch()], workdir=tmp_path)
    assert found.sites[0].sqnr_db == pytest.approx(20.0, abs=1e-3)
    shifted = affine(tmp_path / "s.onnx", factor=1.0, offset=0.01)
    found = trace_stage(shifted, exact, SiteMap((SITE,)), {}, [batch()], workdir=tmp_path)
    assert found.sites[0].sqnr_db == pytest.approx(40.0, abs=1e-3), "padding would add 50 dB"


def test_equal_tensors_and_no_numbers_are_bounded(exact, tmp_path):
    same = trace_stage(exact, exact, SiteMap((SITE,)), {}, [batch()], workdir=tmp_path)
    assert same.sites[0].sqnr_db == 200.0
    broken = affine(tmp_path / "q.onnx", factor=float("nan"), offset=0.0)
    found = trace_stage(broken, exact, SiteMap((SITE,)), {}, [batch()], workdir=tmp_path)
    assert found.sites[0].sqnr_db == -200.0


def test_a_few_examples_of_a_few_batches_are_enough(exact, tmp_path):
    found = trace_stage(exact, exact, SiteMap((SITE,)), {}, [batch(7)] * 9, workdir=tmp_path)
    assert found.examples == BATCHES * ROWS


def test_what_cannot_be_compared_is_told(exact, tmp_path):
    renamed = affine(tmp_path / "q.onnx", factor=1.0, offset=0.0, tensor="z")
    (skip,) = trace_stage(renamed, exact, SiteMap((SITE,)), {}, [batch()], workdir=tmp_path).skipped
    assert (skip.site, skip.reason) == (SITE.id, "the quantized graph has no tensor of this name")


def test_a_model_that_cannot_run_skips_every_site(exact, tmp_path):
    lacking = Batch({"x": batch().inputs["x"]}, (None, None))
    found = trace_stage(exact, exact, SiteMap((SITE,)), {}, [lacking], workdir=tmp_path)
    assert found.sites == ()
    assert [skip.site for skip in found.skipped] == [SITE.id]
    assert found.skipped[0].reason


def test_models_that_exceed_the_limits_of_a_verdict_skip_every_site(exact, tmp_path):
    found = trace_stage(exact, exact, SiteMap((SITE,)), {}, [batch()], workdir=tmp_path, limits=Limits(seconds=1e-3))
    assert (found.sites, [skip.site for skip in found.skipped]) == ((), [SITE.id])
    assert "for 0.001 s: killed" in found.skipped[0].reason


def test_an_order_is_undone_after_the_fold():
    change = changes({"orders": {"a": [2, 0, 1]}, "smoothing": {"a": [1, 2, 4]}, "shifts": {"a": [0, 0, 1]}})["a"]
    original = np.array([[10.0, 20.0, 30.0]], np.float32)
    folded = (original[:, [2, 0, 1]] - [0, 0, 1]) / [1, 2, 4]
    np.testing.assert_allclose(change.done(original), folded)
    np.testing.assert_allclose(change.undone(folded, 3), original)
    assert Change().undone(folded, 4) is None
