"""Attention of every encoder family: fused where it can be, equal to the unfused one, all MatMuls still integer."""

import numpy as np
import onnx
import pytest

from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.graph import io, size
from qonnx_pipe.graph import quantize as rewriting
from qonnx_pipe.graph.sites import find_sites
from tests.contract.test_lowerings import coding, inputs, outputs, seen, wanted
from tests.unit.graph.lowerings.tiny import encode, kernels

pytestmark = pytest.mark.export

FUSED = dict.fromkeys(("bert", "roberta", "distilbert", "albert", "electra", "vit", "mpnet"), 2) | {"deberta-v2": 0}
"""DeBERTa replaces masked scores rather than adding to them."""
SAME_DB = 50
"""The order of a sum decides now and then between two codes: an error of 1/255 in one of some thousand elements."""


def quantized(path, target):
    model, feed = io.load(path), inputs(path)
    sites = find_sites(model)
    entries = [PlanEntry(site, wanted(site, "matmul_inputs", PerTensor()), "integer", "test") for site in sites.sites]
    plan, values = QuantPlan("cpu", "matmul_inputs", tuple(entries)), seen(path, sites.activations, feed)
    chosen = [entry.site for entry in plan.quantized if not entry.site.is_weight]
    codings = {site.id: coding(site, values[site.tensor], PerTensor()) for site in chosen}
    rewriting.quantize(model, plan, codings, encode)
    io.save(model, target)
    return target


def padded(feed, batch, length):
    """The first texts and tokens, each text with fewer tokens than the one before."""
    cut = {name: array[:batch, :length] for name, array in feed.items()}
    if "attention_mask" in cut:
        cut["attention_mask"] = (np.arange(length) < length - 2 * np.arange(batch)[:, None]).astype(np.int64)
    return cut


@pytest.mark.parametrize("family", FUSED)
def test_a_family(exported, tmp_path, monkeypatch, family):
    path = exported(family, "image-classification" if family == "vit" else "text-classification")
    fused = quantized(path, tmp_path / "fused.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(rewriting._Work, "suit_the_kernels", lambda work: None)
        plain = quantized(path, tmp_path / "plain.onnx")
    nodes = onnx.load(fused).graph.node
    assert sum(node.op_type == "Attention" for node in nodes) == FUSED[family]
    shapes = [(3, 3)] if family == "vit" else [(3, 12), (1, 7), (1, 1)]
    for batch, length in shapes:
        feed = padded(inputs(path), batch, length)
        (expected,), (found,) = outputs(str(plain), feed), outputs(str(fused), feed)
        assert sqnr_db(expected, found) > SAME_DB
    before, after = kernels(plain, **inputs(path)), kernels(fused, **inputs(path))
    assert after.floats == ()
    assert [kernel.node for kernel in after.nodes] == [kernel.node for kernel in before.nodes]
    assert sum(vars(size.size_parts(fused)).values()) == fused.stat().st_size
