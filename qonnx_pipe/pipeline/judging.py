"""Judging: the step that compares the quantized model with the float one, on every provider and inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qonnx_pipe.core.artifact import TRAINED_ROWS, sha256_json
from qonnx_pipe.core.baseline import against
from qonnx_pipe.core.changes import changes
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.layers import Layers
from qonnx_pipe.pipeline.measuring import hardware, limits_of, versions
from qonnx_pipe.pipeline.progress import Progress
from qonnx_pipe.pipeline.step import ENCODINGS, VERDICT, Step
from qonnx_pipe.pipeline.work import FLOAT, TOKENIZER, Work
from qonnx_pipe.runtime.providers import ALWAYS_HERE

if TYPE_CHECKING:
    from qonnx_pipe.stages.validate.rows import Trained


def validate(work: Work) -> Step:
    """Quantized model beside the float one → verdict, and how far they are apart layer by layer."""
    settings, choice, task = work.recipe.validation, work.choice("evaluation"), work.recipe.model.task

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.validate import validate as judge

        steps = 2 + len(settings.providers) * (2 + len(settings.latency.shapes))
        work.listen(Progress("validate", "start", "validating", steps))
        batches = work.batches(work.evaluation, choice, sort=True)
        verdict = judge(
            work.file("quantize", "model.onnx"),
            work.float_model,
            task=task,
            batches=batches,
            providers=settings.providers,
            shapes=settings.latency.shapes,
            gates=settings.gates.limits,
            skipped=work.settled_plan.skipped,
            rounds=settings.latency.rounds,
            fallback=settings.fallback,
            limits=limits_of(settings),
            interpreters=settings.pythons,
            trained=_trained(work),
            progress=lambda text: work.listen(Progress("validate", "step", text, 1)),
        )
        if work.baseline is not None:
            verdict = against(verdict, work.baseline)
        write_json(folder / VERDICT, verdict.to_json())
        write_json(folder / "layers.json", _layers(work, batches, work.store.workdir(step.key)).to_json())

    measured = settings.model_dump(mode="json", exclude={"baseline"})
    config = [task, measured, choice.batch_size, choice.max_length, hardware(), *versions(settings.providers, settings)]
    inputs = work.digests("export", FLOAT, *TOKENIZER) | work.digests("plan")
    inputs |= work.digests("quantize", "model.onnx", "plan.json", ENCODINGS)
    inputs |= {"data.evaluation": work.evaluation.sha256}
    inputs |= work.digests("qat", TRAINED_ROWS) if "qat" in work.entries else {}
    if work.baseline is not None:
        inputs |= {"validate.baseline": sha256_json(work.baseline.to_json())}
    step = Step("validate", config, inputs, build)
    return step


def _trained(work: Work) -> Trained | None:
    """The held-out examples with what the trained torch model gives for them; None where nothing was trained."""
    if "qat" not in work.entries:
        return None
    from qonnx_pipe.stages.validate.rows import Trained

    batches = work.batches(work.held.examples, work.choice("validation"), sort=True)
    return Trained(batches, np.load(work.file("qat", TRAINED_ROWS)))


def _layers(work: Work, batches: Sequence[Batch], place: Path) -> Layers:
    """How far the two models are apart inside."""
    from qonnx_pipe.stages.trace import trace_stage

    work.listen(Progress("validate", "step", "layers", 1))
    encodings = json.loads(work.file("quantize", ENCODINGS).read_bytes())
    settings = work.recipe.validation
    return trace_stage(
        work.file("quantize", "model.onnx"),
        work.float_model,
        work.settled_plan.sites,
        changes(encodings),
        batches,
        workdir=place,
        limits=limits_of(settings),
        python=settings.pythons.get(ALWAYS_HERE),
    )
