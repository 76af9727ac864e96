"""Page: the run's files and what was drawn of them, put into the template."""

from __future__ import annotations

from pathlib import Path

import jinja2

from qonnx_pipe.core.artifact import Manifest
from qonnx_pipe.core.files import write_atomic
from qonnx_pipe.stages.report import charts, decisions, kernels, ranges, wording
from qonnx_pipe.stages.report.run import Run, read_run


def write_report(run: Path, target: Path) -> None:
    """Write the page about the run directory `run` to `target`; the same files give the same bytes.

    Any of a run's files may be missing: its section then says so. The page loads nothing from elsewhere and holds no
    script. Raises DataError for a folder that holds no run or a damaged file; UsageError or Interrupted when `target`
    cannot be written.
    """
    write_atomic(target, _render(read_run(run)))


def _render(run: Run) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= wording.FILTERS
    return environment.get_template("page.html").render(
        run=run,
        verdict=run.verdict,
        gates=charts.gates(run.verdict) if run.verdict else (),
        headlines=charts.headlines(run.verdict) if run.verdict else (),
        providers=charts.by_provider(run.verdict) if run.verdict else (),
        size=charts.size(run.verdict.size) if run.verdict else None,
        maps=kernels.maps(run.verdict, run.plan) if run.verdict else (),
        decisions=decisions.summarise(run.plan) if run.plan else None,
        encodings=decisions.encoded(run.encodings, run.plan),
        ranges=ranges.summarise(run.calibration) if run.calibration else None,
        origins=_origins(run.manifest) if run.manifest else {},
    )


def _origins(manifest: Manifest) -> dict[str, str]:
    """What an artifact's parent is called, by its digest or its key: the stage of a kind like "export:model.onnx"."""
    stages = {artifact.key: artifact.kind.partition(":")[0] for artifact in manifest.artifacts}
    return stages | {artifact.sha256: artifact.path for artifact in manifest.artifacts}
