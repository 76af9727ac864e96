"""Pipeline: the stages of a recipe in order, each taken from the store when nothing that determines it has changed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from qonnx_pipe.core.artifact import MANIFEST, Artifact, Manifest
from qonnx_pipe.core.files import make_folder, write_json
from qonnx_pipe.core.stages import STAGES, Stage
from qonnx_pipe.core.verdict import Verdict
from qonnx_pipe.core.verdict_file import read_verdict
from qonnx_pipe.pipeline.progress import Listener, Progress
from qonnx_pipe.pipeline.step import VERDICT, Step
from qonnx_pipe.pipeline.steps import STEPS
from qonnx_pipe.pipeline.training import train
from qonnx_pipe.pipeline.work import Work, libraries
from qonnx_pipe.recipe import Recipe
from qonnx_pipe.store import Entry, Store

__all__ = ["STAGES", "Listener", "Progress", "RunResult", "Stage", "run", "train"]


@dataclass(frozen=True)
class RunResult:
    """A finished run: its directory, its files by stage, its verdict (None when it ended before that).

    `recomputed` names the stages that were not taken from the store; `damaged` says what was found broken there.
    """

    out: Path
    files: dict[Stage, tuple[Path, ...]]
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
    missed. Raises ProviderError for an unknown provider and DataError for unreadable data before any work, and what the
    stages raise; Interrupted or KeyboardInterrupt leave a run that the same call resumes.
    """
    stages = stages_of(recipe, last)
    work = Work(recipe, out, listen, store or Store())
    work.check(stages)
    make_folder(out)
    recomputed: list[Stage] = []
    files: dict[Stage, tuple[Path, ...]] = {}
    for stage in stages:
        step = STEPS[stage](work)
        anew = first is not None and STAGES.index(stage) >= STAGES.index(first)
        entry = None if anew else work.store.get(step.key)
        if entry is not None and stage == "validate" and read_verdict(entry.path(VERDICT)).provider_failures:
            entry, anew = None, True  # what killed a worker may be gone
        if entry is None:
            entry = _make(step, work, anew=anew)
            recomputed.append(stage)
        else:
            listen(Progress(stage, "cached"))
        work.entries[stage] = entry
        work.store.materialize(entry, entry.files, _folder(stage, out))
        files[stage] = tuple(_folder(stage, out) / name for name in entry.files)
        _write_manifest(work)  # the report reads it
    damaged = tuple(damage.reason for damage in work.store.damaged)
    return RunResult(out, files, _verdict(work), tuple(recomputed), damaged)


def stages_of(recipe: Recipe, last: Stage | None = None) -> tuple[Stage, ...]:
    """The stages that a run of `recipe` goes through, up to `last`."""
    stages = STAGES[: STAGES.index(last) + 1 if last else None]
    asked = recipe.quantize
    wanted = {
        "sensitivity": asked.budget is not None,
        "timing": asked.budget is not None and asked.budget.latency is not None,
        "tune": asked.tune is not None,
        "qat": asked.qat is not None,
        "round": bool(asked.roundings),
    }
    return tuple(stage for stage in stages if wanted.get(stage, True))


def _make(step: Step, work: Work, *, anew: bool) -> Entry:
    begin = time.monotonic()
    work.listen(Progress(step.stage, "start", step.stage))
    parents = tuple(dict.fromkeys(step.inputs.values()))
    entry = work.store.make(step.key, step.stage, step.build, parents, anew=anew)
    work.listen(Progress(step.stage, "done", seconds=time.monotonic() - begin))
    return entry


def _folder(stage: Stage, out: Path) -> Path:
    """Where a stage's files lie in the run directory."""
    return out / "float" if stage == "export" else out


def _verdict(work: Work) -> Verdict | None:
    return read_verdict(work.file("validate", VERDICT)) if "validate" in work.entries else None


def _write_manifest(work: Work) -> None:
    """Write `manifest.json`: every artifact so far, its digest, its parents' digests, the versions behind it.

    A file that a later stage wrote over (a plan that calibration settled) is that stage's.
    """
    artifacts = {
        str(path := _folder(stage, Path()) / name): Artifact(
            f"{stage}:{name}", str(path), fact.sha256, entry.parents, entry.key
        )
        for stage, entry in work.entries.items()
        for name, fact in sorted(entry.files.items())
    }
    versions = {name: _version(name) for name in ("qonnx-pipe", *libraries(tuple(work.entries)))}
    write_json(work.out / MANIFEST, Manifest(work.recipe.name, tuple(artifacts.values()), versions).to_json())


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
