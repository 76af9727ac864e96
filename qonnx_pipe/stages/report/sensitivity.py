"""Sensitivity: what an analysis found that lies in the run directory, as rows of a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qonnx_pipe.charts import svg, wording
from qonnx_pipe.charts.rows import Chart, Row
from qonnx_pipe.charts.svg import Axis


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
