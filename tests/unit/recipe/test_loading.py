"""A recipe file and its overrides become a Recipe, or all their mistakes at once."""

from pathlib import Path

import pytest

from qonnx_pipe.errors import Problem, RecipeError
from qonnx_pipe.recipe import load
from tests.unit.recipe.texts import PLAIN, written


def mistakes(folder: Path, text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        load(written(folder, text), overrides)
    return list(caught.value.problems)


def only(folder: Path, text: str, *overrides: str) -> Problem:
    (problem,) = mistakes(folder, text, *overrides)
    return problem


def test_what_is_left_out_has_the_documented_default(tmp_path: Path) -> None:
    recipe = load(written(tmp_path, PLAIN))
    assert recipe.model.opset == 21
    assert not recipe.model.trust_remote_code
    assert not recipe.model.allow_pickle
    assert (recipe.data.calibration.split, recipe.data.calibration.samples) == ("train", 256)
    assert (recipe.data.evaluation.split, recipe.data.evaluation.samples) == ("test", None)
    assert (recipe.quantize.target, recipe.quantize.chosen_placement) == ("cpu", "matmul_inputs")
    assert recipe.validation.gates.limits == {}


def test_five_different_mistakes_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    text = """\
version: 1
name: wrong
model: {sorce: "package:p/model", task: fill-mask}
data:
  calibration: {source: c.csv, samples: 0}
  evaluation: {source: e.csv}
  evaluation: {source: f.csv}
quantize:
  activations: {granularity: per_channel}
  rules:
    - match: {role: ffn.inptu}
      weights: {dtype: int8}
"""
    found = mistakes(tmp_path, text)
    file = tmp_path / "r.yaml"
    assert [(p.where, p.key) for p in found] == [
        (f"{file}:3", "model.sorce"),
        (f"{file}:5", "data.calibration.samples"),
        (f"{file}:7", "data.evaluation"),
        (f"{file}:9", "quantize.activations.granularity"),
        (f"{file}:11", "quantize.rules[0].match.role"),
    ]
    assert found[0].fix == "did you mean source?"
    assert found[4].fix == "did you mean ffn.input?"
    assert "first in line 6" in found[2].what


@pytest.mark.parametrize(
    ("extra", "key", "word"),
    [
        ("quantize: {weights: {dtype: no}}", "quantize.weights.dtype", "'no'"),
        ("quantize: {weights: {dtype: uint16}}", "quantize.weights.dtype", "8 bits"),
        ("quantize: {weights: {symmetric: no}}", "quantize.weights.symmetric", "true or false"),
        ("quantize: {weights: {range: entropy}}", "quantize.weights.range", "entropy"),
        ("quantize: {weights: {granularity: {per_group: 0}}}", "quantize.weights.granularity.per_group", "at least 1"),
        ("quantize: {weights: {granularity: {per_embedding_group: 6}}}", "quantize.weights.granularity", "activations"),
        ("quantize: {activations: {granularity: {per_group: 6}}}", "quantize.activations.granularity", "weights"),
        (
            "quantize: {activations: {granularity: {per_embedding_group: [4, 0]}}}",
            "quantize.activations.granularity.per_embedding_group[1]",
            "at least 1",
        ),
        (
            "quantize: {activations: {granularity: per_tensor, permute: range}}",
            "quantize.activations.permute",
            "per_tensor",
        ),
        ("quantize: {rules: [{match: {}, float: true}]}", "quantize.rules[0].match", "empty"),
        ("quantize: {rules: [{match: {layer: 1}}]}", "quantize.rules[0]", "nothing"),
        ("quantize: {rules: [{match: {layer: 1}, float: true, weights: {}}]}", "quantize.rules[0].float", "weights"),
        ("quantize: {rules: [{match: {layer: 1-x}, float: true}]}", "quantize.rules[0].match.layer", "1-x"),
        ("quantize: {rules: [{match: {layer: [0, 2.5]}, float: true}]}", "quantize.rules[0].match.layer[1]", "2.5"),
        ("quantize: [1]", "quantize", "mapping"),
        ("quantize: {rules: 3}", "quantize.rules", "a list"),
        ("quantize: {budget: {bits: 3, choices: [5]}}", "quantize.budget.choices[0]", "5"),
        ("quantize: {budget: {bits: 3, choices: []}}", "quantize.budget.choices", "empty"),
        ("validate: {gates: {accuracy_drop: 1.5}}", "validate.gates.accuracy_drop", "at most 1"),
        ("validate: {gates: {sqnr_db: .nan}}", "validate.gates.sqnr_db", "finite"),
        ("validate: {gates: {speedup: 2}, latency: {shapes: []}}", "validate.gates.speedup", "timings"),
        ("validate: {latency: {shapes: [[1, 0]]}}", "validate.latency.shapes[0][1]", "at least 1"),
        ("validate: {latency: {shapes: [[1]]}}", "validate.latency.shapes[0]", "list of 2"),
        ("validate: {providers: []}", "validate.providers", "empty"),
        ("validate: {providers: [cpu, cpu]}", "validate.providers[1]", "twice"),
        ("validate: {interpreters: {openvino: python}}", "validate.interpreters.openvino", "none of the providers"),
        ("validate: {time_limit: 0}", "validate.time_limit", "more than 0"),
        ("validate: {memory_limit: 0}", "validate.memory_limit", "1"),
    ],
)
def test_a_value_that_cannot_be(tmp_path: Path, extra: str, key: str, word: str) -> None:
    problem = only(tmp_path, PLAIN + extra)
    assert problem.where == f"{tmp_path / 'r.yaml'}:7"
    assert problem.key == key
    assert word in problem.what


def test_a_missing_key_says_what_it_is(tmp_path: Path) -> None:
    problem = only(tmp_path, PLAIN.replace("task: fill-mask", ""))
    assert (problem.key, problem.what) == ("model.task", "missing key")
    assert problem.where.endswith(":3")
    assert problem.fix.startswith("add task: What the model is for")


@pytest.mark.parametrize(
    ("text", "word"), [("", "empty"), ("# only a comment\n", "empty"), ("- a\n- b\n", "mapping"), ("42", "mapping")]
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, word: str) -> None:
    assert word in only(tmp_path, text).what


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for path, word in ((tmp_path / "none.yaml", "no such"), (tmp_path, "folder"), (tmp_path / "latin.yaml", "UTF-8")):
        with pytest.raises(RecipeError, match=word):
            load(path)


def test_overrides_set_keys_items_and_whole_parts(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN + "quantize: {rules: [{match: {layer: 1}, float: true}]}\n")
    overrides = (
        "model.opset=20",
        "validate.gates.speedup=2e0",
        "quantize.rules[0].match.layer=[0, -1]",
        "quantize.weights={dtype: int4, granularity: {per_group: 32}}",
        "data.evaluation.samples=null",
    )
    recipe = load(path, overrides)
    assert recipe.model.opset == 20
    assert recipe.validation.gates.limits == {"speedup": 2.0}
    assert recipe.quantize.rules[0].match.layer == (0, -1)
    assert recipe.quantize.weights.dtype == "int4"
    assert load(path, ["quantize.rules.0.match.layer=2"]).quantize.rules[0].match.layer == (2,)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.opsett=20", "model.opsett"),
        ("model.opset=x", "model.opset"),
        ("quantize.rules[0].float=true", "quantize.rules[0].float"),
        ("name.first=x", "name.first"),
        ("model.opset=[1", "model.opset"),
        ("data.calibration={source: a, source: b}", "data.calibration.source"),
        ("model.opset", ""),
        ("=3", ""),
    ],
)
def test_an_override_that_cannot_be(tmp_path: Path, override: str, key: str) -> None:
    problem = only(tmp_path, PLAIN + "quantize: {rules: []}\n", override)
    assert (problem.where, problem.key) == ("--set", key)


def test_paths_are_looked_for_beside_the_recipe_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
        (folder / "c.csv").touch()
    (here / "e.csv").touch()
    monkeypatch.chdir(here)
    text = PLAIN.replace("package:p/model", "owner/name")
    recipe = load(written(beside, text))
    assert recipe.data.calibration.location == str(beside / "c.csv")
    assert recipe.data.calibration.source == "c.csv"
    assert recipe.data.evaluation.location == str(here / "e.csv")
    assert recipe.model.location == "owner/name"
    gone = load(beside / "r.yaml", ["model.source=./gone", "data.evaluation.source=package:p/data"])
    assert gone.model.location == str(beside / "gone")
    assert gone.data.evaluation.location == "package:p/data"
