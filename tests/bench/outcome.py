"""Outcome: what a benchmark measured, the bounds it must keep, and how both are printed and written down."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from qonnx_pipe.runtime import machine

RECORDS = Path("runs/bench")
"""Every outcome is appended here: results.jsonl for programs, results.md for people."""


@dataclass(frozen=True)
class Bound:
    """One promise: `value` is at least (or at most) `limit`."""

    name: str
    value: float
    limit: float
    at_least: bool
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the promise is kept; NaN keeps none."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> tuple[str, ...]:
        """Name, value, limit, met or not."""
        value, limit = f"{self.value:.4g}{self.unit}", f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"
        return self.name, value, limit, "met" if self.met else "NOT MET"


@dataclass(frozen=True)
class Outcome:
    """A table of what was measured, all cells as text, and the bounds that it shows to be kept or not."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bounds: Sequence[Bound]


def at_least(name: str, value: float, limit: float, unit: str = "") -> Bound:
    """A lower bound."""
    return Bound(name, value, limit, True, unit)


def at_most(name: str, value: float, limit: float, unit: str = "") -> Bound:
    """An upper bound."""
    return Bound(name, value, limit, False, unit)


def not_slower(name: str, ratio: float, interval: tuple[float, float]) -> Bound:
    """Faster, or as fast within noise: the upper end of the speed-up's interval reaches 1."""
    low, high = interval
    return at_least(f"{name}: {ratio:.2f}× ({low:.2f}–{high:.2f}), upper end", high, 1.0, "×")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; numbers stand at the right."""
    table = [tuple(columns), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(_cells(row, widths)) + " |" for row in table]
    rule = "|" + "|".join(f"{'-' * (width + 1)}{'-' if i == 0 else ':'}" for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def write_table(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as Markdown and as CSV, `table.md` and `table.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(f"{markdown(columns, rows)}\n", encoding="utf-8")
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows([columns, *rows])


def bounds_table(bounds: Sequence[Bound]) -> str:
    """The bounds as Markdown."""
    return markdown(("bound", "measured", "limit", ""), [bound.row() for bound in bounds])


def record(outcome: Outcome) -> None:
    """Print an outcome and append it to `RECORDS`."""
    text = f"## {outcome.title}\n\n{markdown(outcome.columns, outcome.rows)}\n\n{bounds_table(outcome.bounds)}\n"
    print(text, flush=True)
    RECORDS.mkdir(parents=True, exist_ok=True)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"when": when, "machine": machine.facts(), **asdict(outcome)}
    with (RECORDS / "results.jsonl").open("a", encoding="utf-8") as lines:
        print(json.dumps(facts, ensure_ascii=False), file=lines)
    with (RECORDS / "results.md").open("a", encoding="utf-8") as page:
        print(f"{when}\n\n{text}", file=page)
