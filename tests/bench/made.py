"""Made: the files of a recipe's run that benchmarks start from, out of the cache where they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe import data, pipeline
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.graph.summary import summarise
from qonnx_pipe.recipe import Recipe, load
from qonnx_pipe.recipe.data import Calibration, Evaluation
from tests.bench import base_model

QUICKSTART = Path("recipes/quickstart.yaml")


@dataclass(frozen=True)
class Made:
    """A recipe and its run directory, made up to the quantized model."""

    recipe: Recipe
    folder: Path

    @property
    def float_model(self) -> Path:
        """The float model, simplified."""
        return self.folder / "float" / "model.onnx"

    @property
    def quantized(self) -> Path:
        """The quantized model."""
        return self.folder / "model.onnx"

    @property
    def plan(self) -> QuantPlan:
        """What became of every site."""
        return QuantPlan.from_json(json.loads((self.folder / "plan.json").read_bytes()))

    @property
    def calibration(self) -> Calibration:
        """The recipe's calibration data."""
        choice = self.recipe.data.calibration
        assert choice is not None, "recipes of the benchmarks calibrate"
        return choice

    @property
    def evaluation(self) -> Evaluation:
        """The recipe's evaluation data."""
        choice = self.recipe.data.evaluation
        assert choice is not None, "recipes of the benchmarks validate"
        return choice

    def batches(self, choice: Calibration, *, samples: int, batch_size: int, max_length: int) -> list[Batch]:
        """Batches of the recipe's texts."""
        examples = data.load(choice.location, split=choice.split, samples=samples, seed=choice.seed)
        inputs = [port.name for port in summarise(self.float_model).inputs]
        tokenizer = self.float_model.with_name("tokenizer.json")
        return data.batches(examples, tokenizer, inputs, batch_size=batch_size, max_length=max_length)


def quickstart() -> Made:
    """MiniLM by the quickstart's recipe."""
    return make(load(QUICKSTART))


def base() -> Made:
    """A model of BERT-base's size by the recipe for MPNet."""
    return make(load(base_model.RECIPE, base_model.overrides()))


def make(recipe: Recipe) -> Made:
    """A recipe's files up to the quantized model, in runs/<its name>."""
    folder = Path("runs") / recipe.name
    pipeline.run(recipe, folder, lambda _: None, last="quantize")
    return Made(recipe, folder)
