"""Sensing: the step that finds what each weight costs, where a budget shares bits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.files import write_json
from qonnx_pipe.pipeline.progress import Progress
from qonnx_pipe.pipeline.step import Step
from qonnx_pipe.pipeline.work import FLOAT, TOKENIZER, Work

DECIDING = {"target", "placement", "matmul", "weights", "embeddings", "rules"}
"""Keys of `quantize` that decide what a weight at some width is."""


TOKENS = 4096
"""Tokens of the calibration examples to look at: every weight is run at every width."""


def enough(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Whole batches until they hold TOKENS tokens, padding included."""
    tokens = 0
    for batch in batches:
        if tokens >= TOKENS:
            return
        tokens += max((array.size for array in batch.inputs.values() if array.ndim == 2), default=len(batch))
        yield batch


def sensitivity(work: Work) -> Step:
    """Float model and labelled texts → what each weight costs at each of its budget's widths."""
    choice, settings = work.choice("calibration"), work.recipe.quantize
    budget = settings.budget
    assert budget is not None

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.analyse import sensitivity as analyse
        from qonnx_pipe.stages.plan import candidates

        found = candidates(work.recipe, work.float_model, budget)
        asked = analyse.Questions.of(budget)
        work.listen(Progress("sensitivity", "start", "sensitivity", asked.steps(found.specs, len(work.calibration))))
        result = analyse.sensitivity(
            work.float_model,
            found.specs,
            found.others,
            list(enough(work.batches(work.calibration, choice, sort=False))),
            task=work.recipe.model.task,
            questions=asked,
            workdir=work.store.workdir(step.key),
            progress=lambda done: work.listen(Progress("sensitivity", "step", total=done)),
        )
        write_json(folder / "sensitivity.json", result.to_json())

    wanted = [budget.widths, budget.embeddings, budget.questions]
    specs = settings.model_dump(mode="json", include=DECIDING)
    config = [work.recipe.model.task, choice.batch_size, choice.max_length, wanted, specs]
    inputs = work.digests("export", FLOAT, *TOKENIZER) | {"data.calibration": work.calibration.sha256}
    step = Step("sensitivity", config, inputs, build)
    return step
