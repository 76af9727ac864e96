"""Page: the run's files and what was drawn of them, put into the template."""

from __future__ import annotations

from pathlib import Path

from qonnx_pipe.charts import page
from qonnx_pipe.charts import sensitivity as weights
from qonnx_pipe.core.artifact import Manifest
from qonnx_pipe.core.files import write_atomic
from qonnx_pipe.stages.report import (
    charts,
    decisions,
    distributions,
    kernels,
    layers,
    pareto,
    ranges,
    sensitivity,
    tuning,
)
from qonnx_pipe.stages.report.distributions import Distribution
from qonnx_pipe.stages.report.run import Run, read_run

TEMPLATE = Path(__file__).parent / "templates" / "page.html"


def write_report(run: Path, target: Path) -> None:
    """Write the page about the run directory `run` to `target`; the same files give the same bytes.

    Any of a run's files may be missing: its section then says so. The page loads nothing from elsewhere and holds no
    script. Raises DataError for a folder that holds no run or a damaged file; UsageError or Interrupted when `target`
    cannot be written.
    """
    write_atomic(target, _render(read_run(run)))


def _render(run: Run) -> str:
    return page.render(
        TEMPLATE,
        run=run,
        verdict=run.verdict,
        gates=charts.gates(run.verdict) if run.verdict else (),
        headlines=charts.headlines(run.verdict) if run.verdict else (),
        providers=charts.by_provider(run.verdict) if run.verdict else (),
        size=charts.size(run.verdict.size) if run.verdict else None,
        maps=kernels.maps(run.verdict, run.plan) if run.verdict else (),
        allocation=sensitivity.allocation(run.plan) if run.plan else None,
        weights=weights.charts(run.weights) if run.weights else (),
        slices=weights.slices(run.weights) if run.weights else (),
        loss_levels=weights.LEVELS,
        decisions=decisions.summarise(run.plan) if run.plan else None,
        encodings=decisions.encoded(run.encodings, run.plan),
        tradeoff=pareto.pareto([(run.name, run.verdict)]) if run.verdict else None,
        stream=layers.stream([run.layers]),
        distributions=_distributions(run),
        search=tuning.summarise(run.tuning) if run.tuning else None,
        ranges=ranges.summarise(run.calibration) if run.calibration else None,
        origins=_origins(run.manifest) if run.manifest else {},
    )


def _distributions(run: Run) -> tuple[Distribution, ...]:
    if run.calibration is None or run.encodings is None:
        return ()
    return distributions.summarise(run.calibration, run.encodings, run.changes)


def _origins(manifest: Manifest) -> dict[str, str]:
    """What an artifact's parent is called, by its digest or its key: the stage of a kind like "export:model.onnx"."""
    stages = {artifact.key: artifact.kind.partition(":")[0] for artifact in manifest.artifacts}
    return stages | {artifact.sha256: artifact.path for artifact in manifest.artifacts}
