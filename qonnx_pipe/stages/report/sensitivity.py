"""Sensitivity: what an analysis found that lies in the run directory, as rows of a chart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qonnx_pipe.charts import svg, wording
from qonnx_pipe.charts.rows import Chart, Row
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.plan import QuantPlan

BUDGET = "budget"
"""What a plan says of a site whose bits the budget decided."""


@dataclass(frozen=True)
class Grid:
    """Bits that a budget gave: a row a layer or table, a column a kind of weight; None where there is no such."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str | None, ...]], ...]


def allocation(plan: QuantPlan) -> Grid | None:
    """The sites whose bits the budget decided; None without any."""
    cells: dict[str, dict[str, str]] = {}
    for entry in plan.entries:
        if entry.rule == BUDGET:
            layer = f"layer {entry.site.layer}" if entry.site.layer is not None else str(entry.site.role)
            bits = "float" if entry.spec is None else str(entry.spec.dtype.bits)
            cells.setdefault(layer, {})[str(entry.site.owner or "table")] = bits
    columns = tuple(dict.fromkeys(name for row in cells.values() for name in row))
    rows = tuple((name, tuple(row.get(column) for column in columns)) for name, row in cells.items())
    return Grid(columns, rows) if rows else None


def chart(found: Mapping[str, Any]) -> Chart:
    """A row a change of `leave-one-out.json`: its SQNR with the 95 % interval; the thin line: all quantizers on."""
    base = float(found["all_on"]["sqnr_db"])
    changes = [(change["name"], change["score"]) for change in found["changes"]]
    axis = Axis.around([base, *(end for _, score in changes for end in score["sqnr_interval"])])
    rows = tuple(_row(axis, base, name, score) for name, score in changes)
    what = "quantized alone" if found["mirror"] else "left in float, all others quantized"
    note = f"each {found['by']} {what}; thin line: all quantizers on; 95 % interval over {found['examples']} examples"
    return Chart("SQNR", note, rows, svg.scale(axis, lambda at: f"{wording.tick(at)} dB"))


def _row(axis: Axis, base: float, name: str, score: Mapping[str, Any]) -> Row:
    low, high = score["sqnr_interval"]
    drawing = svg.interval(axis, score["sqnr_db"], (low, high), kind="quantized", zero=base, limit=None)
    gain = score["gain_db"]
    return Row(name, drawing, f"{score['sqnr_db']:.1f} dB", "" if gain is None else f"{gain:+.1f}")
