"""A verdict for people: tables of gates, results, size and float MatMuls; and the failure that it stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qonnx_pipe.core.gates import MAXIMA, measure
from qonnx_pipe.core.partition import Partition
from qonnx_pipe.core.verdict import Latency, Metric, Result, Verdict
from qonnx_pipe.errors import GateFailed, ProviderError, QpipeError

MISSING = "–"
FRACTIONS = frozenset({"accuracy", "accuracy_drop", "agreement", "int8_matmuls"})


def verdict_table(verdict: Verdict) -> RenderableType:
    """Everything that a verdict says in little; the JSON has the rest. It fits 80 columns."""
    parts: list[RenderableType] = [_size(verdict)]
    for provider in dict.fromkeys(result.provider for result in verdict.results):
        parts.append(_results(provider, [result for result in verdict.results if result.provider == provider]))
    parts.extend(_notes(verdict))
    if verdict.gates:
        parts.append(_gates(verdict))
    parts.append(Text("passed", "bold green") if verdict.passed else Text("not passed", "bold red"))
    return Group(*parts)


def failure(verdict: Verdict) -> QpipeError | None:
    """The error that a verdict ends a command with: ProviderError before GateFailed; None when it passed."""
    if verdict.provider_failures:
        first = verdict.provider_failures[0]
        fix = "`qpipe providers` shows what this machine has; the other results are in the verdict"
        return ProviderError(first.error, where=f"{first.model} model on {first.provider}", fix=fix)
    if verdict.passed:
        return None
    missed = [gate.name for gate in verdict.gates if not gate.passed]
    broken = [result.error for result in verdict.results if result.error]
    what = f"gates not passed: {', '.join(missed)}" if missed else broken[0]
    fix = "change the recipe's rules, or its gates or baseline if the model is good enough"
    return GateFailed(what, fix=fix)


def _gates(verdict: Verdict) -> Table:
    table = _table("gate", "measured", "limit", "")
    for gate in verdict.gates:
        mark = Text("passed", "green") if gate.passed else Text("failed", "bold red")
        limit = f"{gate_sign(gate.name)} {gate_value(gate.name, gate.limit)}"
        table.add_row(Text(gate.name), gate_value(gate.name, gate.value), limit, mark)
    return table


def gate_sign(name: str) -> str:
    """How what was measured must stand to the limit."""
    return "≤" if measure(name) in MAXIMA else "≥"


def gate_value(name: str, value: float | None) -> str:
    """A gate's limit or measured value, for people."""
    if value is None:
        return "not measured"
    return f"{value:.2%}" if measure(name) in FRACTIONS else f"{value:.2f}"


def _results(provider: str, results: Sequence[Result]) -> Table:
    """One column a model, one row a figure."""
    table = _table(provider, *(result.model for result in results))
    table.add_row(_metric_name(results), *(_metric(result.accuracy) for result in results))
    table.add_row("  drop", *(_metric(result.accuracy_drop) for result in results))
    for name in dict.fromkeys(name for result in results if result.accuracy for name in result.accuracy.also):
        table.add_row(f"  {name}", *(_also(result.accuracy, name) for result in results))
    if any(result.class_drops for result in results):
        table.add_row("  loses most", *(_forgotten(result) for result in results))
    table.add_row("SQNR", *(f"{one.fidelity.sqnr_db:.1f} dB" if one.fidelity else MISSING for one in results))
    table.add_row("agreement", *(f"{one.fidelity.agreement:.2%}" if one.fidelity else MISSING for one in results))
    as_trained = [one.fidelity.trained_sqnr_db if one.fidelity else None for one in results]
    if any(value is not None for value in as_trained):
        table.add_row("  to the trained", *(_of("{:.1f} dB", value) for value in as_trained))
    kernels = [one.kernels for one in results]
    table.add_row("int8 MatMuls", *(f"{seen.integer} of {seen.total}" if seen else MISSING for seen in kernels))
    parts = [one.partition for one in results]
    if any(parts):
        table.add_row("nodes taken", *(_taken(part) for part in parts))
    for shape in dict.fromkeys((seen.batch, seen.sequence) for result in results for seen in result.latency):
        found = [_latency(result, shape) for result in results]
        table.add_row(
            f"{shape[0]}×{shape[1]} median", *(f"{seen.p50_ms:.2f} ms" if seen else MISSING for seen in found)
        )
        table.add_row("  p95", *(f"{seen.p95_ms:.2f} ms" if seen else MISSING for seen in found))
        table.add_row("  speedup", *map(_speedup, found))
        table.add_row("  throughput", *(_of("{:.1f} /s", seen.throughput if seen else None) for seen in found))
        table.add_row("  cold start", *(_of("{:.2f} s", seen.cold_start_s if seen else None) for seen in found))
        table.add_row("  peak memory", *(f"{seen.peak_rss_mb:.0f} MB" if seen else MISSING for seen in found))
    return table


def _of(form: str, value: float | None) -> str:
    return MISSING if value is None else form.format(value)


def _taken(part: Partition | None) -> str:
    if part is None:
        return MISSING
    return f"{part.assigned} of {part.nodes} in {part.subgraphs} piece{'s' if part.subgraphs != 1 else ''}"


def _latency(result: Result, shape: tuple[int, int]) -> Latency | None:
    return next((seen for seen in result.latency if (seen.batch, seen.sequence) == shape), None)


def _speedup(seen: Latency | None) -> str:
    if seen is None or seen.speedup is None or seen.speedup_interval is None:
        return MISSING
    low, high = seen.speedup_interval
    return f"{seen.speedup:.2f}× [{low:.2f}, {high:.2f}]"


def _metric_name(results: Sequence[Result]) -> str:
    """The task's own metric; every share of right classes is called accuracy."""
    names = [result.accuracy.name for result in results if result.accuracy]
    return names[0] if names and not names[0].endswith("accuracy") else "accuracy"


def _metric(metric: Metric | None) -> str:
    if metric is None:
        return MISSING
    low, high = metric.interval or (metric.value, metric.value)
    form = _FORMS[metric.unit]
    return f"{metric_value(metric)} [{form.format(low)}, {form.format(high)}]"


def metric_value(metric: Metric | None) -> str:
    """A metric for people, without its interval."""
    return MISSING if metric is None else _FORMS[metric.unit].format(metric.value)


def _also(metric: Metric | None, name: str) -> str:
    return _FORMS[metric.unit].format(metric.also[name]) if metric and name in metric.also else MISSING


def _forgotten(result: Result) -> str:
    """The class that loses most, where it does beyond noise: its interval lies above 0."""
    if not result.class_drops:
        return MISSING
    lost = [one for one in result.class_drops if one.interval[0] > 0]
    return f"{lost[0].name} {lost[0].drop:.2%}" if lost else "none beyond noise"


_FORMS = {"fraction": "{:.2%}", "correlation": "{:.3f}"}
"""How a value of a unit is written."""


def _size(verdict: Verdict) -> Text:
    size, parts = verdict.size, verdict.size.parts
    packed = size.low_bit_bytes or size.quantized_bytes
    fewer_bits = f"; {packed / 1e6:.1f} MB once low bits are packed" if packed < 0.99 * size.quantized_bytes else ""
    return Text(
        f"size: {size.quantized_bytes / 1e6:.1f} MB of {size.float_bytes / 1e6:.1f} MB, {size.ratio:.2f}× smaller "
        f"(weights {parts.weights / 1e6:.1f}, embeddings {parts.embeddings / 1e6:.1f}, "
        f"scales {parts.scales / 1e6:.2f}, other {parts.other / 1e6:.2f} MB){fewer_bits}"
    )


def _notes(verdict: Verdict) -> Iterator[Text]:
    """Errors, reasons of float MatMuls (with their number), skipped sites."""
    for result in verdict.results:
        if result.error:
            yield Text(f"{result.provider}: {result.model} model: {result.error}", "bold red")
        for fallback in result.partition.fallbacks if result.partition else ():
            nodes = f"{fallback.count} {fallback.op_type}"
            yield Text(f"{result.provider}: {result.model} model: {nodes} fell back to {fallback.provider}", "yellow")
        if not result.kernels and not result.error:
            yield Text(
                f"{result.provider}: {result.model} model: the provider does not tell which kernels ran", "yellow"
            )
        if result.model == "quantized" and result.kernels:
            for reason, count in Counter(kernel.reason for kernel in result.kernels.floats).most_common():
                yield Text(f"{result.provider}: {count} float MatMul{'s' if count > 1 else ''}: {reason}", "yellow")
    for skipped in verdict.skipped:
        yield Text(f"skipped {skipped.site}: {skipped.reason}", "yellow")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table
