"""Dropping: the smallest file whose accuracy falls by no more than is allowed, by bisection over executed files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.verdict import Interval
from qonnx_pipe.errors import DataError, GateFailed
from qonnx_pipe.pipeline import run
from qonnx_pipe.pipeline.progress import Listener
from qonnx_pipe.pipeline.work import Work
from qonnx_pipe.recipe import Recipe
from qonnx_pipe.store import Store


@dataclass(frozen=True)
class Trial:
    """One file that was made and run: bits a weight, bytes, and what it loses (a fraction, and its 95 % interval)."""

    bits: float
    bytes: int
    drop: float
    interval: Interval
    kept: bool

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def within_drop(
    recipe: Recipe, allowed: float, listen: Listener, *, store: Store | None = None
) -> tuple[Recipe, tuple[Trial, ...]]:
    """The recipe with the budget of the smallest file that loses at most `allowed` (a fraction), and all files tried.

    It looks along the front of the recipe's budget, whose limits of bits and size do not count, and supposes that
    larger files lose less. Files are judged on the evaluation data. Raises GateFailed where even the largest loses
    more, DataError for data without labels, and what the stages raise.
    """
    from qonnx_pipe.stages.allocate import allocate, measured, pareto

    budget, store = recipe.quantize.budget, store or Store()
    assert budget is not None
    with tempfile.TemporaryDirectory(prefix="qpipe-drop-") as scratch:
        folder = Path(scratch)
        run(recipe, folder, listen, store=store, last="timing")
        found, times = measured(folder, budget)
        points = pareto(found, budget, times)
        if not points:
            allocate(found, budget.model_copy(update={"bits": None, "size": None}), times)  # it tells what is missed
        recipes = [_limited(recipe, math.ceil(point.amounts["size"])) for point in points]
        judge = _Judge(recipe, folder, listen, store)
        tried: dict[int, Trial] = {}

        def passes(number: int) -> bool:
            if number not in tried:
                run(recipes[number], folder, listen, store=store, last="quantize")
                tried[number] = judge.trial(points[number].amounts["bits"], allowed)
            return tried[number].kept

        best = bisect(len(points), passes)
    trials = tuple(tried[number] for number in sorted(tried))
    if best is None:
        least = min(trials, key=lambda trial: trial.drop)
        what = f"no allocation loses at most {allowed * 100:g} points"
        fix = f"the nearest loses {least.drop * 100:.2f} points at {least.bytes / 1e6:.1f} MB; or give wider choices"
        raise GateFailed(what, where="--max-drop", fix=fix)
    return recipes[best], trials


def bisect(count: int, passes: Callable[[int], bool]) -> int | None:
    """The first of `count` numbers that passes, if all behind it do; None where the last one fails."""
    if not passes(count - 1):
        return None
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return high


def _limited(recipe: Recipe, size: int) -> Recipe:
    """The recipe with a budget of so many bytes alone."""
    assert recipe.quantize.budget is not None
    budget = recipe.quantize.budget.model_copy(update={"bits": None, "size": f"{size}B"})
    return recipe.model_copy(update={"quantize": recipe.quantize.model_copy(update={"budget": budget})})


class _Judge:
    """Runs a run directory's quantized model on the recipe's evaluation data, beside the float model."""

    def __init__(self, recipe: Recipe, folder: Path, listen: Listener, store: Store) -> None:
        from qonnx_pipe import data
        from qonnx_pipe.graph.summary import id2label, summarise

        work = Work(recipe, folder, listen, store)
        choice, self.task, self.folder = work.choice("evaluation"), tasks.find(recipe.model.task), folder
        self.float_model = folder / "float" / "model.onnx"
        inputs = [port.name for port in summarise(self.float_model).inputs]
        sizes = {"batch_size": choice.batch_size, "max_length": choice.max_length}
        tokenizer = self.float_model.with_name("tokenizer.json")
        self.batches: Sequence[Batch] = data.batches(work.evaluation, tokenizer, inputs, **sizes, sort=True)
        self.names = id2label(self.float_model)
        self.labels = self.task.labels(self.batches, self.names)
        if all(label is None for label in self.labels):
            fix = "give labels: --max-drop counts right answers"
            raise DataError("no example has a label", where="data.evaluation", fix=fix)
        self.exact = self._answers(self.float_model)

    def trial(self, bits: float, allowed: float) -> Trial:
        """What the model that lies in the folder now loses."""
        model = self.folder / "model.onnx"
        drop = self.task.measure.drop(self.exact, self._answers(model), self.labels)
        assert drop is not None
        lost, _ = drop
        assert lost.interval is not None
        return Trial(bits, model.stat().st_size, lost.value, lost.interval, lost.value <= allowed)

    def _answers(self, model: Path) -> tuple[str, ...]:
        from qonnx_pipe.runtime.observe import observe

        pairs = zip(observe(model, self.batches), self.batches, strict=True)
        rows = np.concatenate([self.task.scored(outputs, batch) for outputs, batch in pairs])
        return self.task.answered(rows, self.batches, self.labels, self.names)
