"""What a recipe says about training, and which data it then needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from qonnx_pipe.core.parts import Part
from qonnx_pipe.errors import RecipeError
from qonnx_pipe.recipe import load
from tests.unit.recipe.texts import PLAIN, written

TRAINING = """\
version: 1
name: learned
model: {source: "package:p/model", task: text-classification}
data:
  train:
    source: [a.csv, {source: b.csv, columns: [label, text], labels: {"-1": bad, "1": good}}]
    shares: [0.8, 0.1, 0.1]
    label_column: verdict
  validation: {source: v.csv}
train: {epochs: 2}
"""


def problems(folder: Path, text: str) -> list[tuple[str, str, str]]:
    with pytest.raises(RecipeError) as failure:
        load(written(folder, text))
    return [(problem.where.rpartition("/")[2], problem.key, problem.what) for problem in failure.value.problems]


def test_a_training_recipe(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    recipe = load(written(tmp_path, TRAINING))
    assert recipe.train is not None
    assert (recipe.train.epochs, recipe.train.learning_rate, recipe.train.warmup) == (2, 5e-5, 0.1)
    train, held = recipe.data.train, recipe.data.validation
    assert train is not None
    assert held is not None
    assert (train.split, train.samples, held.split, held.samples) == ("train", None, "validation", None)
    assert train.location == (
        Part(str(tmp_path / "a.csv"), None, "verdict"),
        Part(str(tmp_path / "b.csv"), columns=("label", "text"), labels={"-1": "bad", "1": "good"}),
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  validation: {source: v.csv}\n", "", ("r.yaml:4", "data.validation", "missing key")),
        ("text-classification", "fill-mask", ("r.yaml:3", "model.task", "fill-mask cannot be trained")),
        ("epochs: 2", "epochs: 0", ("r.yaml:10", "train.epochs", "must be at least 1, not 0")),
        ("epochs: 2", "epoch: 2", ("r.yaml:10", "train.epoch", "unknown key")),
        ("0.1, 0.1]", "0.1, 0.2]", ("r.yaml:7", "data.train.shares", "the shares add up to 1.1, not to 1")),
        ("0.1, 0.1]", "0.2]", ("r.yaml:7", "data.train.shares", "a list of 3 or more items is needed")),
        ("columns:", "colums:", ("r.yaml:6", "data.train.source[1].colums", "unknown key")),
        ("[a.csv, {", "[7, {", ("r.yaml:6", "data.train.source[0]", "must be a text, not 7")),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, expected: tuple[str, str, str]) -> None:
    assert old in TRAINING
    found = problems(tmp_path, TRAINING.replace(old, new))
    assert [(where, key, " ".join(what.split())[:60]) for where, key, what in found] == [expected]


def test_a_recipe_that_quantizes_needs_its_data(tmp_path: Path) -> None:
    text = PLAIN.replace("  evaluation: {source: e.csv}\n", "")
    assert problems(tmp_path, text) == [("r.yaml:4", "data.evaluation", "missing key")]


def test_a_gate_on_what_was_trained_needs_a_training(tmp_path: Path) -> None:
    text = PLAIN + "validate: {gates: {trained_sqnr_db: 40}}\n"
    (found,) = problems(tmp_path, text)
    assert found[1:] == ("validate.gates.trained_sqnr_db", "nothing is trained that this gate could be about")


def test_several_splits(tmp_path: Path) -> None:
    recipe = load(written(tmp_path, PLAIN), ["data.evaluation.split=[validation, test]"])
    assert recipe.data.evaluation is not None
    assert recipe.data.evaluation.split == ("validation", "test")


def test_the_model_of_another_recipe(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").touch()
    path = written(tmp_path, PLAIN)
    model = load(path, ["model.source=recipe:other.yaml"]).model
    assert (model.trained_by, model.location) == (str(tmp_path / "other.yaml"), "recipe:other.yaml")
    assert load(path, ["model.source=recipe:packaged"]).model.trained_by == "packaged"
    assert load(path).model.trained_by is None
