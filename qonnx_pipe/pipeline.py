"""Pipeline: the stages of a recipe in order, each taken from the store when nothing that determines it has changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Literal

from qonnx_pipe import __version__, data
from qonnx_pipe.core.artifact import Artifact, Manifest, sha256_json
from qonnx_pipe.core.examples import Batch, Examples
from qonnx_pipe.core.files import write_json, writing
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.statistics import Provenance, Requests
from qonnx_pipe.core.verdict import Verdict
from qonnx_pipe.observers.encode import requests
from qonnx_pipe.recipe import Recipe
from qonnx_pipe.recipe.schema import Calibration
from qonnx_pipe.runtime import machine
from qonnx_pipe.source.checkpoint import Checkpoint, resolve
from qonnx_pipe.store import Entry, Store, key_of

Stage = Literal["export", "plan", "calibrate", "quantize", "validate", "report"]
STAGES: tuple[Stage, ...] = ("export", "plan", "calibrate", "quantize", "validate", "report")
"""The stages, in order."""

LIBRARIES: Mapping[Stage, Sequence[str]] = {
    "export": ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnx-ir", "onnxsim", "onnxscript"),
    "plan": ("onnx", "onnx-ir"),
    "calibrate": ("onnxruntime", "onnx", "onnx-ir", "tokenizers", "numpy"),
    "quantize": ("onnx", "onnx-ir", "numpy"),
    "validate": ("onnxruntime", "tokenizers", "numpy"),
    "report": ("jinja2",),
}
"""Distributions whose version can change what a stage makes."""

FLOAT = "model.onnx"


@dataclass(frozen=True)
class Progress:
    """What a running pipeline tells: a stage is taken from the store, starts, takes a step, or is done."""

    stage: Stage
    kind: Literal["cached", "start", "step", "done"]
    text: str = ""
    total: int = 0
    seconds: float = 0.0


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class RunResult:
    """A finished run: its directory, its verdict (None when it ended before), what was recomputed, what was damaged."""

    out: Path
    verdict: Verdict | None
    recomputed: tuple[Stage, ...]
    damaged: tuple[str, ...]


def run(
    recipe: Recipe,
    out: Path,
    listen: Listener,
    *,
    store: Store | None = None,
    first: Stage | None = None,
    last: Stage | None = None,
) -> RunResult:
    """Run the stages of `recipe` up to `last` and put their files into `out`; `first` and later ones are made anew.

    Every file of `out` is written whole or not at all, as soon as its stage is done; the verdict too when a gate is
    missed. Raises what the stages raise; Interrupted or KeyboardInterrupt leave a run that the same call resumes.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    work = _Run(recipe, out, listen, store or Store(), first)
    for stage in STAGES[: STAGES.index(last) + 1 if last else None]:
        getattr(work, stage)()
    work.write_manifest()
    return RunResult(out, work.verdict, tuple(work.recomputed), tuple(damage.reason for damage in work.store.damaged))


@dataclass
class _Run:
    """One run: each stage's method finds or makes its entry in the store and copies the files into `out`."""

    recipe: Recipe
    out: Path
    listen: Listener
    store: Store
    first: Stage | None
    entries: dict[Stage, Entry] = field(default_factory=dict)
    recomputed: list[Stage] = field(default_factory=list)
    verdict: Verdict | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        model = self.recipe.model
        return resolve(model.location, revision=model.revision, allow_pickle=model.allow_pickle)

    @cached_property
    def calibration(self) -> Examples:
        return _examples(self.recipe.data.calibration)

    @cached_property
    def evaluation(self) -> Examples:
        return _examples(self.recipe.data.evaluation)

    @cached_property
    def quant_plan(self) -> QuantPlan:
        return QuantPlan.from_json(json.loads(self.entries["plan"].path("plan.json").read_bytes()))

    @property
    def float_model(self) -> Path:
        return self.entries["export"].path(FLOAT)

    def export(self) -> None:
        model = self.recipe.model
        config = {
            "source": self.checkpoint.source,
            "task": model.task,
            "opset": model.opset,
            "trust_remote_code": model.trust_remote_code,
        }

        def build(folder: Path) -> None:
            from qonnx_pipe.stages.export import export_stage

            export_stage(
                self.checkpoint.source,
                model.task,
                folder,
                opset=model.opset,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                allow_pickle=model.allow_pickle,
            )

        self._stage("export", config, {"checkpoint": self.checkpoint.sha256}, build, folder="float")

    def plan(self) -> None:
        def build(folder: Path) -> None:
            from qonnx_pipe.stages.plan import plan_stage

            write_json(folder / "plan.json", plan_stage(self.recipe, self.float_model).to_json())

        config = self.recipe.quantize.model_dump(mode="json")
        self._stage("plan", config, self._digests("export", FLOAT), build)

    def calibrate(self) -> None:
        wanted = requests(self.quant_plan)
        histograms = Requests(tuple(request for request in wanted.items if request.histogram))
        choice = self.recipe.data.calibration
        config = {
            "batch_size": choice.batch_size,
            "max_length": choice.max_length,
            "histograms": {request.site: request.histogram for request in histograms.items},
        }
        inputs = {**self._digests("export", FLOAT), **self._tokenizer(), "data": self.calibration.sha256}
        key = self._key("calibrate", config, inputs)

        def build(folder: Path) -> None:
            from qonnx_pipe.stages.calibrate import calibrate_stage, write_table

            batches = self._batches(self.calibration, choice, sort=False)
            provenance = Provenance(
                inputs["model"], self.calibration.sha256, 0, 0, 0, choice.batch_size, choice.max_length
            )
            self.listen(Progress("calibrate", "start", "calibrating", len(batches)))
            table = calibrate_stage(
                self.float_model,
                self.quant_plan.sites,
                histograms,
                batches,
                provenance,
                workdir=self.store.workdir(key),
                progress=lambda done: self.listen(Progress("calibrate", "step", total=done)),
            )
            write_table(folder / "calibration.npz", table)

        self._stage("calibrate", config, inputs, build)

    def quantize(self) -> None:
        def build(folder: Path) -> None:
            from qonnx_pipe.stages.calibrate import read_table
            from qonnx_pipe.stages.quantize import quantize_stage

            table = read_table(self.entries["calibrate"].path("calibration.npz"))
            encodings = quantize_stage(
                self.float_model,
                self.quant_plan,
                table,
                folder / "model.onnx",
                metadata={"qonnx_pipe.recipe": self.recipe.name, "qonnx_pipe.version": __version__},
            )
            write_json(folder / "encodings.json", encodings.to_json())

        inputs = {
            **self._digests("export", FLOAT),
            **self._digests("plan", "plan.json"),
            **self._digests("calibrate", "calibration.npz"),
        }
        self._stage("quantize", {"recipe": self.recipe.name}, inputs, build)

    def validate(self) -> None:
        settings, choice = self.recipe.validation, self.recipe.data.evaluation
        config = {
            "task": self.recipe.model.task,
            "validate": settings.model_dump(mode="json"),
            "batch_size": choice.batch_size,
            "max_length": choice.max_length,
            "machine": [machine.processor(), machine.cores()],
        }

        def build(folder: Path) -> None:
            from qonnx_pipe.stages.validate import validate

            steps = 1 + len(settings.providers) * (2 + len(settings.latency.shapes))
            self.listen(Progress("validate", "start", "validating", steps))
            verdict = validate(
                self.entries["quantize"].path("model.onnx"),
                self.float_model,
                task=self.recipe.model.task,
                batches=self._batches(self.evaluation, choice, sort=True),
                providers=settings.providers,
                shapes=settings.latency.shapes,
                gates=settings.gates.limits,
                skipped=self.quant_plan.skipped,
                rounds=settings.latency.rounds,
                progress=lambda text: self.listen(Progress("validate", "step", text, 1)),
            )
            write_json(folder / "verdict.json", verdict.to_json())

        inputs = {
            **self._digests("export", FLOAT),
            **self._tokenizer(),
            "quantized": self.entries["quantize"].files["model.onnx"].sha256,
            "plan": self.entries["plan"].files["plan.json"].sha256,
            "data": self.evaluation.sha256,
        }
        entry = self._stage("validate", config, inputs, build)
        self.verdict = Verdict.from_json(json.loads(entry.path("verdict.json").read_bytes()))

    def report(self) -> None:
        self.write_manifest()

        def build(folder: Path) -> None:
            from qonnx_pipe.stages.report import write_report

            write_report(self.out, folder / "report.html")

        inputs = {
            f"{stage}/{name}": fact.sha256
            for stage, entry in self.entries.items()
            for name, fact in entry.files.items()
        }
        self._stage("report", {"recipe": self.recipe.name}, inputs, build)

    def write_manifest(self) -> None:
        """Write `manifest.json`: every artifact so far, its digest, its parents, and the versions behind it."""
        artifacts = []
        for stage, entry in self.entries.items():
            folder = "float/" if stage == "export" else ""
            artifacts += [
                Artifact(f"{stage}:{name}", f"{folder}{name}", fact.sha256, entry.parents, entry.key)
                for name, fact in sorted(entry.files.items())
            ]
        names = sorted({"qonnx-pipe", *(name for stage in self.entries for name in LIBRARIES[stage])})
        write_json(self.out / "manifest.json", Manifest(self.recipe.name, tuple(artifacts), _versions(names)).to_json())

    def _stage(
        self,
        stage: Stage,
        config: object,
        inputs: Mapping[str, str],
        build: Callable[[Path], None],
        *,
        folder: str = "",
    ) -> Entry:
        """The stage's entry, made if need be, with its files in the run directory."""
        key = self._key(stage, config, inputs)
        forced = self.first is not None and STAGES.index(stage) >= STAGES.index(self.first)
        entry = None if forced else self.store.get(key)
        if entry is not None:
            self.listen(Progress(stage, "cached"))
        else:
            begin = time.monotonic()
            self.listen(Progress(stage, "start", stage))
            if forced:
                self.store.forget(key)
            parents = tuple(made.key for made in self.entries.values())
            entry = self.store.make(key, stage, build, parents)
            self.recomputed.append(stage)
            self.listen(Progress(stage, "done", seconds=time.monotonic() - begin))
        self.entries[stage] = entry
        self.store.materialize(entry, entry.files, self.out / folder)
        return entry

    def _key(self, stage: Stage, config: object, inputs: Mapping[str, str]) -> str:
        return key_of(stage, config, inputs, LIBRARIES[stage])

    def _digests(self, stage: Stage, name: str) -> dict[str, str]:
        kind = "model" if name == FLOAT else stage
        return {kind: self.entries[stage].files[name].sha256}

    def _tokenizer(self) -> dict[str, str]:
        files = self.entries["export"].files
        wanted = ("tokenizer.json", "special_tokens_map.json", "config.json")
        return {"tokenizer": sha256_json({name: files[name].sha256 for name in wanted if name in files})}

    def _batches(self, examples: Examples, choice: Calibration, *, sort: bool) -> list[Batch]:
        from qonnx_pipe.graph.summary import summarise

        names = [port.name for port in summarise(self.float_model).inputs]
        tokenizer = self.entries["export"].directory / "tokenizer.json"
        return data.batches(
            examples, tokenizer, names, batch_size=choice.batch_size, max_length=choice.max_length, sort=sort
        )


def _examples(choice: Calibration) -> Examples:
    return data.load(
        choice.location,
        split=choice.split,
        samples=choice.samples,
        seed=choice.seed,
        text_column=choice.text_column,
        label_column=choice.label_column,
    )


def _versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
