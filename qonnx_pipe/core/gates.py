"""Gates: limits of a recipe against what a verdict measured, the worst provider and shape deciding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qonnx_pipe.core.verdict import Gate, Result, Size
from qonnx_pipe.errors import UsageError

MAXIMA = frozenset({"accuracy_drop"})
MINIMA = frozenset({"speedup", "int8_matmuls", "size_ratio", "sqnr_db", "agreement", "trained_sqnr_db"})

PREFIX = "baseline."
"""How the gates begin that compare with an earlier verdict (`core.baseline`)."""


def check_names(limits: Mapping[str, float]) -> None:
    """Raise UsageError for a gate that does not exist."""
    for name in limits.keys() - (MAXIMA | MINIMA):
        raise UsageError(f"unknown gate {name!r}", fix=f"use one of {', '.join(sorted(MAXIMA | MINIMA))}")


def judge(limits: Mapping[str, float], size: Size, results: Sequence[Result]) -> tuple[Gate, ...]:
    """One gate for each limit, judged on the quantized results.

    accuracy_drop is a maximum (fraction), all others are minima: speedup (median of the worst shape), int8_matmuls
    (fraction), size_ratio, sqnr_db, agreement (fraction), trained_sqnr_db. What any provider could not measure fails.
    """
    check_names(limits)
    quantized = [result for result in results if result.model == "quantized"]
    return tuple(gate(name, limit, _worst(name, size, quantized)) for name, limit in limits.items())


def gate(name: str, limit: float, value: float | None) -> Gate:
    """A gate as it was judged: what could not be measured fails."""
    if value is None:
        return Gate(name, limit, None, False)
    return Gate(name, limit, value, value <= limit if measure(name) in MAXIMA else value >= limit)


def measure(name: str) -> str:
    """What a gate is about: a baseline's gates name the provider and the shape too."""
    return name.removeprefix(PREFIX).partition("[")[0]


def _worst(name: str, size: Size, results: Iterable[Result]) -> float | None:
    if name == "size_ratio":
        return size.ratio
    values = [value for result in results for value in _values(name, result)]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return max(known) if name in MAXIMA else min(known)


def _values(name: str, result: Result) -> list[float | None]:
    match name:
        case "accuracy_drop":
            return [result.accuracy_drop.value if result.accuracy_drop else None]
        case "speedup":
            return [latency.speedup for latency in result.latency] or [None]
        case "int8_matmuls":
            return [result.kernels.fraction if result.kernels else None]
        case _:
            return [getattr(result.fidelity, name) if result.fidelity else None]
