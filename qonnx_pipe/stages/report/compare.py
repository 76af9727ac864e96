"""Compare: two or more runs side by side: verdicts, trade-off, noise inside, and where their decisions differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe.charts import page, svg, wording
from qonnx_pipe.charts.rows import Chart, Row
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.files import write_atomic
from qonnx_pipe.core.verdict import Latency, Result, Verdict
from qonnx_pipe.errors import DataError, UsageError
from qonnx_pipe.stages.report import differences, layers, pareto
from qonnx_pipe.stages.report.run import Run, read_run

TEMPLATE = Path(__file__).parent / "templates" / "compare.html"

MOST = 6
"""Runs on one page at most: more colours cannot be told apart."""


@dataclass(frozen=True)
class Line:
    """One figure of all runs; `head` begins a group, its cells are empty."""

    name: str
    cells: tuple[str, ...]
    head: bool = False


@dataclass(frozen=True)
class Compared:
    """A run with its verdict, and its name on the page: the recipe's, or the folder's where two have the same."""

    name: str
    folder: Path
    run: Run
    verdict: Verdict


def write_comparison(folders: Sequence[Path], target: Path) -> None:
    """Write the page that compares the runs in `folders` to `target`; the same files give the same bytes.

    Raises UsageError for one run alone, a run named twice, or more than MOST; DataError for a folder that holds no run,
    a run that was not validated, or a damaged file; UsageError or Interrupted when `target` cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a run is named twice", fix="name each run once")
    if not 2 <= len(folders) <= MOST:
        raise UsageError(f"{len(folders)} runs cannot be compared", fix=f"name 2 to {MOST} run directories")
    write_atomic(target, _render(_named(folders)))


def _named(folders: Sequence[Path]) -> tuple[Compared, ...]:
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    found = []
    for folder, run in zip(folders, runs, strict=True):
        if run.verdict is None:
            fix = "finish it: `qpipe run RECIPE --out` this folder"
            raise DataError("this run was not validated: it has no verdict.json", where=str(folder), fix=fix)
        name = run.name if names.count(run.name) == 1 else str(folder)
        found.append(Compared(name, folder, run, run.verdict))
    return tuple(found)


def _render(runs: Sequence[Compared]) -> str:
    plans = [one.run.plan for one in runs]
    return page.render(
        TEMPLATE,
        runs=runs,
        figures=tuple(_figures([one.verdict for one in runs])),
        tradeoff=pareto.pareto([(one.name, one.verdict) for one in runs]),
        stream=layers.stream([one.run.layers for one in runs]),
        settings=differences.settings(plans),
        sites=differences.sites(plans),
        kernels=differences.kernels([one.verdict for one in runs]),
        facts=differences.facts([one.verdict.machine for one in runs], [one.run.manifest for one in runs]),
        size=_size(runs),
    )


def _figures(verdicts: Sequence[Verdict]) -> Iterator[Line]:
    """The figures of the quantized models, provider by provider; those that no run has are left out."""
    yield Line("Verdict", tuple("passed" if verdict.passed else "not passed" for verdict in verdicts))
    yield Line("Gates met", tuple(_gates(verdict) for verdict in verdicts))
    yield Line("Size", tuple(wording.megabytes(verdict.size.quantized_bytes) for verdict in verdicts))
    yield Line("Times smaller", tuple(wording.times(verdict.size.ratio) for verdict in verdicts))
    providers = dict.fromkeys(result.provider for verdict in verdicts for result in verdict.results)
    for provider in providers:
        found = [_quantized(verdict, provider) for verdict in verdicts]
        yield Line(provider, ("",) * len(found), head=True)
        lines = [Line(name, tuple(read(one) if one else "" for one in found)) for name, read in _MEASURES]
        shapes = dict.fromkeys((seen.batch, seen.sequence) for one in found if one for seen in one.latency)
        lines += [line for shape in shapes for line in _timed(found, shape)]
        for line in lines:
            if any(line.cells):
                yield Line(line.name, tuple(cell or wording.MISSING for cell in line.cells))


def _gates(verdict: Verdict) -> str:
    return f"{sum(gate.passed for gate in verdict.gates)} of {len(verdict.gates)}"


def _quantized(verdict: Verdict, provider: str) -> Result | None:
    return next((one for one in verdict.results if (one.provider, one.model) == (provider, "quantized")), None)


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"


_MEASURES = (
    ("Failure", lambda one: one.error),
    ("Accuracy", lambda one: wording.metric(one.accuracy.value, one.accuracy.unit) if one.accuracy else ""),
    (
        "Accuracy drop",
        lambda one: wording.metric(one.accuracy_drop.value, one.accuracy_drop.unit) if one.accuracy_drop else "",
    ),
    ("SQNR", lambda one: _decibels(one.fidelity and one.fidelity.sqnr_db)),
    ("Agreement", lambda one: wording.percent(one.fidelity.agreement) if one.fidelity else ""),
    ("SQNR to the trained model", lambda one: _decibels(one.fidelity and one.fidelity.trained_sqnr_db)),
    ("MatMuls in int8", lambda one: f"{one.kernels.integer} of {one.kernels.total}" if one.kernels else ""),
)


def _timed(found: Sequence[Result | None], shape: tuple[int, int]) -> Iterator[Line]:
    seen = [
        next((timed for timed in one.latency if (timed.batch, timed.sequence) == shape), None) if one else None
        for one in found
    ]
    for name, read in _TIMES:
        yield Line(name.format(f"{shape[0]} × {shape[1]}"), tuple(read(one) if one else "" for one in seen))


_TIMES: tuple[tuple[str, Callable[[Latency], str]], ...] = (
    ("Median, {}", lambda one: wording.milliseconds(one.p50_ms)),
    ("Speed-up, {}", lambda one: wording.times(one.speedup) if one.speedup else ""),
    ("95 % interval, {}", lambda one: wording.between(one.speedup_interval, wording.times)),
    ("Sequences a second, {}", lambda one: f"{one.throughput:.0f}" if one.throughput else ""),
    ("Cold start, {}", lambda one: f"{one.cold_start_s:.2f} s" if one.cold_start_s else ""),
    ("Peak memory, {}", lambda one: f"{one.peak_rss_mb:.0f} MB"),
)


def _size(runs: Sequence[Compared]) -> Chart:
    axis = Axis(0.0, max(one.verdict.size.quantized_bytes for one in runs))
    rows = []
    for one in runs:
        parts = one.verdict.size.parts
        kinds = [(name, float(getattr(parts, name))) for name in ("weights", "embeddings", "scales", "other")]
        value = wording.megabytes(one.verdict.size.quantized_bytes)
        detail = f"float {wording.megabytes(one.verdict.size.float_bytes)}"
        rows.append(Row(one.name, svg.stacked(axis, kinds), value, detail))
    return Chart("", "", tuple(rows), svg.scale(axis, lambda at: f"{wording.tick(at / 1e6)} MB"))
