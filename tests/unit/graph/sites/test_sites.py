"""Sites of an encoder written by hand: every way to write a part, every part that is missing."""

import onnx
import pytest
from onnx import helper

from qonnx_pipe.core.site import LAYER_ROLES
from qonnx_pipe.graph import io
from qonnx_pipe.graph.sites import find_sites
from tests.unit.graph.lowerings.tiny import Layers, per_tensor, quantized
from tests.unit.graph.sites.encoder import INNER, D, Encoder
from tests.zoo import graphs

POST_NORM = {
    "attention.query": "l0.q",
    "attention.key": "l0.k",
    "attention.value": "l0.v",
    "attention.scores": "l0.s",
    "attention.probabilities": "l0.p",
    "attention.context": "l0.context",
    "attention.output": "l0.out",
    "attention.sum": "l0.u",
    "ffn.input": "l0.x",
    "ffn.activation": "l0.a",
    "ffn.output": "l0.down",
    "residual.sum": "l0.y",
    "layer.output": "l0.z",
}


def find(path):
    return find_sites(io.load(path))


def tensors(found, layer):
    return {site.role.value: site.tensor for site in found.activations if site.layer == layer}


@pytest.mark.parametrize("shapes", [True, False])
@pytest.mark.parametrize("mask", ["add", "where"])
@pytest.mark.parametrize("gelu", ["fused", "written_out"])
def test_a_post_norm_layer(tmp_path, mask, gelu, shapes):
    found = find(Encoder(mask=mask, gelu=gelu).save(tmp_path / "m.onnx", shapes=shapes))
    assert found.unplaced == ()
    assert tensors(found, 0) == POST_NORM
    assert tensors(found, None) == {"embedding.sum": "sum", "embedding.norm": "embedded"}
    widths = {site.role.value: site.width for site in found.activations if site.layer == 0 and not site.pairwise}
    assert widths == dict.fromkeys(widths, D) | {"ffn.activation": INNER}


def test_flat_scores_as_deberta_has_them(tmp_path):
    found = find(Encoder(mask="flat").save(tmp_path / "m.onnx"))
    assert found.unplaced == ()
    assert tensors(found, 0) == POST_NORM | {"attention.probabilities": "l0.p3"}


def test_pre_norm_layers_have_the_same_sites(tmp_path):
    found = find(Encoder(layers=2, prenorm=True).save(tmp_path / "m.onnx"))
    assert found.unplaced == ()
    assert tensors(found, 0) == POST_NORM | {"layer.output": "l1.before"}
    assert tensors(found, 1)["layer.output"] == "final"
    assert tensors(found, None) == {"embedding.sum": "sum", "embedding.norm": "l0.before"}


def test_feeds_and_owners(tmp_path):
    found = find(Encoder(layers=2).save(tmp_path / "m.onnx"))
    feeds = {site.id: site.feeds for site in found.activations if site.feeds}
    assert feeds["embedding.norm"] == ("l0.q.mm", "l0.k.mm", "l0.v.mm")
    assert feeds["layer.0/layer.output"] == ("l1.q.mm", "l1.k.mm", "l1.v.mm")
    assert feeds["layer.1/attention.context"] == ("l1.out.mm",)
    assert feeds["layer.1/ffn.input"] == ("l1.up.mm",)
    assert feeds["layer.1/ffn.activation"] == ("l1.down.mm",)
    assert len(feeds) == 8
    weights = {site.id: (site.tensor, site.feeds) for site in found.weights}
    assert weights["layer.1/weight[ffn.output]"] == ("l1.down.w", ("l1.down.mm",))
    assert weights["embedding.word"] == ("words", ("rows",))
    assert len(weights) == 13


@pytest.mark.parametrize(
    ("without", "last_role", "reason"),
    [
        ("attention_sum", "attention.output", "the attention's output enters no residual sum"),
        ("attention_norm", "attention.sum", "the attention's residual sum enters no LayerNormalization"),
        ("ffn", "attention.sum", "no FFN found"),
        ("ffn_sum", "ffn.output", "the FFN's output enters no residual sum"),
        ("output_norm", "residual.sum", "the FFN's residual sum enters no LayerNormalization"),
    ],
)
def test_a_layer_that_ends_early_says_where(tmp_path, without, last_role, reason):
    found = find(Encoder(without=without).save(tmp_path / "m.onnx"))
    (note,) = (one for one in found.unplaced if one.site == "layer.0")
    assert reason in note.reason
    order = [role.value for role in LAYER_ROLES]
    assert set(tensors(found, 0)) == set(order[: order.index(last_role) + 1])
    linear = {name for site in found.activations for name in site.feeds}
    assert len(linear) == (4 if without == "ffn" else 6)


def test_an_embedding_without_normalisation(tmp_path):
    found = find(Encoder(without="norm_of_embedding").save(tmp_path / "m.onnx"))
    assert [one.reason for one in found.unplaced] == [
        "the first layer's input comes from no LayerNormalization",
        "a table that is no part of the embedding's sum (relative positions?) stays float",
    ]
    assert tensors(found, 0) == POST_NORM


def test_cross_attention_has_no_sites(tmp_path):
    found = find(Encoder(source="cross").save(tmp_path / "m.onnx"))
    assert found.sites == ()
    assert "cross-attention has no roles yet" in found.unplaced[0].reason


def test_a_model_without_attention_has_no_sites(tmp_path):
    found = find(graphs.token_model(tmp_path / "m.onnx", classes=("no", "yes")))
    assert (found.sites, found.layers) == ((), 0)
    assert [one.site for one in found.unplaced] == ["embed", "matmul", "head"]


@pytest.mark.parametrize("op_type", ["MultiHeadAttention", "Attention"])
def test_fused_attention_is_named(tmp_path, op_type):
    node = helper.make_node(op_type, ["x", "x", "x"], ["y"], "fused", domain="com.microsoft", num_heads=2)
    shape = [1, 4, 8]
    path = graphs.save(tmp_path / "m.onnx", [node], [graphs.tensor("x", shape)], [graphs.tensor("y", shape)], {})
    found = find(path)
    assert found.sites == ()
    assert [one.reason for one in found.unplaced] == [
        f"{op_type} is one fused operator: export the model without fused attention"
    ]


def test_a_quantized_model_says_so(tmp_path):
    layers = Layers("matmul")
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(), {"x": per_tensor(layers.x())})
    found = find(path)
    assert found.sites == ()
    assert {one.reason for one in found.unplaced} == {"DequantizeLinear: the model is quantized already"}


def test_a_softmax_at_the_end_is_no_attention(tmp_path):
    path = Encoder().save(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[-1].op_type = "Softmax"
    onnx.save(model, path)
    found = find(path)
    assert found.layers == 1
    assert [(one.site, one.reason) for one in found.unplaced] == [
        (
            "states",
            "Softmax without a recognised attention around it: no MatMul multiplies the probabilities with values",
        )
    ]


def test_a_matrix_that_two_forms_read_is_two_weights(tmp_path):
    """A Gemm that transposes it and a MatMul that doesn't need codes of their own."""
    path = Encoder().save(tmp_path / "m.onnx")
    model = onnx.load(path)
    flat, gemm = helper.make_node("Flatten", ["l0.z"], ["f"], "f", axis=2), "Gemm"
    more = helper.make_node(gemm, ["f", "l0.out.w"], ["g"], "g", transB=1)
    model.graph.node.extend([flat, more])
    model.graph.output.append(graphs.tensor("g", ["rows", D]))
    onnx.save(model, path)
    twins = [site for site in find(path).weights if site.tensor == "l0.out.w"]
    assert sorted((site.id, site.feeds) for site in twins) == [
        ("layer.0/weight[attention.output]", ("l0.out.mm",)),
        ("weight[head]", ("g",)),
    ]


def test_a_linear_layer_beside_the_encoder_is_no_pooler(tmp_path):
    path = Encoder().save(tmp_path / "m.onnx")
    model = onnx.load(path)
    aside = [
        helper.make_node("MatMul", ["sum", "l0.out.w"], ["m"], "m"),
        helper.make_node("Tanh", ["m"], ["t"], "t"),
        helper.make_node("Relu", ["t"], ["r"], "r"),
    ]
    model.graph.node.extend(aside)
    model.graph.output.append(graphs.tensor("r", ["batch", "sequence", D]))
    onnx.save(model, path)
    found = find(path)
    assert [(one.site, one.reason) for one in found.unplaced] == [
        ("m", "a linear layer outside attention, FFN, pooler and head")
    ]
    assert found.by_id["embedding.sum"].feeds == ("m",)


@pytest.mark.parametrize("mask", ["add", "flat"])
def test_projections_know_their_heads(tmp_path, mask):
    found = find(Encoder(mask=mask).save(tmp_path / "m.onnx"))
    heads = {site.owner.value: site.heads for site in found.weights if site.owner and site.layer == 0}
    projections = {f"attention.{name}": 2 for name in ("query", "key", "value")}
    assert heads == projections | dict.fromkeys(("attention.output", "ffn.activation", "ffn.output"), 1)
