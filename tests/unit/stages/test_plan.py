"""The plan says of every site what it becomes, in which form, and why; and refuses what cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import ATTENTION_OPERANDS, EMBEDDING_TABLES
from qonnx_pipe.errors import ModelError, NumericsError, RecipeError
from qonnx_pipe.recipe import load
from qonnx_pipe.stages.plan import candidates, doubts, plan_stage, sites_of
from tests.unit.recipe.texts import PLAIN, written
from tests.zoo import graphs

pytestmark = pytest.mark.export
RULE = "  rules:\n    - match: {match}\n      {change}\n"


@pytest.fixture
def planned(tmp_path: Path, exported: Callable[..., Path]) -> Callable[..., QuantPlan]:
    def of(quantize: str = "", family: str = "bert", task: str | None = None) -> QuantPlan:
        text = PLAIN + (f"quantize:\n{quantize}" if quantize else "")
        return plan_stage(load(written(tmp_path, text)), exported(family, task))

    return of


def rule(match: str, change: str, before: str = "") -> str:
    return before + RULE.format(match=match, change=change)


def entries(plan: QuantPlan) -> dict[str, PlanEntry]:
    return {entry.site.id: entry for entry in plan.entries}


def reasons(plan: QuantPlan) -> dict[str, str]:
    return {skip.site: skip.reason for skip in plan.skipped}


def test_every_site_has_an_entry_and_a_form(planned, exported) -> None:
    plan = planned()
    sites = sites_of(exported("bert"))
    assert [entry.site for entry in plan.entries] == list(sites.sites)
    assert plan.skipped == ()
    for entry in plan.entries:
        if entry.site.role.value.startswith("embedding.") and entry.site.is_weight:
            assert (entry.lowering, entry.rule) == ("gather_dq", "embeddings")
        elif entry.site.is_weight:
            assert (entry.lowering, entry.rule) == ("integer", "weights")
        elif entry.site.feeds:
            assert (entry.lowering, entry.rule, entry.reason) == ("qdq", "activations", "")
        else:
            assert (entry.spec, entry.lowering) == (None, "float")
            assert "only what enters a weight MatMul" in entry.reason


def test_full_placement_leaves_nothing_float(planned) -> None:
    plan = planned("  placement: full\n")
    assert all(entry.spec is not None for entry in plan.entries)


def test_all_matmul_inputs_are_those_of_attention_too(planned) -> None:
    plan = planned("  placement: all_matmul_inputs\n")
    for entry in plan.entries:
        site = entry.site
        assert (entry.spec is not None) == (site.is_weight or bool(site.feeds) or site.role in ATTENTION_OPERANDS)
        assert entry.spec is not None or "what enters a MatMul" in entry.reason


def test_openvino_multiplies_scores_in_signed_codes_unless_a_rule_says_otherwise(planned) -> None:
    asked = rule("{role: attention.value}", "activations: {dtype: int8, symmetric: true}", "  target: openvino\n")
    told = rule("{role: attention.key}", "activations: {symmetric: false}", "  target: openvino\n")
    plain, more, own = (entries(planned(text)) for text in ("  target: openvino\n", asked, told))
    for role in ("query", "key"):
        spec = plain[f"layer.0/attention.{role}"].spec
        assert spec is not None
        assert (spec.dtype.name, spec.symmetric) == ("int8", True)
    for role in ("value", "probabilities"):
        entry = plain[f"layer.0/attention.{role}"]
        assert (entry.spec, entry.lowering) == (None, "float")
        assert "P·V" in entry.reason
    assert more["layer.0/attention.value"].spec is not None
    spec = own["layer.0/attention.key"].spec
    assert spec is not None
    assert (spec.dtype.name, spec.symmetric) == ("uint8", False)
    assert plain["layer.0/ffn.activation"].spec.columns == 64
    assert all(entry.spec is None for entry in entries(planned("")).values() if entry.site.role in ATTENTION_OPERANDS)


def test_a_rule_leaves_float_and_is_named(planned) -> None:
    plan = planned(rule("{layer: 1}", "float: true"))
    by_site = entries(plan)
    entry = by_site["layer.1/weight[ffn.output]"]
    assert (entry.spec, entry.lowering, entry.rule) == (None, "float", "rules[0]")
    assert entry.reason == "the recipe leaves it float"
    assert by_site["layer.0/weight[ffn.output]"].spec is not None
    assert plan.skipped == (), "a wish is no skip"


@pytest.mark.parametrize(
    ("form", "lowering"), [("auto", "auto"), ("split", "split"), ("fold", "fold"), ("reference", "reference")]
)
def test_groups_get_the_form_asked_for_and_one_scale_needs_none(planned, form: str, lowering: str) -> None:
    groups = f"activations: {{granularity: {{per_embedding_group: 4}}, permute: range, lowering: {form}}}"
    plan = planned(rule("{role: ffn.input}", groups))
    assert entries(plan)["layer.0/ffn.input"].lowering == lowering
    assert entries(plan)["layer.0/attention.context"].lowering == "qdq"


def test_weights_keep_the_form_that_the_recipe_names(planned) -> None:
    assert entries(planned("  matmul: qdq\n"))["layer.0/weight[ffn.output]"].lowering == "qdq"


@pytest.mark.parametrize(
    ("match", "change", "site", "reason"),
    [
        (
            "{role: ffn.output}",
            "weights: {granularity: {per_group: 7}}",
            "layer.1/weight[ffn.output]",
            "groups of 7 do not divide 64 inputs",
        ),
        (
            "{role: ffn.output}",
            "weights: {granularity: per_row}",
            "layer.0/weight[ffn.output]",
            "the CPU kernel wants scales along the output",
        ),
    ],
)
def test_a_weight_without_a_lowering_is_skipped_with_its_reason(
    planned, match: str, change: str, site: str, reason: str
) -> None:
    plan = planned(rule(match, change))
    assert reason in reasons(plan)[site]
    entry = entries(plan)[site]
    assert (entry.spec, entry.lowering, entry.rule) == (None, "float", "rules[0]")
    assert entry.reason == reasons(plan)[site]


@pytest.mark.parametrize(
    ("role", "change", "note"),
    [
        (
            "embedding.word",
            "dtype: int2, granularity: {per_group: 8}",
            "packed: 2 bits in the file",
        ),
        ("ffn.output", "dtype: int4", "packed: 4 bits in the file, a byte when"),
        ("attention.output", "granularity: {per_group: 8}", "groups of inputs have no integer kernel"),
        ("attention.output", "dtype: uint3, granularity: {per_group: 8}", "has opened it; these groups of inputs have"),
    ],
)
def test_weights_that_do_not_run_as_they_are_stored_say_so(planned, role: str, change: str, note: str) -> None:
    plan = planned(rule(f"{{role: {role}}}", f"weights: {{{change}}}"))
    assert plan.skipped == ()
    site = role if role.startswith("embedding") else f"layer.1/weight[{role}]"
    assert note in entries(plan)[site].reason
    assert entries(plan)[site].spec is not None


@pytest.mark.parametrize(
    ("settings", "change", "lowering", "note"),
    [
        ("", "dtype: int4, granularity: {per_group: 16}", "nbits", "accuracy_level 4: the kernel quantizes"),
        ("", "dtype: int3, granularity: {per_group: 16}, accuracy_level: 0", "nbits", "accuracy_level 0: in float"),
        ("  matmul: qdq\n", "dtype: int4, granularity: {per_group: 16}", "blocked", "DequantizeLinear in blocks"),
        ("  matmul: qdq\n", "dtype: int3, granularity: {per_group: 16}", "qdq", "no integer kernel"),
        (
            "  matmul: qdq\n",
            "dtype: int2, granularity: {per_group: 16}",
            "qdq",
            "2 bits in blocks need opset 25, not 21",
        ),
        ("  target: openvino\n", "dtype: uint2, granularity: {per_group: 16}", "qdq", "need opset 25, not 21"),
        ("", "dtype: int6, granularity: {per_group: 16}", "integer", "no integer kernel"),
    ],
)
def test_blocks_of_inputs_have_kernels_of_their_own(planned, settings, change, lowering, note) -> None:
    found = entries(planned(rule("{role: ffn.output}", f"weights: {{{change}}}", settings)))
    entry = found["layer.1/weight[ffn.output]"]
    assert entry.lowering == lowering
    assert note in entry.reason
    source = found["layer.1/ffn.activation"]
    assert (source.spec is None) is (lowering in ("nbits", "blocked"))
    assert found["layer.1/ffn.input"].spec is not None


def test_an_activation_that_a_rule_asks_for_and_only_float_weights_read_is_told(planned) -> None:
    """What the defaults quantize is left float without a word; a rule of its own is a wish."""
    floats = rule("{role: [ffn.activation, ffn.output]}", "weights: {dtype: float}")
    plan = planned(floats + "    - {match: {role: ffn.input, layer: 1}, activations: {range: mse}}\n")
    by_site = entries(plan)
    assert [by_site[f"layer.{n}/{role}"].spec for n in (0, 1) for role in ("ffn.input", "ffn.activation")] == [None] * 4
    assert set(reasons(plan)) == {"layer.1/ffn.input"}
    assert "only weights in float" in reasons(plan)["layer.1/ffn.input"]


def test_a_rule_about_groups_does_not_make_a_default_of_float_weights_its_own(planned) -> None:
    """Where all weights are float by default, the activations were asked for alone."""
    groups = rule("{role: ffn.activation}", "weights: {granularity: {per_group: 8}}", "  weights: {dtype: float}\n")
    plan = planned(groups)
    assert entries(plan)["layer.0/weight[ffn.activation]"].rule == "weights"
    assert entries(plan)["layer.0/ffn.input"].spec is not None


@pytest.mark.parametrize("target", ["cpu", "qnn"])
def test_a_decoder_is_refused_as_one(planned, target: str) -> None:
    """GPT-2's mask holds −∞, and its checkpoint is sound all the same."""
    with pytest.raises(ModelError, match=r"no recognised site.*one fused linear layer") as caught:
        planned(f"  target: {target}\n", "gpt2")
    assert "decoders are not quantized yet" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("weights", "before", "lowering", "told"),
    [
        ("dtype: int4, granularity: per_row", "", "gather_nbits", ""),
        ("dtype: uint2, granularity: {per_group: 16}, symmetric: false", "", "gather_nbits", ""),
        ("dtype: int4, granularity: per_row", "  gather: dq\n", "gather_dq", ""),
        ("dtype: int4, granularity: per_row", "  matmul: qdq\n", "gather_dq", ""),
        ("dtype: int4, granularity: per_row", "  matmul: qdq\n  gather: nbits\n", "gather_nbits", ""),
        ("dtype: int4, granularity: per_row", "  target: openvino\n", "gather_dq", ""),
        ("dtype: int3, granularity: per_row", "", "gather_dq", ""),
        ("dtype: int3, granularity: per_row", "  gather: nbits\n", "gather_dq", "gathers codes of 2 or 4 bits, not 3"),
        ("dtype: uint4, granularity: per_row, symmetric: false", "", "gather_dq", ""),
        (
            "dtype: uint4, granularity: per_row, symmetric: false",
            "  gather: nbits\n",
            "gather_dq",
            "an even number of blocks a row, not 1",
        ),
        ("dtype: int4", "  gather: nbits\n", "gather_dq", "not per_channel"),
        ("dtype: int4, granularity: {per_group: 8}", "  gather: nbits\n", "gather_dq", "a power of two from 16"),
        ("dtype: int8, granularity: per_row", "  gather: nbits\n", "gather_dq", ""),
    ],
)
def test_a_table_stays_packed_where_an_operator_takes_it(planned, weights, before, lowering, told) -> None:
    plan = planned(rule("{role: embedding.word}", f"weights: {{{weights}}}", before))
    entry = entries(plan)["embedding.word"]
    assert entry.lowering == lowering
    assert ("in memory" in entry.reason) is (lowering == "gather_nbits")
    assert set(reasons(plan)) == ({"embedding.word"} if told else set())
    assert told in reasons(plan).get("embedding.word", "")


@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_a_table_with_one_scale_a_row_is_no_skip(planned, symmetric: str) -> None:
    plan = planned(rule("{role: embedding.word}", f"weights: {{granularity: per_row, symmetric: {symmetric}}}"))
    assert plan.skipped == ()
    assert entries(plan)["embedding.word"].lowering == "gather_dq"


@pytest.mark.parametrize(
    ("role", "change", "reason"),
    [
        ("ffn.activation", "smooth: 0.5", "Gelu makes it, which is not linear"),
        ("ffn.activation", "lowering: fold, shift: true", "use split or expand"),
        ("ffn.activation", "granularity: per_embedding, lowering: fold", "use split or expand"),
        ("ffn.output", "smooth: 0.5", "no weight MatMul reads it"),
    ],
)
def test_a_fold_that_cannot_be_is_left_out_and_told(planned, role: str, change: str, reason: str) -> None:
    plan = planned(rule(f"{{role: {role}}}", f"activations: {{{change}}}", "  placement: full\n"))
    assert reasons(plan)[f"layer.0/{role}"].startswith("not folded: ")
    assert reason in reasons(plan)[f"layer.0/{role}"]
    entry = entries(plan)[f"layer.0/{role}"]
    assert entry.spec is not None, "only the fold is left out"
    assert not entry.spec.folds
    assert entry.lowering != "fold"


@pytest.mark.parametrize("role", ["embedding.norm", "ffn.input", "attention.context"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_embedding"])
def test_folds_that_can_be(planned, role: str, granularity: str) -> None:
    change = f"activations: {{granularity: {granularity}, lowering: fold, shift: true}}"
    plan = planned(rule(f"{{role: {role}}}", change))
    assert plan.skipped == ()
    found = [entry for entry in plan.entries if entry.site.role == role]
    assert {entry.lowering for entry in found} == {"fold"}


def test_pairs_that_cannot_be_equalised_are_told(planned) -> None:
    plan = planned("  equalise: true\n")
    assert set(reasons(plan)) == {"layer.0/ffn.activation", "layer.1/ffn.activation"}
    assert reasons(plan)["layer.0/ffn.activation"].startswith("not equalised: Gelu makes it")


def test_smoothing_that_can_be(planned) -> None:
    plan = planned(rule("{role: ffn.input}", "activations: {smooth: 0.5}"))
    assert plan.skipped == ()
    assert entries(plan)["layer.1/ffn.input"].spec.smooth == 0.5


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ("  activations: {dtype: uint16}\n", "16-bit activations: the CPU provider runs"),
        ("  matmul: qdq\n  activations: {dtype: int8}\n", "signed activations that feed several MatMuls stay float"),
    ],
)
def test_what_will_run_slowly_is_noted(planned, settings: str, note: str) -> None:
    entry = entries(planned(settings))["layer.0/layer.output"]
    assert len(entry.site.feeds) == 3
    assert note in entry.reason


def test_what_has_no_role_is_told(planned) -> None:
    plan = planned(family="deberta-v2")
    assert any("relative positions" in reason for reason in reasons(plan).values())


def test_for_tensorrt_codes_have_their_zero_point_in_the_middle(planned) -> None:
    """TensorRT multiplies no others."""
    wide = rule("{role: layer.output, layer: 0}", "activations: {dtype: uint16}", "  target: tensorrt\n")
    plan = planned(wide)
    matmuls = [entry for entry in plan.quantized if entry.site.role not in EMBEDDING_TABLES]
    assert {(entry.spec.dtype.name, entry.spec.symmetric) for entry in matmuls if entry.spec} == {("int8", True)}
    assert "integer" not in {entry.lowering for entry in plan.quantized}
    assert "multiplies 8 bits, not uint16" in reasons(plan)["layer.0/layer.output"]


def test_for_openvino_matmuls_are_standard_onnx(planned) -> None:
    """onnxruntime's own operator is for its own kernels."""
    forms = {
        target: {entry.lowering for entry in planned(f"  target: {target}\n").quantized}
        for target in ("cpu", "openvino")
    }
    assert "integer" in forms["cpu"]
    assert "integer" not in forms["openvino"]
    with pytest.raises(RecipeError, match="no such operator"):
        planned("  target: openvino\n  matmul: integer\n")


def test_a_rule_that_matches_nothing_is_refused(planned) -> None:
    with pytest.raises(RecipeError, match="matches nothing"):
        planned(rule("{node: no-such-*}", "float: true"))


def test_a_graph_without_attention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no recognised site") as caught:
        sites_of(graphs.float_matmul(tmp_path / "mlp.onnx"))
    assert caught.value.where.endswith("mlp.onnx")
    assert "qpipe export" in caught.value.fix


def test_weights_with_nan_are_refused_by_name(exported, tmp_path: Path) -> None:
    model = onnx.load(exported("bert"))
    weight = next(entry for entry in model.graph.initializer if len(entry.dims) == 2)
    values = numpy_helper.to_array(weight).copy()
    values[1, 1] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(NumericsError) as caught:
        sites_of(tmp_path / "broken.onnx")
    assert weight.name in caught.value.what


def test_a_tied_table_is_no_choice_and_no_obstacle(tmp_path: Path, exported: Callable[..., Path]) -> None:
    """The widths of tables are not those of the encoder's weights."""
    budget = "  budget: {bits: 4, choices: [4], embeddings: [2]}\n"
    others = rule("{role: [embedding.position, embedding.type]}", "weights: {dtype: int8}", budget)
    recipe = load(written(tmp_path, f"{PLAIN}quantize:\n{others}"))
    assert recipe.quantize.budget is not None
    found = candidates(recipe, exported("bert", "fill-mask"), recipe.quantize.budget)
    assert {tuple(widths) for widths in found.specs.values()} == {(4,)}
    assert EMBEDDING_TABLES.isdisjoint(site.role for site in found.specs)


@pytest.mark.parametrize(
    ("quantize", "form"),
    [
        ("  placement: full\n", "fused"),
        ("  attention: plain\n", "plain"),
        ("  matmul: qdq\n", "plain"),
        ("  target: openvino\n", "plain"),
    ],
)
def test_attention_is_one_operator_beside_integer_matmuls_alone(planned, quantize: str, form: str) -> None:
    assert planned(quantize).attention == form
    assert QuantPlan.from_json(json.loads(json.dumps(planned(quantize).to_json()))) == planned(quantize)


def test_fused_attention_beside_standard_matmuls_is_refused(planned) -> None:
    with pytest.raises(RecipeError, match="standard MatMuls keep standard attention"):
        planned("  matmul: qdq\n  attention: fused\n")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_tied_head_reads_the_codes_of_its_table(planned, bits: int) -> None:
    plan = planned(f"  embeddings: {{dtype: int{bits}, granularity: per_row}}\n", "bert", "fill-mask")
    entry = entries(plan)["embedding.word"]
    assert entry.lowering == "gather_nbits"
    assert "the tied head's MatMulNBits, accuracy_level 4" in entry.reason
    assert plan.skipped == (), "the head has the table's codes, and is no leftover"


@pytest.mark.parametrize(
    ("quantize", "why"),
    [
        ("  embeddings: {dtype: int8, granularity: per_channel}\n", "not per_channel"),
        ("  gather: dq\n  embeddings: {dtype: int8, granularity: per_row}\n", "standard operators have no form"),
        ("  matmul: qdq\n  embeddings: {dtype: int8, granularity: per_row}\n", "standard operators have no form"),
    ],
)
def test_a_tied_table_that_cannot_share_stays_float_with_its_head(planned, quantize: str, why: str) -> None:
    plan = planned(quantize, "bert", "fill-mask")
    assert entries(plan)["embedding.word"].spec is None
    table, head = reasons(plan)["embedding.word"], next(one for one in plan.skipped if "tied to an" in one.reason)
    assert why in table
    assert head.reason == "its weight is tied to an embedding table: computed in float"


def test_a_head_at_two_bits_is_doubted(planned) -> None:
    narrow = rule("{role: weight}", "weights: {dtype: int2}")
    exported_head = planned(narrow, "bert", "text-classification")
    (doubt,) = doubts(exported_head)
    assert "2 bits in the head (rules[0])" in doubt
    assert doubts(planned(rule("{role: weight}", "weights: {dtype: int4}"), "bert", "text-classification")) == ()
