"""Charts: a verdict as rows of label, drawing and number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from qonnx_pipe.charts import svg, wording
from qonnx_pipe.charts.rows import Chart, Row
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.verdict import Gate, Latency, Metric, Result, Size, Verdict


@dataclass(frozen=True)
class GateRow:
    """A gate in words, with its value drawn against its limit."""

    name: str
    value: str
    limit: str
    passed: bool
    drawing: Markup


@dataclass(frozen=True)
class OfProvider:
    """What was measured on one provider; `float` or `quantized` may be missing."""

    name: str
    float: Result | None
    quantized: Result | None
    accuracy: tuple[Chart, ...]
    speed: tuple[Chart, ...]

    @property
    def results(self) -> tuple[Result, ...]:
        """The results that there are."""
        return tuple(result for result in (self.float, self.quantized) if result is not None)


def gates(verdict: Verdict) -> tuple[GateRow, ...]:
    """Every gate of the recipe, as it was judged."""
    return tuple(_gate(gate) for gate in verdict.gates)


def headlines(verdict: Verdict) -> tuple[tuple[str, str, str], ...]:
    """(number, unit or name, remark): what one wants to know first, of the first provider."""
    quantized = next((result for result in verdict.results if result.model == "quantized"), None)
    found = [(wording.times(verdict.size.ratio), "smaller", wording.megabytes(verdict.size.quantized_bytes))]
    if quantized is None:
        return tuple(found)
    timed = [seen for seen in quantized.latency if seen.speedup is not None]
    if timed:
        best = max(timed, key=lambda seen: seen.batch * seen.sequence)
        found.append((wording.times(best.speedup), "faster", f"at {best.batch} × {best.sequence} tokens"))
    if quantized.accuracy_drop:
        drop = wording.metric(quantized.accuracy_drop.value, quantized.accuracy_drop.unit)
        found.append((drop, "accuracy drop", f"{quantized.accuracy_drop.n:,} examples"))
    if quantized.fidelity:
        fidelity = quantized.fidelity
        found.append(
            (f"{fidelity.sqnr_db:.1f} dB", "SQNR", f"{wording.percent(fidelity.agreement, 1)} same predictions")
        )
    if quantized.kernels:
        count = f"{quantized.kernels.integer}/{quantized.kernels.total}"
        found.append((count, "MatMuls in int8", f"as they ran on {quantized.provider}"))
    return tuple(found)


def by_provider(verdict: Verdict) -> tuple[OfProvider, ...]:
    """Accuracy and speed, provider by provider."""
    limits = {gate.name: gate.limit for gate in verdict.gates}
    return tuple(
        _provider(name, [result for result in verdict.results if result.provider == name], limits)
        for name in dict.fromkeys(result.provider for result in verdict.results)
    )


def size(size: Size) -> Chart:
    """Bytes of both files on one axis, the quantized one by what they hold."""
    axis, parts = Axis(0.0, max(size.float_bytes, size.quantized_bytes)), size.parts
    kinds = [(name, float(getattr(parts, name))) for name in ("weights", "embeddings", "scales", "other")]
    rows = (
        Row("float", svg.stacked(axis, [("float", size.float_bytes)]), wording.megabytes(size.float_bytes)),
        Row("quantized", svg.stacked(axis, kinds), wording.megabytes(size.quantized_bytes)),
    )
    return Chart("", "", rows)


def _gate(gate: Gate) -> GateRow:
    values = [0.0, gate.limit, *([] if gate.value is None else [gate.value])]
    low, high = min(values), max(values)
    axis = Axis(low, high + 0.1 * (high - low) or 1.0)
    return GateRow(
        wording.gate_name(gate.name),
        wording.gate(gate.name, gate.value),
        wording.gate_limit(gate.name, gate.limit),
        gate.passed,
        svg.bullet(axis, gate.value, gate.limit, kind="quantized" if gate.passed else "failed"),
    )


def _provider(name: str, results: Sequence[Result], limits: dict[str, float]) -> OfProvider:
    found = {result.model: result for result in results}
    both = [found[model] for model in ("float", "quantized") if model in found]
    accuracy = (_accuracy(both), _drop(both, limits.get("accuracy_drop")))
    speed = (_latency(both), _speedup(both, limits.get("speedup")), _memory(both))
    return OfProvider(
        name,
        found.get("float"),
        found.get("quantized"),
        tuple(chart for chart in accuracy if chart),
        tuple(chart for chart in speed if chart),
    )


def _accuracy(results: Sequence[Result]) -> Chart | None:
    rows = [(result.model, result.model, result.accuracy) for result in results if result.accuracy]
    if not rows:
        return None
    first = rows[0][2]
    kind = "Wilson" if first.name.endswith("accuracy") else "bootstrap"
    note = f"{first.name.replace('_', ' ')}, {first.n:,} labelled examples, 95 % {kind} interval"
    return _metrics("Accuracy", note, rows, zero=None, limit=None)


def _drop(results: Sequence[Result], limit: float | None) -> Chart | None:
    rows = [
        (f"float − {result.model}", result.model, result.accuracy_drop) for result in results if result.accuracy_drop
    ]
    note = "paired difference on the same examples, 95 % interval; left of the thin line the quantized model is better"
    return _metrics("Accuracy drop", note, rows, zero=0.0, limit=limit) if rows else None


def _metrics(
    title: str, note: str, rows: Sequence[tuple[str, str, Metric]], *, zero: float | None, limit: float | None
) -> Chart:
    values = [bound for _, _, metric in rows for bound in (metric.value, *(metric.interval or ()))]
    axis = Axis.around(values + [line for line in (zero, limit) if line is not None])
    drawn = [
        Row(
            label,
            svg.interval(axis, metric.value, metric.interval, kind=model, zero=zero, limit=limit),
            wording.metric(metric.value, metric.unit),
            wording.between(metric.interval, partial(wording.metric, unit=metric.unit)),
        )
        for label, model, metric in rows
    ]
    shares = rows[0][2].unit == "fraction"
    ticks = svg.scale(axis, lambda at: f"{wording.tick(at * 100)} %" if shares else wording.tick(at))
    return Chart(title, note, tuple(drawn), ticks)


def _timed(results: Sequence[Result]) -> list[tuple[str, str, Latency]]:
    """(label, model, latency) with both models of a shape side by side."""
    shapes = dict.fromkeys((seen.batch, seen.sequence) for result in results for seen in result.latency)
    return [
        (f"{seen.batch} × {seen.sequence} {result.model}", result.model, seen)
        for shape in shapes
        for result in results
        for seen in result.latency
        if (seen.batch, seen.sequence) == shape
    ]


def _latency(results: Sequence[Result]) -> Chart | None:
    timed = _timed(results)
    if not timed:
        return None
    axis = Axis(0.0, max(max(seen.p50_ms, seen.p95_ms) for _, _, seen in timed))
    rows = [
        Row(
            label,
            svg.bar(axis, seen.p50_ms, kind=model, whisker=seen.p95_ms),
            wording.milliseconds(seen.p50_ms),
            f"p95 {wording.milliseconds(seen.p95_ms)}",
        )
        for label, model, seen in timed
    ]
    note = "batch × tokens; bar: median, whisker: 95th percentile"
    return Chart("Latency", note, tuple(rows), svg.scale(axis, lambda at: f"{wording.tick(at)} ms"))


def _speedup(results: Sequence[Result], limit: float | None) -> Chart | None:
    timed = [(seen, seen.speedup) for _, model, seen in _timed(results) if model == "quantized"]
    known = [(seen, speedup) for seen, speedup in timed if speedup is not None]
    if not known:
        return None
    values = [bound for seen, speedup in known for bound in (speedup, *(seen.speedup_interval or ()))]
    axis = Axis.around([1.0, *values, *([] if limit is None else [limit])])
    rows = [
        Row(
            f"{seen.batch} × {seen.sequence}",
            svg.interval(axis, speedup, seen.speedup_interval, kind="quantized", zero=1.0, limit=limit),
            wording.times(speedup),
            wording.between(seen.speedup_interval, wording.times),
        )
        for seen, speedup in known
    ]
    note = "float time ÷ quantized time, median of paired rounds, 95 % interval; thin line: as fast as float"
    return Chart("Speed-up", note, tuple(rows), svg.scale(axis, lambda at: f"{wording.tick(at)}×"))


def _memory(results: Sequence[Result]) -> Chart | None:
    timed = _timed(results)
    if not timed:
        return None
    axis = Axis(0.0, max(seen.peak_rss_mb for _, _, seen in timed))
    rows = [
        Row(label, svg.bar(axis, seen.peak_rss_mb, kind=model), f"{seen.peak_rss_mb:.0f} MB")
        for label, model, seen in timed
    ]
    note = "peak resident memory of a process that does nothing else"
    return Chart("Memory", note, tuple(rows), svg.scale(axis, lambda at: f"{wording.tick(at)} MB"))
