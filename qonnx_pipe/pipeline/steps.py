"""Steps: for each stage, everything that determines what it makes, and how it is made.

Nothing heavy is imported before a step is really built: a run that finds everything in the store needs neither torch
nor onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qonnx_pipe import __version__
from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.statistics import Provenance, Requests
from qonnx_pipe.observers.encode import requests
from qonnx_pipe.pipeline.progress import Progress, Stage
from qonnx_pipe.pipeline.work import FLOAT, TOKENIZER, Work, libraries
from qonnx_pipe.runtime import machine
from qonnx_pipe.store import key_of


@dataclass(frozen=True)
class Step:
    """One stage of one run: `config` and `inputs` (name → SHA-256) determine what `build` writes into a folder."""

    stage: Stage
    config: object
    inputs: Mapping[str, str]
    build: Callable[[Path], None]

    @cached_property
    def key(self) -> str:
        """Where the store keeps what it makes."""
        return key_of(self.stage, self.config, self.inputs, libraries([self.stage]))


def export(work: Work) -> Step:
    """Checkpoint → float model, tokenizer, configuration."""
    model = work.recipe.model

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.export import export_stage

        export_stage(
            model.location,
            model.task,
            folder,
            name=model.source,
            opset=model.opset,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            allow_pickle=model.allow_pickle,
        )

    config = [model.source, model.task, model.opset, model.trust_remote_code]
    return Step("export", config, {"checkpoint": work.checkpoint.sha256}, build)


def plan(work: Work) -> Step:
    """Float model and rules → what every site becomes."""

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.plan import plan_stage

        write_json(folder / "plan.json", plan_stage(work.recipe, work.float_model).to_json())

    config = work.recipe.quantize.model_dump(mode="json")
    return Step("plan", config, work.digests("export", FLOAT), build)


def calibrate(work: Work) -> Step:
    """Float model and texts → statistics of every activation; of the plan only its wishes for histograms count."""
    wanted = Requests(tuple(request for request in requests(work.plan).items if request.histogram))
    choice, digest = work.recipe.data.calibration, work.calibration.sha256
    inputs = work.digests("export", FLOAT, *TOKENIZER)

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.calibrate import calibrate_stage, write_table

        batches = work.batches(work.calibration, choice, sort=False)
        work.listen(Progress("calibrate", "start", "calibrating", len(batches)))
        table = calibrate_stage(
            work.float_model,
            work.plan.sites,
            wanted,
            batches,
            Provenance(inputs[f"export/{FLOAT}"], digest, 0, 0, 0, choice.batch_size, choice.max_length),
            workdir=work.store.workdir(step.key),
            progress=lambda done: work.listen(Progress("calibrate", "step", total=done)),
        )
        write_table(folder / "calibration.npz", table)

    histograms = {request.site: request.histogram for request in wanted.items}
    config = [choice.batch_size, choice.max_length, histograms]
    step = Step("calibrate", config, {**inputs, "data.calibration": digest}, build)
    return step


def quantize(work: Work) -> Step:
    """Float model, plan and statistics → quantized model and its encodings."""
    name = work.recipe.name

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.calibrate import read_table
        from qonnx_pipe.stages.quantize import quantize_stage

        table = read_table(work.file("calibrate", "calibration.npz"))
        metadata = {"qonnx_pipe.recipe": name, "qonnx_pipe.version": __version__}
        encodings = quantize_stage(work.float_model, work.plan, table, folder / "model.onnx", metadata=metadata)
        write_json(folder / "encodings.json", encodings.to_json())

    inputs = work.digests("export", FLOAT) | work.digests("plan") | work.digests("calibrate")
    return Step("quantize", name, inputs, build)


def validate(work: Work) -> Step:
    """Quantized model beside the float one → verdict."""
    settings, choice, task = work.recipe.validation, work.recipe.data.evaluation, work.recipe.model.task

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.validate import validate as judge

        steps = 1 + len(settings.providers) * (2 + len(settings.latency.shapes))
        work.listen(Progress("validate", "start", "validating", steps))
        verdict = judge(
            work.file("quantize", "model.onnx"),
            work.float_model,
            task=task,
            batches=work.batches(work.evaluation, choice, sort=True),
            providers=settings.providers,
            shapes=settings.latency.shapes,
            gates=settings.gates.limits,
            skipped=work.plan.skipped,
            rounds=settings.latency.rounds,
            progress=lambda text: work.listen(Progress("validate", "step", text, 1)),
        )
        write_json(folder / "verdict.json", verdict.to_json())

    hardware = [machine.processor(), machine.cores()]
    config = [task, settings.model_dump(mode="json"), choice.batch_size, choice.max_length, hardware]
    inputs = work.digests("export", FLOAT, *TOKENIZER) | work.digests("plan")
    inputs |= {**work.digests("quantize", "model.onnx"), "data.evaluation": work.evaluation.sha256}
    return Step("validate", config, inputs, build)


def report(work: Work) -> Step:
    """Everything in the run directory → one page."""

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.report import write_report

        write_report(work.out, folder / "report.html")

    inputs = {name: digest for stage in work.entries for name, digest in work.digests(stage).items()}
    return Step("report", work.recipe.name, inputs, build)


STEPS: Mapping[Stage, Callable[[Work], Step]] = {
    "export": export,
    "plan": plan,
    "calibrate": calibrate,
    "quantize": quantize,
    "validate": validate,
    "report": report,
}
