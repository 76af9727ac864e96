"""Every encoder family gives the same 13 sites a layer, whatever its tensors are called."""

import random
from collections import Counter

import onnx
import pytest

from qonnx_pipe.core.site import LAYER_ROLES, Role
from qonnx_pipe.graph import io
from qonnx_pipe.graph.sites import find_sites
from tests.zoo.checkpoints import ENCODERS

pytestmark = pytest.mark.export

LAYERS, HIDDEN, INTERMEDIATE, LABELS, PAIRWISE = 2, 32, 64, 2, 0
"""What tests/zoo/checkpoints makes; pairwise tensors have no width."""

WIDTHS = {role: HIDDEN for role in LAYER_ROLES} | {
    Role.FFN_ACTIVATION: INTERMEDIATE,
    Role.ATTENTION_SCORES: PAIRWISE,
    Role.ATTENTION_PROBABILITIES: PAIRWISE,
}
OWNERS = (
    Role.ATTENTION_QUERY,
    Role.ATTENTION_KEY,
    Role.ATTENTION_VALUE,
    Role.ATTENTION_OUTPUT,
    Role.FFN_ACTIVATION,
    Role.FFN_OUTPUT,
)
READERS = {
    Role.ATTENTION_CONTEXT: [Role.ATTENTION_OUTPUT],
    Role.FFN_INPUT: [Role.FFN_ACTIVATION],
    Role.FFN_ACTIVATION: [Role.FFN_OUTPUT],
}
"""Which linear layers read a site, by what they compute; layer outputs feed the next layer's query, key and value."""

ATTENTION = sorted(OWNERS[:3])
WORD, POSITION, TYPE = "embedding.word", "embedding.position", "embedding.type"
WITH_TYPES = {WORD, TYPE, POSITION, "embedding.sum", "embedding.sum.1", "embedding.norm"}
WITHOUT_TYPES = {WORD, POSITION, "embedding.sum", "embedding.norm"}
PROJECTED = {"embedding.projection", "weight[embedding.projection]"}
EMBEDDINGS = {
    "bert": WITH_TYPES,
    "roberta": WITH_TYPES,
    "distilbert": WITHOUT_TYPES,
    "mpnet": WITHOUT_TYPES,
    "albert": WITH_TYPES | PROJECTED,
    "electra": WITH_TYPES | PROJECTED,
    "deberta-v2": {WORD, "embedding.norm"},
    "vit": {"embedding.sum", "embedding.norm"},
}
UNPLACED = {
    "mpnet": ["a table that is no part of the embedding's sum (relative positions?) stays float"],
    "deberta-v2": ["it multiplies by a constant that is no float32 matrix [in, out] (relative positions?): stays float"]
    * (2 * LAYERS),
    "vit": ["Conv with weights: only MatMul, Gemm and embedding tables are quantized"],
}
CLASSIFIERS = {family: "image-classification" if family == "vit" else "text-classification" for family in ENCODERS}
TAILS = {"vit": {"weight[head]", "head"}}
POOLED = {"weight[pooler]", "pooler", "weight[head]", "head"}


@pytest.fixture(params=ENCODERS)
def family(request):
    return request.param


@pytest.fixture
def path(exported, family):
    return exported(family, CLASSIFIERS[family])


@pytest.fixture
def found(path):
    return find_sites(io.load(path))


def test_thirteen_activations_a_layer(found):
    assert found.layers == LAYERS
    for layer in range(LAYERS):
        sites = [site for site in found.activations if site.layer == layer]
        assert Counter(site.role for site in sites) == Counter(LAYER_ROLES)
        assert {site.id for site in sites} == {f"layer.{layer}/{role}" for role in LAYER_ROLES}
        assert {site.role: site.width for site in sites} == WIDTHS
        assert {site.role for site in sites if site.pairwise} == {
            Role.ATTENTION_SCORES,
            Role.ATTENTION_PROBABILITIES,
        }


def test_embeddings_pooler_and_head(found, family):
    outside = {site.id for site in found.sites if site.layer is None and not site.id.startswith("shared/")}
    assert outside == EMBEDDINGS[family] | TAILS.get(family, POOLED)
    assert found.by_id["head"].width == LABELS
    assert all(site.width for site in found.sites if not site.pairwise)


def test_tables_are_told_apart(found, path, family):
    """By what the checkpoint calls them: names say nothing to the pass, and all to the test."""
    tables = {site.id: site.tensor for site in found.weights if site.role is not Role.WEIGHT}
    assert all(name.split(".")[1] in tensor for name, tensor in tables.items())
    sums = [site.id for site in found.activations if site.role is Role.EMBEDDING_SUM]
    assert sums == sorted(sums)


def test_every_weight_has_a_site_with_its_owner(found, path, family):
    matmuls = linear_nodes(path)
    weights = [site for site in found.weights if site.role is Role.WEIGHT]
    assert sorted(name for site in weights for name in site.feeds) == sorted(matmuls)
    assert all(matmuls[name] == site.tensor for site in weights for name in site.feeds)
    if family == "albert":
        shared = {site.owner: len(site.feeds) for site in weights if site.id.startswith("shared/")}
        assert shared == dict.fromkeys(OWNERS, LAYERS)
        return
    for layer in range(LAYERS):
        here = [site for site in weights if site.layer == layer]
        assert {site.id for site in here} == {f"layer.{layer}/weight[{owner}]" for owner in OWNERS}
        assert Counter(site.owner for site in here) == Counter(OWNERS)


def test_every_linear_layer_is_fed_by_one_site(found, path):
    feeds = Counter(name for site in found.activations for name in site.feeds)
    assert feeds == Counter(dict.fromkeys(linear_nodes(path), 1))
    owners = {name: site.owner for site in found.weights for name in site.feeds}
    for site in found.activations:
        read_by = sorted(owners[name] for name in site.feeds)
        if site.role in (Role.EMBEDDING_NORM, Role.EMBEDDING_PROJECTION) and "embedding.projection" in found.by_id:
            assert read_by == ([Role.EMBEDDING_PROJECTION] if site.role is Role.EMBEDDING_NORM else ATTENTION)
        elif site.id in ("embedding.norm", "layer.0/layer.output"):
            assert read_by == ATTENTION
        elif site.id == f"layer.{LAYERS - 1}/layer.output":
            assert read_by == [Role.HEAD if "pooler" not in found.by_id else Role.POOLER]
        else:
            assert read_by == READERS.get(site.role, [Role.HEAD] if site.role is Role.POOLER else [])


def test_what_is_left_over_says_why(found, family):
    assert [skipped.reason for skipped in found.unplaced] == UNPLACED.get(family, [])


def test_sites_stand_in_the_order_of_the_data_flow(found):
    for layer in range(LAYERS):
        roles = [site.role for site in found.activations if site.layer == layer]
        rest = [role for role in roles if role not in ATTENTION]
        assert rest == [role for role in LAYER_ROLES if role not in ATTENTION]
    layers = [site.layer for site in found.activations if site.layer is not None]
    assert layers == sorted(layers)


@pytest.mark.parametrize("seed", [0, 1])
def test_names_and_the_order_of_operands_do_not_matter(found, path, seed, tmp_path):
    model = onnx.load(path)
    names = disguise(model, seed)
    onnx.save(model, tmp_path / "m.onnx")
    other = find_sites(io.load(tmp_path / "m.onnx"))
    assert [site.id for site in other.sites] == [site.id for site in found.sites]
    for site, twin in zip(found.sites, other.sites, strict=True):
        assert (twin.role, twin.layer, twin.width) == (site.role, site.layer, site.width)
        assert (twin.owner, twin.pairwise) == (site.owner, site.pairwise)
        assert twin.tensor == names[site.tensor]
        assert list(twin.feeds) == [names[name] for name in site.feeds]
    assert [(one.site, one.reason) for one in other.unplaced] == [
        (names.get(one.site, one.site), one.reason) for one in found.unplaced
    ]


@pytest.mark.parametrize(("family", "task"), [("bert", "token-classification"), ("bert", "question-answering")])
def test_other_heads(exported, family, task):
    found = find_sites(io.load(exported(family, task)))
    assert found.unplaced == ()
    assert {"head", "weight[head]"} <= found.by_id.keys()
    assert "pooler" not in found.by_id


def test_a_head_tied_to_the_table_stays_float(exported):
    found = find_sites(io.load(exported("bert", "fill-mask")))
    assert [one.reason for one in found.unplaced] == ["its weight is tied to an embedding table: computed in float"]
    assert "pooler" in found.by_id


def test_gpt2_has_no_sites_yet_and_says_why(exported):
    found = find_sites(io.load(exported("gpt2")))
    assert found.sites == ()
    assert sum("one fused linear layer" in one.reason for one in found.unplaced) == LAYERS
    assert sum("outside attention, FFN" in one.reason for one in found.unplaced) == 4 * LAYERS


def test_bart_has_an_encoder_and_a_decoder_that_is_half_known(exported):
    encoder = exported("bart")
    assert encoder.name == "encoder_model.onnx"
    found = find_sites(io.load(encoder))
    assert found.unplaced == ()
    assert len(found.activations) == LAYERS * len(LAYER_ROLES) + 2
    decoder = find_sites(io.load(encoder.with_name("decoder_model.onnx")))
    assert sum("cross-attention has no roles yet" in one.reason for one in decoder.unplaced) == LAYERS
    assert sum("no FFN found" in one.reason for one in decoder.unplaced) == LAYERS
    assert all(site.width for site in decoder.sites if not site.pairwise)


def linear_nodes(path):
    """MatMuls and Gemms that read a matrix of the file directly: name → initializer."""
    graph = onnx.load(path).graph
    matrices = {one.name for one in graph.initializer if len(one.dims) == 2}
    return {
        node.name: node.input[1]
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices
    }


def disguise(model, seed):
    """Give everything a random name and turn operands of Add and Mul around, in place; old name → new name."""
    rng, names = random.Random(seed), {}

    def new(name):
        return names.setdefault(name, f"n{rng.getrandbits(64):x}") if name else ""

    def visit(graph):
        for one in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            one.name = new(one.name)
        for node in graph.node:
            node.name = new(node.name)
            node.input[:] = [new(name) for name in node.input]
            node.output[:] = [new(name) for name in node.output]
            if node.op_type in ("Add", "Mul") and rng.random() < 0.5:
                node.input[:] = reversed(node.input)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    visit(attribute.g)

    visit(model.graph)
    return names
