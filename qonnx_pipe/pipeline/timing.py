"""Timing: the step that finds what each weight takes on the target, where a budget limits the time of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.plan import BLOCKS, QuantPlan
from qonnx_pipe.core.sensitivity import Matrix, Sensitivity
from qonnx_pipe.core.statistics import Provenance
from qonnx_pipe.core.times import FLOAT
from qonnx_pipe.observers.encode import requests
from qonnx_pipe.pipeline.measuring import hardware, limits_of, versions
from qonnx_pipe.pipeline.progress import Progress
from qonnx_pipe.pipeline.sensing import enough
from qonnx_pipe.pipeline.step import Step
from qonnx_pipe.pipeline.work import FLOAT as FLOAT_MODEL
from qonnx_pipe.pipeline.work import TOKENIZER, Work

ROUNDS = 7
"""Of whole files in turn, and of profiles."""

NOISY = 0.2
"""Relative width of an interval from which on a user is warned: a budget is missed by half of it easily."""


def timing(work: Work) -> Step:
    """Float model and the widths of its weights → what each of these takes on the target at each width."""
    choice, settings, budget = work.choice("calibration"), work.recipe.quantize, work.recipe.quantize.budget
    assert budget is not None

    def build(folder: Path) -> None:
        from qonnx_pipe.runtime.shapes import from_batches
        from qonnx_pipe.stages.plan import sites_of
        from qonnx_pipe.stages.timing import Timed, timing_stage

        found = Sensitivity.from_json(json.loads(work.file("sensitivity", "sensitivity.json").read_bytes()))
        chosen = {one.site for one in found.matrices if one.layer is not None}
        inputs = from_batches(work.batches(work.calibration, choice, sort=False), *budget.shape)
        validation = work.recipe.validation
        wish = Timed(
            inputs,
            budget.shape,
            settings.target,
            ROUNDS,
            validation.pythons.get(settings.target),
            limits_of(validation),
        )
        work.listen(Progress("timing", "start", "timing", 1 + len(budget.widths) + wish.steps))
        files = _variants(work, found, work.store.workdir(step.key))
        sites = [site for site in sites_of(work.float_model).weights if site.id in chosen]
        times = timing_stage(work.float_model, files, sites, wish, partial(_tell, work))
        if times.noise > NOISY:
            what = f"speed-ups vary by {times.noise:.0%}: the machine is busy, and this run keeps what it saw"
            same = f"--set quantize.budget.latency={budget.latency}"
            again = f"`qpipe run RECIPE {same} --from timing --until plan`, with the other options as now"
            work.listen(Progress("timing", "warning", f"{what}; {again}, measures again"))
        write_json(folder / "times.json", times.to_json())

    decided = settings.model_dump(mode="json", exclude={"budget", "adaround", "gptq", "qat", "tune"})
    wanted = [budget.widths, budget.embeddings, budget.shape, ROUNDS, choice.batch_size, choice.max_length]
    config = [decided, wanted, *hardware(), *versions([settings.target], work.recipe.validation)]
    inputs = work.digests("export", FLOAT_MODEL, *TOKENIZER) | work.digests("sensitivity")
    step = Step("timing", config, inputs | {"data.calibration": work.calibration.sha256}, build)
    return step


def _variants(work: Work, found: Sensitivity, place: Path) -> dict[int, Path]:
    """Bits → a file whose encoder weights all have so many, as far as they can; made once where the kernel is one."""
    from qonnx_pipe.stages.plan import plan_stage

    budget = work.recipe.quantize.budget
    assert budget is not None
    files: dict[int, Path] = {}
    made: dict[object, Path] = {}
    for bits in (FLOAT, *reversed(budget.widths)):
        plan = plan_stage(work.recipe, work.float_model, _uniform(found, bits))
        blocks = any(entry.lowering in BLOCKS for entry in plan.entries)
        kernel = bits if blocks or bits == FLOAT else "unpacked"
        if kernel not in made:
            made[kernel] = place / f"{bits}.onnx"
            _make(work, plan, made[kernel])
        files[bits] = made[kernel]
        _tell(work)
    return files


def _tell(work: Work, done: int = 1) -> None:
    work.listen(Progress("timing", "step", total=done))


def _uniform(found: Sensitivity, bits: int) -> Mapping[str, int]:
    """Every matrix at one width, or its next one where it cannot have it; tables at their widest."""
    return {one.site: _width(one, bits) for one in found.matrices}


def _width(matrix: Matrix, bits: int) -> int:
    if matrix.layer is None:
        return max(matrix.bytes)
    if bits in (FLOAT, *matrix.bytes):
        return bits
    return min(matrix.bytes, key=lambda width: (abs(width - bits), width))


def _make(work: Work, plan: QuantPlan, target: Path) -> None:
    """The file of a plan, its ranges from a few texts: times do not depend on them."""
    from qonnx_pipe.stages.calibrate import calibrate_stage
    from qonnx_pipe.stages.lowering import settle_forms
    from qonnx_pipe.stages.quantize import quantize_stage

    model, choice = work.float_model, work.choice("calibration")
    batches = list(enough(work.batches(work.calibration, choice, sort=False)))
    facts = Provenance("", work.calibration.sha256, 0, 0, 0, choice.batch_size, choice.max_length)
    table = calibrate_stage(model, plan.sites, requests(plan), batches, facts, workdir=target.parent)
    quantize_stage(model, settle_forms(model, plan, table), table, target, rounded={})
