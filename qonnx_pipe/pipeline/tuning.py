"""Tuning: the search for faster settings, with the stages that turn settings into a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qonnx_pipe import data
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.statistics import CalibrationTable
from qonnx_pipe.core.tuning import Tuning
from qonnx_pipe.errors import Problem, RecipeError
from qonnx_pipe.pipeline.measuring import limits_of
from qonnx_pipe.pipeline.training import load_examples
from qonnx_pipe.recipe import Recipe
from qonnx_pipe.recipe.quantize import Quantize, Tune

BY_TUNING = "tune"
"""What a plan says of a site that a rule of the search decided."""


def asking(recipe: Recipe) -> Recipe:
    """The recipe with `quantize.tune`: its own, or all defaults."""
    settings = recipe.quantize.model_copy(update={"tune": recipe.quantize.tune or Tune()})
    return recipe.model_copy(update={"quantize": settings})


def calibration_batches(recipe: Recipe, model: Path) -> list[Batch]:
    """The recipe's calibration texts as inputs of `model`, beside which its tokenizer stands.

    Raises RecipeError for a recipe without such texts, and what `data.load` and `data.batches` raise.
    """
    from qonnx_pipe.graph.summary import summarise

    choice = recipe.data.calibration
    if choice is None:
        where, fix = str(recipe.origin.path), "add data.calibration: the texts that accuracy is measured on"
        raise RecipeError([Problem(where, "data.calibration", "needed to tune", fix)])
    names = [port.name for port in summarise(model).inputs]
    sizes = {"batch_size": choice.batch_size, "max_length": choice.max_length}
    examples = load_examples(choice, recipe.model.task)
    return data.batches(examples, model.with_name("tokenizer.json"), names, **sizes, sort=True)


def search(
    recipe: Recipe,
    model: Path,
    table: CalibrationTable,
    batches: Sequence[Batch],
    *,
    widths: Mapping[str, int] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[QuantPlan, Tuning]:
    """The plan of the fastest settings found for the float `model`, and all that was tried, on the recipe's target.

    `batches` are what the outputs' SQNR is taken on, `widths` bits by site, of a budget. Workers have the interpreters
    and limits of `validate`. Weights whose rounding is learned are rounded to the nearest while the search goes on.
    Raises what `tune_stage` raises.
    """
    from qonnx_pipe.stages.lowering import settle_forms
    from qonnx_pipe.stages.plan import plan_stage
    from qonnx_pipe.stages.quantize import quantize_stage
    from qonnx_pipe.stages.tune import Measured, tune_stage

    measure = _Remembering()

    def make(settings: Quantize, target: Path) -> QuantPlan:
        plan = plan_stage(recipe.model_copy(update={"quantize": settings}), model, widths)
        plan = settle_forms(model, _attributed(plan, len(recipe.quantize.rules)), table, measure=measure)
        quantize_stage(model, plan, table, target, rounded={})
        return plan

    measured = Measured(
        model,
        recipe.model.task,
        batches,
        recipe.quantize.target,
        recipe.quantize.tune or Tune(),
        limits=limits_of(recipe.validation),
        interpreters=recipe.validation.pythons,
    )
    with tempfile.TemporaryDirectory(prefix="qpipe-tune-") as folder:
        return tune_stage(recipe.quantize, make, measured.fidelity, measured.compare, Path(folder), say=say)


def _attributed(plan: QuantPlan, own: int) -> QuantPlan:
    """The plan, with BY_TUNING where a rule behind the recipe's own ones had the last word."""
    names = {f"rules[{index}]" for index in range(own)}
    entries = tuple(
        replace(entry, rule=BY_TUNING) if entry.rule.startswith("rules[") and entry.rule not in names else entry
        for entry in plan.entries
    )
    return replace(plan, entries=entries)


class _Remembering:
    """Measures forms once, so that noise does not give a site another form from one trial to the next."""

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, float]] = {}

    def __call__(
        self, models: Mapping[str, bytes], inputs: Mapping[str, npt.NDArray[np.generic]]
    ) -> Mapping[str, float]:
        """See `stages.lowering.Measure`."""
        from qonnx_pipe.runtime.costs import relative_times

        key = " ".join(sha256(data).hexdigest() for data in models.values())
        if key not in self._known:
            self._known[key] = relative_times(models, inputs)
        return self._known[key]
