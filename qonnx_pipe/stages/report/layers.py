"""Layers: SQNR along the network, one line a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qonnx_pipe.charts import plot, wording
from qonnx_pipe.charts.plot import Line, Plane
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.layers import Layers

ROOM = 12
"""Names along the x axis at most."""


@dataclass(frozen=True)
class Stream:
    """The drawing, and its numbers: (site, SQNR in dB or None, one a run)."""

    plane: Plane
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def stream(runs: Sequence[Layers | None]) -> Stream | None:
    """All sites of all runs in data-flow order; None where nothing was compared."""
    tables = [{site.site: site.sqnr_db for site in layers.sites} if layers else {} for layers in runs]
    sites = {site.site: site.layer for layers in runs if layers for site in layers.sites}
    if not sites:
        return None
    order = _ordered(tables, sites)
    rows = tuple((site, tuple(table.get(site) for table in tables)) for site in order)
    series = [
        Line(f"s{number}", tuple((at, table[site]) for at, site in enumerate(order) if site in table))
        for number, table in enumerate(tables, 1)
        if table
    ]
    values = [value for table in tables for value in table.values()]
    across = Axis(-0.5, max(len(order) - 0.5, 0.5))
    ticks = _ticks([sites[site] for site in order])
    return Stream(plot.lines(series, across, Axis.around(values), ticks, _decibels), rows)


def _ordered(tables: Sequence[dict[str, float]], sites: dict[str, int | None]) -> list[str]:
    """As the run that has most of them has them; others behind those that they follow in their own run."""
    order = max((list(table) for table in tables), key=len)
    for table in tables:
        for before, site in zip([None, *table], table, strict=False):
            if site not in order:
                order.insert(order.index(before) + 1 if before in order else 0, site)
    return [site for site in order if site in sites]


def _ticks(layers: Sequence[int | None]) -> list[tuple[float, str]]:
    """The first site of every layer, or of every second, … where they are many."""
    starts = {layer: at for at, layer in reversed(list(enumerate(layers))) if layer is not None}
    step = -(-len(starts) // ROOM) or 1
    return [(float(at), str(layer)) for layer, at in sorted(starts.items()) if layer % step == 0]


def _decibels(value: float) -> str:
    return f"{wording.tick(value)} dB"
