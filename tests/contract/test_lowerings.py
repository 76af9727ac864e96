"""Every lowering on every encoder family: the file is sound, close to the float one, and runs in integers."""

from typing import get_args

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qonnx_pipe.core.granularity import PerChannel, PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.core.plan import Placement, PlanEntry, QuantPlan, is_placed
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.graph.sites import find_sites
from tests.unit.graph.lowerings.tiny import INT8, encode, kernels, per_group, per_tensor
from tests.zoo.checkpoints import ENCODERS, IMAGE_SIZE

pytestmark = pytest.mark.export

FORMS = {"per_tensor": PerTensor(), "groups": PerEmbeddingGroup(4, "range")}
WORST_DB = 16
"""Measured: 18.5 (ViT, every sum quantized) to 56 dB; a wrong permutation, scale or zero point gives less than 10."""


def inputs(path):
    rng = np.random.default_rng(0)
    if "vit" in str(path):
        return {"pixel_values": rng.normal(0, 1, (3, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)}
    names = [value.name for value in onnx.load(path).graph.input]
    full = {"input_ids": rng.integers(5, 100, (3, 12)), "attention_mask": np.ones((3, 12), np.int64)}
    return {name: full.get(name, np.zeros((3, 12), np.int64)) for name in names}


def outputs(model, feed, names=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(names, feed)


def seen(path, sites, feed):
    """Value of every site, from the float model with all of them as outputs."""
    model = onnx.load(path)
    have = {value.name for value in (*model.graph.output, *model.graph.input)}
    names = [site.tensor for site in sites]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    return dict(zip(names, outputs(model.SerializeToString(), feed, names), strict=True))


def coding(site, values, granularity):
    if site.pairwise or isinstance(granularity, PerTensor):
        return per_tensor(values)
    spread = np.ptp(values.reshape(-1, site.width), axis=0)
    return per_group(values, granularity.sizes(site.width), np.argsort(spread, kind="stable").tolist())


def wanted(site, placement, form):
    if site.is_weight:
        return INT8
    if is_placed(placement, site):
        return QuantSpec(QTYPES["uint8"], PerTensor() if site.width % 4 else form, False)
    return None


@pytest.mark.parametrize("lowering", ["qdq", "integer"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("placement", get_args(Placement))
@pytest.mark.parametrize("family", ENCODERS)
def test_a_whole_model(exported, tmp_path, family, placement, form, *, lowering):
    path = exported(family, "image-classification" if family == "vit" else "text-classification")
    model, feed = io.load(path), inputs(path)
    sites = find_sites(model)
    entries = [PlanEntry(site, wanted(site, placement, form), lowering, "test") for site in sites.sites]
    plan, values = QuantPlan("cpu", placement, tuple(entries)), seen(path, sites.activations, feed)
    codings = {
        entry.site.id: coding(entry.site, values[entry.site.tensor], entry.spec.granularity)
        for entry in plan.quantized
        if not entry.site.is_weight
    }
    assert set(quantize(model, plan, codings, encode)) == {site.id for site in sites.weights}
    target = tmp_path / "quantized.onnx"
    io.save(model, target)
    onnx.checker.check_model(onnx.load(target))
    (expected,), (found,) = outputs(str(path), feed), outputs(str(target), feed)
    assert sqnr_db(expected, found) > WORST_DB
    ran = kernels(target, **feed)
    pieces = 1 if isinstance(form, PerTensor) else 4
    layers = [name for site in sites.activations for name in site.feeds]
    # A linear layer whose output is split computes each slice apart: then there are more.
    assert ran.total >= pieces * len(layers)
    assert pieces > 1 or ran.total == len(layers)
    assert ran.floats == ()


@pytest.mark.parametrize("placement", get_args(Placement))
@pytest.mark.parametrize("family", ENCODERS)
def test_signed_codes_in_standard_operators(exported, tmp_path, family, placement):
    """Reshapes and Transposes lie between an attention's projections and its products."""
    path = exported(family, "image-classification" if family == "vit" else "text-classification")
    model, feed = io.load(path), inputs(path)
    sites, spec = find_sites(model), QuantSpec(QTYPES["int8"], PerTensor(), symmetric=False)
    placed = [site for site in sites.activations if is_placed(placement, site)]
    entries = [PlanEntry(site, spec if site in placed else None, "qdq", "test") for site in sites.activations]
    values = seen(path, sites.activations, feed)
    codings = {site.id: per_tensor(values[site.tensor], "int8") for site in placed}
    quantize(model, QuantPlan("tensorrt", placement, tuple(entries)), codings, encode)
    io.save(model, tmp_path / "q.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"))
    (expected,), (result,) = outputs(str(path), feed), outputs(str(tmp_path / "q.onnx"), feed)
    assert sqnr_db(expected, result) > WORST_DB


@pytest.mark.parametrize(("form", "found", "opset"), [("fused", 2, 23), ("plain", 0, 21)])
def test_attention_has_the_form_of_the_plan(exported, tmp_path, form, found, opset):
    path = exported("bert", "text-classification")
    model, feed = io.load(path), inputs(path)
    sites = find_sites(model)
    entries = [PlanEntry(site, wanted(site, "matmul_inputs", PerTensor()), "integer", "test") for site in sites.sites]
    values = seen(path, sites.activations, feed)
    codings = {site.id: per_tensor(values[site.tensor]) for site in sites.activations if site.feeds}
    quantize(model, QuantPlan("cpu", "matmul_inputs", tuple(entries), attention=form), codings, encode)
    io.save(model, tmp_path / "q.onnx")
    made = onnx.load(tmp_path / "q.onnx")
    assert sum(node.op_type == "Attention" for node in made.graph.node) == found
    assert {one.domain: one.version for one in made.opset_import}[""] == opset
    (expected,), (result,) = outputs(str(path), feed), outputs(str(tmp_path / "q.onnx"), feed)
    assert sqnr_db(expected, result) > WORST_DB


@pytest.mark.parametrize("bits", [4, 8])
def test_a_language_model_holds_its_tied_table_once(exported, tmp_path, bits):
    source = exported("bert", "fill-mask")
    model, spec = io.load(source), QuantSpec(QTYPES[f"int{bits}"], PerChannel(0), True)
    sites = find_sites(model).sites
    entries = [
        PlanEntry(site, spec, "gather_nbits", "test")
        if site.role is Role.EMBEDDING_WORD
        else PlanEntry(site, None, "float", "test")
        for site in sites
    ]
    quantize(model, QuantPlan("cpu", "matmul_inputs", tuple(entries)), {}, encode)
    io.save(model, tmp_path / "q.onnx")
    feed = inputs(source)
    ((before,), (after,)) = outputs(str(source), feed), outputs(str(tmp_path / "q.onnx"), feed)
    assert sqnr_db(before, after) > {4: 11, 8: 35}[bits], "measured: 13.6 and 38.5 dB"
    (word,) = (site.tensor for site in sites if site.role is Role.EMBEDDING_WORD)
    held = {one.name: one for one in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert len(held[f"{word}_codes"].raw_data) == np.prod(model_shape(source, word)) * bits // 8
    assert word not in held


def model_shape(path, name):
    return next(one.dims for one in onnx.load(path).graph.initializer if one.name == name)
