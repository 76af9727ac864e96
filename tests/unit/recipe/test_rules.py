"""Defaults and rules give each site its spec; a rule that is good for nothing is an error with its line."""

from pathlib import Path

import pytest

from qonnx_pipe.core.granularity import PerChannel, PerEmbedding, PerEmbeddingGroup, PerGroup, PerOutputGroup, PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site, SiteMap
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.times import FLOAT
from qonnx_pipe.errors import Problem, RecipeError
from qonnx_pipe.recipe import Choice, load, resolve
from tests.unit.recipe.texts import PLAIN, written

WIDTH = 12


def layer(number: int) -> list[Site]:
    def activation(role: Role, *feeds: str, pairwise: bool = False) -> Site:
        width = 0 if pairwise else WIDTH
        return Site(f"layer.{number}/{role}", role, number, f"t{number}.{role}", width, feeds, pairwise=pairwise)

    def weight(owner: Role) -> Site:
        name = f"layer.{number}/weight[{owner}]"
        heads = 3 if owner is Role.ATTENTION_QUERY else 1
        tensor, feeds = f"w{number}.{owner}", (f"n{number}.{owner}",)
        return Site(name, Role.WEIGHT, number, tensor, WIDTH, feeds, owner=owner, heads=heads)

    return [
        weight(Role.ATTENTION_QUERY),
        activation(Role.ATTENTION_PROBABILITIES, pairwise=True),
        activation(Role.FFN_INPUT, f"n{number}.{Role.FFN_ACTIVATION}"),
        weight(Role.FFN_ACTIVATION),
        activation(Role.RESIDUAL_SUM),
    ]


TABLE = Site("embedding.word", Role.EMBEDDING_WORD, None, "table", WIDTH, ("gather",))
HEAD = Site("head", Role.HEAD, None, "logits", 5)
MODEL = SiteMap((TABLE, *layer(0), *layer(1), *layer(2), HEAD))

INT8_CHANNEL = QuantSpec(QTYPES["int8"], PerChannel(1), symmetric=True)
UINT8_TENSOR = QuantSpec(QTYPES["uint8"], PerTensor(), symmetric=False)


def choices(folder: Path, quantize: str, widths: dict[str, int] | None = None) -> dict[str, Choice]:
    return {choice.site.id: choice for choice in resolve(load(written(folder, PLAIN + quantize)), MODEL, widths)}


def mistake(folder: Path, quantize: str) -> Problem:
    with pytest.raises(RecipeError) as caught:
        choices(folder, quantize)
    (problem,) = caught.value.problems
    return problem


def test_defaults_by_kind_of_site(tmp_path: Path) -> None:
    found = choices(tmp_path, "")
    assert list(found) == [site.id for site in MODEL.sites]
    assert (found["embedding.word"].spec, found["embedding.word"].rule) == (INT8_CHANNEL, "embeddings")
    weight = found["layer.1/weight[attention.query]"]
    assert (weight.spec, weight.rule) == (INT8_CHANNEL, "weights")
    x = found["layer.1/ffn.input"]
    assert (x.spec, x.rule) == (UINT8_TENSOR, "activations")


def test_later_rules_win_key_by_key(tmp_path: Path) -> None:
    found = choices(
        tmp_path,
        """\
quantize:
  activations: {dtype: int8, range: mse}
  rules:
    - match: {role: [ffn.input, residual.sum]}
      activations: {granularity: {per_embedding_group: 3}, permute: range}
    - match: {role: ffn.input, layer: 1}
      activations: {dtype: uint16}
    - match: {role: ffn.input, layer: -1}
      activations: {granularity: per_embedding, symmetric: true}
""",
    )
    groups = PerEmbeddingGroup(3, "range")
    assert found["layer.0/ffn.input"].spec == QuantSpec(QTYPES["int8"], groups, False, "mse")
    assert found["layer.0/ffn.input"].rule == "rules[0]"
    assert found["layer.1/ffn.input"].spec == QuantSpec(QTYPES["uint16"], groups, False, "mse")
    assert found["layer.1/ffn.input"].rule == "rules[1]"
    assert found["layer.2/ffn.input"].spec == QuantSpec(QTYPES["int8"], PerEmbedding(), True, "mse")
    assert found["layer.2/ffn.input"].rule == "rules[2]"
    assert found["head"].spec == QuantSpec(QTYPES["int8"], PerTensor(), False, "mse")


def test_permutation_goes_with_the_groups(tmp_path: Path) -> None:
    found = choices(
        tmp_path,
        """\
quantize:
  rules:
    - {match: {role: ffn.input}, activations: {granularity: {per_embedding_group: 3}, permute: range}}
    - {match: {role: ffn.input, layer: 1}, activations: {granularity: per_tensor}}
    - {match: {role: ffn.input, layer: 2}, activations: {granularity: {per_embedding_group: [10, 2]}}}
""",
    )
    granularities = [found[f"layer.{n}/ffn.input"].spec.granularity for n in range(3)]
    assert granularities == [PerEmbeddingGroup(3, "range"), PerTensor(), PerEmbeddingGroup((10, 2), "range")]


def test_a_role_with_weights_means_the_weight_that_computes_it(tmp_path: Path) -> None:
    found = choices(tmp_path, "quantize: {rules: [{match: {role: attention.query}, weights: {dtype: int4}}]}")
    changed = {name for name, choice in found.items() if choice.rule == "rules[0]"}
    assert changed == {f"layer.{n}/weight[attention.query]" for n in range(3)}


def test_axes_of_groups_and_rows(tmp_path: Path) -> None:
    found = choices(
        tmp_path,
        """\
quantize:
  weights: {granularity: {per_group: 32}}
  embeddings: {granularity: {per_group: 4}}
  rules: [{match: {layer: 0, role: weight}, weights: {granularity: per_row}}]
""",
    )
    assert found["layer.1/weight[ffn.activation]"].spec.granularity == PerGroup(axis=0, size=32)
    assert found["embedding.word"].spec.granularity == PerGroup(axis=1, size=4)
    assert found["layer.0/weight[ffn.activation]"].spec.granularity == PerChannel(axis=0)


def test_groups_of_outputs_know_the_heads(tmp_path: Path) -> None:
    found = choices(tmp_path, "quantize: {weights: {dtype: int4, granularity: {per_output_group: 6}}}")
    assert found["layer.1/weight[attention.query]"].spec.granularity == PerOutputGroup(6, heads=3)
    assert found["layer.1/weight[ffn.activation]"].spec.granularity == PerOutputGroup(6)
    problem = mistake(tmp_path, "quantize: {weights: {granularity: {per_output_group: 2}}}")
    assert problem.what == "layer.0/weight[attention.query]: 2 groups do not divide 12 outputs in 3 heads"
    assert problem.fix == "1 or 3 do; or give the site a rule of its own"


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("{layer: 0}", {0}),
        ("{layer: -1}", {2}),
        ('{layer: "0-1"}', {0, 1}),
        ('{layer: "1--1"}', {1, 2}),
        ('{layer: [0, "2-2"]}', {0, 2}),
        ("{node: 'layer.?/ffn.input'}", {0, 1, 2}),
        ("{node: t1.*}", {1}),
        ("{node: n2.ffn.activation}", {2}),
        ("{node: 'layer.1/weight[attention.query]'}", {1}),
        ("{layer: [0, 1], role: ffn.input, node: 't[01]*'}", set()),
        ("{layer: [0, 1], role: ffn.input, node: 't1*'}", {1}),
    ],
)
def test_what_a_match_means(tmp_path: Path, match: str, expected: set[int]) -> None:
    text = f"quantize: {{rules: [{{match: {match}, float: true}}]}}"
    if not expected:
        assert "matches nothing" in mistake(tmp_path, text).what
        return
    found = choices(tmp_path, text)
    assert {choice.site.layer for choice in found.values() if choice.spec is None} == expected


def test_float_leaves_sites_float_until_a_later_rule(tmp_path: Path) -> None:
    found = choices(
        tmp_path,
        """\
quantize:
  activations: {dtype: float}
  rules:
    - {match: {layer: 0}, float: true}
    - {match: {layer: 0, role: weight}, weights: {dtype: int8}}
    - {match: {role: residual.sum}, activations: {range: mse}}
""",
    )
    assert found["layer.1/ffn.input"].spec is None
    assert found["layer.1/ffn.input"].rule == "activations"
    assert found["layer.0/weight[ffn.activation]"].spec == INT8_CHANNEL
    assert found["layer.0/residual.sum"].spec is None
    assert found["layer.0/residual.sum"].rule == "rules[0]", "the last rule says nothing of the dtype"
    assert (found["layer.1/residual.sum"].spec, found["layer.1/residual.sum"].rule) == (None, "activations")


def test_a_budget_decides_bits_whatever_rules_say_of_the_rest(tmp_path: Path) -> None:
    first, second, third = (f"layer.{n}/weight[ffn.activation]" for n in range(3))
    found = choices(
        tmp_path,
        """\
quantize:
  budget: {bits: 4, choices: [2, float]}
  rules:
    - {match: {role: weight, layer: [0, 1]}, weights: {granularity: {per_group: 4}}}
    - {match: {role: weight, layer: 2}, weights: {dtype: int8}}
""",
        {first: 2, second: FLOAT, third: 2},
    )
    assert (found[first].spec, found[first].rule) == (QuantSpec(QTYPES["int2"], PerGroup(0, 4), True), "budget")
    assert (found[second].spec, found[second].rule) == (None, "budget")
    assert (found[third].spec, found[third].rule) == (INT8_CHANNEL, "rules[1]")
    assert found["layer.0/weight[attention.query]"].rule == "rules[0]"


@pytest.mark.parametrize(
    ("rule", "key", "words"),
    [
        ("{match: {role: pooler}, activations: {dtype: int8}}", "match", "no pooler"),
        ("{match: {role: ffn.output}, weights: {dtype: int8}}", "match", "no ffn.output"),
        ("{match: {node: nothing*}, float: true}", "match", "matches nothing"),
        ("{match: {role: weight}, activations: {dtype: int8}}", "activations", "only weights"),
        ("{match: {role: attention.query}, activations: {dtype: int8}}", "activations", "only weights"),
        ("{match: {role: residual.sum}, weights: {dtype: int8}}", "weights", "only activations"),
        ("{match: {layer: 3}, float: true}", "match.layer", "no layer 3"),
        ('{match: {layer: "2-1"}, float: true}', "match.layer", "empty"),
        (
            "{match: {role: ffn.input}, activations: {granularity: {per_embedding_group: 5}}}",
            "activations.granularity",
            "do not divide 12",
        ),
        (
            "{match: {role: ffn.input}, activations: {granularity: {per_embedding_group: [8, 5]}}}",
            "activations.granularity",
            "add up to 13",
        ),
        ("{match: {role: embedding.word}, weights: {granularity: {per_group: 5}}}", "weights.granularity", "12"),
        ("{match: {role: weight}, weights: {granularity: {per_output_group: 5}}}", "weights.granularity", "divide 12"),
        (
            "{match: {role: embedding.word}, weights: {granularity: {per_output_group: 4}}}",
            "weights.granularity",
            "no output neurons",
        ),
        (
            "{match: {role: ffn.input}, activations: {granularity: {per_output_group: 4}}}",
            "activations.granularity",
            "for weights",
        ),
        ("{match: {role: ffn.input}, activations: {permute: range}}", "activations.permute", "no groups"),
        ("{match: {role: ffn.input}, activations: {range: cross_entropy}}", "activations.range", "no logits"),
    ],
)
def test_a_rule_that_is_good_for_nothing(tmp_path: Path, rule: str, key: str, words: str) -> None:
    text = f"quantize:\n  rules:\n    - {{match: {{layer: 0}}, float: true}}\n    - {rule}\n"
    problem = mistake(tmp_path, text)
    assert problem.where == f"{tmp_path / 'r.yaml'}:10"
    assert problem.key == f"quantize.rules[1].{key}"
    assert words in problem.what
    assert problem.fix


def test_groups_on_attention_probabilities(tmp_path: Path) -> None:
    default = "quantize: {placement: full, activations: {granularity: per_embedding}}"
    adapted = choices(tmp_path, default)["layer.0/attention.probabilities"]
    assert adapted.spec == UINT8_TENSOR
    assert "no embedding axis" in adapted.note
    rule = "[{match: {role: attention.probabilities}, activations: {granularity: per_embedding}}]"
    assert "no embedding axis" in mistake(tmp_path, f"quantize: {{placement: full, rules: {rule}}}").what


def test_cross_entropy_is_for_whole_rows_of_logits(tmp_path: Path) -> None:
    def head(keys: str) -> str:
        rule = f"{{match: {{role: head}}, activations: {{range: cross_entropy{keys}}}}}"
        return f"quantize: {{placement: full, rules: [{rule}]}}"

    assert choices(tmp_path, head(""))["head"].spec == QuantSpec(QTYPES["uint8"], PerTensor(), False, "cross_entropy")
    problem = mistake(tmp_path, head(", granularity: per_embedding"))
    assert problem.key == "quantize.rules[0].activations.granularity"
    assert "whole rows of logits" in problem.what
    everywhere = mistake(tmp_path, "quantize: {activations: {range: cross_entropy}}")
    assert (everywhere.key, everywhere.fix) == (
        "quantize.activations.range",
        "give role head a rule of its own with range: cross_entropy; here use mse",
    )


def test_a_default_that_does_not_fit_matters_only_where_the_placement_quantizes(tmp_path: Path) -> None:
    groups = "activations: {granularity: {per_embedding_group: 6}}"
    assert choices(tmp_path, f"quantize: {{{groups}}}")["head"].spec is None
    problem = mistake(tmp_path, f"quantize: {{placement: full, {groups}}}")
    assert problem.key == "quantize.activations.granularity"
    assert "head" in problem.what


def test_an_overridden_rule_that_matches_nothing_stands_at_set(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    recipe = load(path, ["quantize.rules=[{match: {role: pooler}, float: true}]"])
    with pytest.raises(RecipeError) as caught:
        resolve(recipe, MODEL)
    assert [problem.where for problem in caught.value.problems] == ["--set"]
