"""Wording: numbers as people read them, and the names of gates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from qonnx_pipe.core.gates import MAXIMA, PREFIX, measure
from qonnx_pipe.core.verdict import Interval

MISSING = "–"

GATE_NAMES: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "accuracy_drop": "Accuracy drop",
    "speedup": "Speed-up",
    "int8_matmuls": "MatMuls in int8",
    "size_ratio": "Size ratio",
    "sqnr_db": "SQNR",
    "agreement": "Agreement",
    "trained_sqnr_db": "SQNR to the trained model",
}


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as "12.34 %", with a true minus sign."""
    return MISSING if value is None else _minus(f"{value * 100:.{digits}f} %")


def metric(value: float, unit: str) -> str:
    """A metric's value: a fraction in percent, a correlation as it is."""
    return percent(value) if unit == "fraction" else _minus(f"{value:.3f}")


def times(value: float | None) -> str:
    """A factor as "2.63×"."""
    return MISSING if value is None else f"{value:.2f}×"


def milliseconds(value: float) -> str:
    """Three digits and the unit."""
    return f"{real(value)} ms"


def megabytes(count: int) -> str:
    """Bytes as MB (10⁶), kB below."""
    if count >= 100_000:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1000 else f"{count} B"


def real(value: float) -> str:
    """Three significant digits, zeros at the end too, so that a column of numbers reads well."""
    return _minus(f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:#.3g}")


def tick(value: float) -> str:
    """A round number as short as it is."""
    return _minus(f"{value:.3g}")


def between(interval: Interval | None, wording: Callable[[float], str]) -> str:
    """An interval as "1.20 … 1.40", "" for none."""
    return "" if interval is None else " … ".join(wording(bound) for bound in interval)


def gate_name(name: str) -> str:
    """A gate in words, a baseline's with the provider and the shape."""
    words = GATE_NAMES.get(measure(name), measure(name))
    if not name.startswith(PREFIX):
        return words
    where = re.sub(r" (\d+)x(\d+)]$", r", \1 × \2", name.partition("[")[2]).removesuffix("]")
    return f"{words}, baseline on {where}" if where else f"{words}, baseline"


def gate(name: str, value: float | None) -> str:
    """A gate's value or limit in its unit."""
    if value is None:
        return "not measured"
    what = measure(name)
    if what in {"accuracy", "accuracy_drop", "agreement", "int8_matmuls"}:
        return percent(value, 1 if what == "int8_matmuls" else 2)
    return _minus(f"{value:.1f} dB") if what.endswith("sqnr_db") else times(value)


def gate_limit(name: str, limit: float) -> str:
    """A gate's limit with the side on which it lies."""
    return f"{'≤' if measure(name) in MAXIMA else '≥'} {gate(name, limit)}"


def spans(numbers: Sequence[int]) -> str:
    """Whole numbers as "0–3, 5"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _minus(text: str) -> str:
    return text.replace("-", "−") if text.startswith("-") else text


FILTERS: Mapping[str, Callable[..., str]] = {
    "percent": percent,
    "times": times,
    "milliseconds": milliseconds,
    "megabytes": megabytes,
    "real": real,
    "spans": spans,
}
"""What the templates use."""
