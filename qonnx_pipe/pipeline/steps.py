"""Steps: for each stage, everything that determines what it makes, and how it is made.

Nothing heavy is imported before a step is really built: a run that finds everything in the store needs neither torch
nor onnxruntime.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from qonnx_pipe import __version__
from qonnx_pipe.core.artifact import ANALYSIS, SENSITIVITY, TRAINED, sha256_file
from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.rounding import Codes
from qonnx_pipe.core.stages import Stage
from qonnx_pipe.core.statistics import CalibrationTable, Provenance, Requests
from qonnx_pipe.observers.encode import requests
from qonnx_pipe.pipeline.judging import validate
from qonnx_pipe.pipeline.measuring import hardware, versions
from qonnx_pipe.pipeline.progress import Progress
from qonnx_pipe.pipeline.rounders import rounders, settings_of
from qonnx_pipe.pipeline.sensing import sensitivity
from qonnx_pipe.pipeline.step import ENCODINGS, Step
from qonnx_pipe.pipeline.timing import timing
from qonnx_pipe.pipeline.work import FLOAT, TOKENIZER, Work
from qonnx_pipe.runtime.providers import ALWAYS_HERE


def export(work: Work) -> Step:
    """Checkpoint → float model, tokenizer, configuration."""
    model = work.recipe.model

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.export import export_stage

        export_stage(
            str(work.checkpoint.directory),
            model.task,
            folder,
            name=model.source,
            opset=model.opset,
            trust_remote_code=model.trust_remote_code,
            allow_pickle=model.allow_pickle,
        )

    config = [model.source, model.task, model.opset, model.trust_remote_code]
    return Step("export", config, {"checkpoint": work.checkpoint.sha256}, build)


def plan(work: Work) -> Step:
    """Float model and rules → what every site becomes."""

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.plan import doubts, plan_stage

        made = plan_stage(work.recipe, work.float_model, work.widths)
        for doubt in doubts(made):
            work.listen(Progress("plan", "warning", doubt))
        write_json(folder / "plan.json", made.to_json())

    config = work.recipe.quantize.model_dump(mode="json", exclude={"adaround", "gptq", "qat", "tune"})
    inputs = work.digests("export", FLOAT)
    for stage in ("sensitivity", "timing"):
        inputs |= work.digests(stage) if stage in work.entries else {}
    return Step("plan", config, inputs, build)


def calibrate(work: Work) -> Step:
    """Float model and texts → statistics of every activation; of the plan only its wishes beyond min-max count."""
    wishes = (request for request in requests(work.plan).items if request.histogram or request.samples)
    wanted = Requests(tuple(wishes))
    choice, digest = work.choice("calibration"), work.calibration.sha256
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

    collected = {request.site: [request.histogram, request.samples] for request in wanted.items}
    config = [choice.batch_size, choice.max_length, collected]
    step = Step("calibrate", config, {**inputs, "data.calibration": digest}, build)
    return step


def tune(work: Work) -> Step:
    """Float model, statistics and texts → the plan of the fastest settings, and what was tried."""
    choice, settings = work.choice("calibration"), work.recipe.quantize

    def build(folder: Path) -> None:
        from qonnx_pipe.pipeline.tuning import search
        from qonnx_pipe.stages.calibrate import read_table

        work.listen(Progress("tune", "start", "tuning"))
        found, tuning = search(
            work.recipe,
            work.float_model,
            read_table(work.file("calibrate", "calibration.npz")),
            work.batches(work.calibration, choice, sort=True),
            widths=work.widths,
            say=lambda text: work.listen(Progress("tune", "step", text, 1)),
        )
        write_json(folder / "plan.json", found.to_json())
        write_json(folder / "tuning.json", tuning.to_json())

    judged = versions(dict.fromkeys((ALWAYS_HERE, settings.target)), work.recipe.validation)
    texts = [work.recipe.model.task, choice.batch_size, choice.max_length]
    config = [settings.model_dump(mode="json"), *texts, hardware(), *judged]
    inputs = work.digests("export", FLOAT, *TOKENIZER) | work.digests("plan") | work.digests("calibrate")
    return Step("tune", config, {**inputs, "data.calibration": work.calibration.sha256}, build)


def qat(work: Work) -> Step:
    """Float model, plan, statistics and texts → trained float weights and encodings; the plan too where it was open."""
    settings = work.recipe.quantize.qat
    assert settings is not None

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.calibrate import read_table
        from qonnx_pipe.stages.qat import check_trainable, qat_stage
        from qonnx_pipe.stages.quantize import start_stage

        table, place = read_table(work.file("calibrate", "calibration.npz")), work.store.workdir(step.key)
        settled, folded, start = _settled(work, table, folder), place / "folded.onnx", place / "start.onnx"
        check_trainable(settled, (work.learned, work.held), settings)
        first = start_stage(work.float_model, settled, table, folded, start, rounded=_rounded(work))
        work.listen(Progress("qat", "start", "training", work.learned.steps * settings.epochs))
        kept = qat_stage(
            work.float_model,
            start,
            first,
            settled,
            folder,
            teacher=folded,
            train=work.learned,
            validation=work.held,
            task=work.recipe.model.task,
            settings=settings,
            workdir=place,
            progress=lambda done: work.listen(Progress("qat", "step", total=done)),
        )
        if not kept:
            what = "no epoch is better than the untrained model, which is kept: lower quantize.qat.learning_rate"
            work.listen(Progress("qat", "warning", what))

    inputs = work.digests("export", FLOAT, *TOKENIZER) | work.digests("plan") | work.digests("calibrate")
    inputs |= work.digests("tune", "plan.json") if "tune" in work.entries else {}
    inputs |= work.digests("round") if "round" in work.entries else {}
    texts = {"data.train": work.learned, "data.validation": work.held}
    inputs |= {name: found.examples.sha256 for name, found in texts.items()}
    sizes = [[found.batch_size, found.max_length] for found in texts.values()]
    step = Step("qat", [settings.model_dump(mode="json"), sizes, *_timed_on(work.plan)], inputs, build)
    return step


def round_weights(work: Work) -> Step:
    """Float model, plan, statistics and texts → learned codes; the plan too where it was still open."""
    choice, asked = work.choice("calibration"), settings_of(work.recipe.quantize)

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.calibrate import read_table
        from qonnx_pipe.stages.quantize import fold_stage
        from qonnx_pipe.stages.round import learned_sites, round_stage, told_in, write_rounding

        table, place = read_table(work.file("calibrate", "calibration.npz")), work.store.workdir(step.key)
        settled = _settled(work, table, folder)
        fold_stage(work.float_model, settled, table, place / "folded.onnx")
        work.listen(Progress("round", "start", "rounding", len(learned_sites(settled))))
        learned = round_stage(
            place / "folded.onnx",
            settled,
            work.batches(work.calibration, choice, sort=False),
            tokens=max(one.tokens for one in asked.values()),
            rounders=rounders(asked),
            workdir=place,
            progress=lambda text: work.listen(Progress("round", "step", text, 1)),
        )
        write_rounding(folder / "rounding.npz", learned)
        if (told := told_in(settled, learned)) != settled:
            write_json(folder / "plan.json", told.to_json())

    inputs = work.digests("export", FLOAT, *TOKENIZER) | work.digests("plan") | work.digests("calibrate")
    inputs |= work.digests("tune", "plan.json") if "tune" in work.entries else {}
    settings = {name: one.model_dump() for name, one in asked.items()}
    config = [choice.batch_size, choice.max_length, settings, *_timed_on(work.plan)]
    step = Step("round", config, {**inputs, "data.calibration": work.calibration.sha256}, build)
    return step


def quantize(work: Work) -> Step:
    """Float model, plan and statistics → quantized model and its encodings; the plan too where it was still open."""
    name = work.recipe.name

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.calibrate import read_table
        from qonnx_pipe.stages.qat import METRICS, read_encodings
        from qonnx_pipe.stages.quantize import quantize_stage

        table, trained, source = read_table(work.file("calibrate", "calibration.npz")), None, work.float_model
        if "qat" in work.entries:
            trained, source = read_encodings(work.file("qat", METRICS)), work.file("qat", TRAINED)
        rounded = _rounded(work)
        metadata = {"qonnx_pipe.recipe": name, "qonnx_pipe.version": __version__}
        settled, target = _settled(work, table, folder), folder / "model.onnx"
        encodings = quantize_stage(source, settled, table, target, rounded=rounded, trained=trained, metadata=metadata)
        write_json(folder / ENCODINGS, encodings.to_json())

    inputs = work.digests("export", FLOAT) | work.digests("plan") | work.digests("calibrate")
    inputs |= work.digests("qat") if "qat" in work.entries else {}
    inputs |= work.digests("round") if "round" in work.entries else {}
    inputs |= work.digests("tune", "plan.json") if "tune" in work.entries else {}
    return Step("quantize", [name, *_timed_on(work.plan)], inputs, build)


def _rounded(work: Work) -> dict[str, Codes] | None:
    """Learned codes by site id; None where none were asked for."""
    from qonnx_pipe.stages.round import read_rounding

    if "round" not in work.entries:
        return None
    return {site: found.codes for site, found in read_rounding(work.file("round", "rounding.npz")).items()}


def _settled(work: Work, table: CalibrationTable, folder: Path) -> QuantPlan:
    """The plan with every form settled, once; written into `folder` where it was still open."""
    from qonnx_pipe.stages.lowering import settle_forms

    made = [work.entries[stage] for stage in ("qat", "round", "tune") if stage in work.entries]
    settled = next((entry.path("plan.json") for entry in made if "plan.json" in entry.files), None)
    if settled is not None:
        plan = QuantPlan.from_json(json.loads(settled.read_bytes()))
    else:
        plan = settle_forms(work.float_model, work.plan, table)
    if plan != work.plan:
        write_json(folder / "plan.json", plan.to_json())
    return plan


def _timed_on(plan: QuantPlan) -> list[str | int]:
    """The hardware whose times decide the forms that a plan leaves open; nothing where none is open."""
    return hardware() if any(entry.lowering == "auto" for entry in plan.entries) else []


def report(work: Work) -> Step:
    """Everything in the run directory → one page."""

    def build(folder: Path) -> None:
        from qonnx_pipe.stages.report import write_report

        write_report(work.out, folder / "report.html")

    inputs = {name: digest for stage in work.entries for name, digest in work.digests(stage).items()}
    for analysis in (ANALYSIS, ANALYSIS.with_name(SENSITIVITY)):
        if (work.out / analysis).is_file():
            inputs |= {str(analysis): sha256_file(work.out / analysis)}
    return Step("report", work.recipe.name, inputs, build)


STEPS: Mapping[Stage, Callable[[Work], Step]] = {
    "export": export,
    "sensitivity": sensitivity,
    "timing": timing,
    "plan": plan,
    "calibrate": calibrate,
    "tune": tune,
    "qat": qat,
    "round": round_weights,
    "quantize": quantize,
    "validate": validate,
    "report": report,
}
