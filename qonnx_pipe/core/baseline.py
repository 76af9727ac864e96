"""Baseline: a verdict beside an earlier one; each figure that must not get worse by more than noise is a gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from qonnx_pipe.core.gates import PREFIX, gate
from qonnx_pipe.core.verdict import Gate, Latency, Metric, Result, Verdict
from qonnx_pipe.errors import DataError

SQNR_NOISE_DB = 0.5
"""What SQNR may lose: it has no interval, and other kernels round sums in another order."""

SIZE_NOISE = 0.01
"""What the size ratio may lose, as a share: names and metadata."""


def check_comparable(baseline: Verdict, providers: Sequence[str], metric: str, *, where: str) -> None:
    """Raise DataError for a baseline that judged other providers, or another task's metric."""
    fix = "make the baseline again with this recipe's settings"
    judged = tuple(dict.fromkeys(result.provider for result in baseline.results if result.model == "quantized"))
    if set(judged) != set(providers):
        what = f"the baseline judged {', '.join(judged) or 'nothing'}, this run judges {', '.join(providers)}"
        raise DataError(what, where=where, fix=fix)
    for result in baseline.results:
        if result.accuracy is not None and result.accuracy.name != metric:
            what = f"the baseline is of another task: it measured {result.accuracy.name}, this run measures {metric}"
            raise DataError(what, where=where, fix=fix)


def against(verdict: Verdict, baseline: Verdict) -> Verdict:
    """`verdict` with a gate for each figure of `baseline`; one that is not measured any more fails."""
    return replace(verdict, gates=(*verdict.gates, *regressions(verdict, baseline)))


def regressions(verdict: Verdict, baseline: Verdict) -> tuple[Gate, ...]:
    """A gate for each figure of the baseline's quantized model, named baseline.<measure>[<provider> <shape>].

    1. size_ratio: at least the baseline's, less SIZE_NOISE.
    2. accuracy and accuracy_drop: inside the baseline's 95 % interval, or better.
    3. sqnr_db: at least the baseline's, less SQNR_NOISE_DB.
    4. int8_matmuls: at least the baseline's.
    5. speedup, at each shape: its 95 % interval reaches that of the baseline, or lies above. So the limit is the
       baseline's lower end, less what the new interval reaches above its median. Times themselves drift from day to
       day, ratios to float do not.

    trained_sqnr_db has none: which values lie on the edge of two codes, where it comes from, is chance.
    """
    now = {result.provider: result for result in verdict.results if result.model == "quantized"}
    found = [gate(f"{PREFIX}size_ratio", baseline.size.ratio * (1 - SIZE_NOISE), verdict.size.ratio)]
    for before in baseline.results:
        if before.model == "quantized":
            found += _of_provider(before, now.get(before.provider))
    return tuple(found)


def _of_provider(before: Result, now: Result | None) -> Iterator[Gate]:
    def named(measure: str, limit: float, value: float | None, shape: str = "") -> Gate:
        return gate(f"{PREFIX}{measure}[{before.provider}{shape}]", limit, value)

    now = now or Result(before.provider, before.model)
    if before.accuracy:
        yield named("accuracy", _ends(before.accuracy)[0], _value(now.accuracy))
    if before.accuracy_drop:
        yield named("accuracy_drop", _ends(before.accuracy_drop)[1], _value(now.accuracy_drop))
    if before.fidelity:
        yield named("sqnr_db", before.fidelity.sqnr_db - SQNR_NOISE_DB, now.fidelity.sqnr_db if now.fidelity else None)
    if before.kernels and before.kernels.fraction is not None:
        yield named("int8_matmuls", before.kernels.fraction, now.kernels.fraction if now.kernels else None)
    for timed in before.latency:
        if timed.speedup_interval is not None:
            speedup, reach = _speedup(now, timed)
            yield named("speedup", timed.speedup_interval[0] - reach, speedup, f" {timed.batch}x{timed.sequence}")


def _value(metric: Metric | None) -> float | None:
    return None if metric is None else metric.value


def _ends(metric: Metric) -> tuple[float, float]:
    return metric.interval or (metric.value, metric.value)


def _speedup(result: Result, like: Latency) -> tuple[float | None, float]:
    """The median at the same shape, and how far its interval reaches above."""
    for timed in result.latency:
        if (timed.batch, timed.sequence) == (like.batch, like.sequence) and timed.speedup is not None:
            return timed.speedup, timed.speedup_interval[1] - timed.speedup if timed.speedup_interval else 0.0
    return None, 0.0
