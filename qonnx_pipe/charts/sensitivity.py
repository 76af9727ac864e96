"""Sensitivity: weights, layers and estimators as rows, and the loss around a layer as a map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from qonnx_pipe.charts import svg, wording
from qonnx_pipe.charts.rows import Chart, Row
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.sensitivity import Sensitivity, Slice

SHOWN = 24
"""Weights that a chart names."""

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Increase of the loss, in nats, where the colours of a slice change."""

ROW_HEIGHT = 14


@dataclass(frozen=True)
class Map:
    """One slice: its title, what its sides are, and the drawing."""

    title: str
    note: str
    drawing: Markup


def charts(found: Sensitivity) -> list[Chart]:
    """What there is: the dearest weights, Ω of the layers, rank correlations."""
    return [chart for chart in (_weights(found), _layers(found), _correlations(found)) if chart is not None]


def slices(found: Sensitivity) -> list[Map]:
    """Each slice as a map of the loss's increase over that of the model itself, the first eigenvector upwards."""
    return [_map(one) for one in found.slices]


def _weights(found: Sensitivity) -> Chart | None:
    """Divergence of each weight alone at its narrowest width."""
    known = [(one, min(one.changes)) for one in found.matrices if one.changes]
    if not known:
        return None
    known.sort(key=lambda pair: -pair[0].changes[pair[1]].divergence)
    axis = Axis(0.0, max(one.changes[bits].divergence for one, bits in known) * 1.05 or 1.0)
    rows = []
    for one, bits in known[:SHOWN]:
        change = one.changes[bits]
        drawing = svg.bar(axis, change.divergence, kind="quantized")
        rows.append(Row(one.site, drawing, f"{change.divergence:.2g}", f"{change.sqnr_db:.1f} dB at {bits} bits"))
    note = f"KL divergence, in nats, from quantizing one weight alone; {found.examples} examples, activations in float"
    return Chart("Weights by what they cost", note, tuple(rows), svg.scale(axis, wording.tick))


def _layers(found: Sensitivity) -> Chart | None:
    """Mean and spread of the top eigenvalue."""
    if not found.layers:
        return None
    spans = [(layer.mean - layer.spread, layer.mean + layer.spread) for layer in found.layers]
    axis = Axis.around([0.0, *(end for span in spans for end in span)])
    rows = tuple(
        Row(
            layer.name + (" (negative curvature)" if layer.negative else ""),
            svg.interval(axis, layer.mean, span, kind="quantized", zero=0.0, limit=None),
            f"Ω {layer.omega:.3g}",
            f"{sum(run.iterations for run in layer.runs)} products",
        )
        for layer, span in zip(found.layers, spans, strict=True)
    )
    runs = len(found.layers[0].runs)
    note = f"top eigenvalue of the layer's Hessian: mean and standard deviation over {runs} random parts of the data"
    return Chart("Layers by curvature", note, rows, svg.scale(axis, wording.tick))


def _correlations(found: Sensitivity) -> Chart | None:
    """Each estimator's rank correlation with the measured change: mean over the widths, and its ends."""
    if not found.correlations:
        return None
    axis = Axis(-1.0, 1.0)
    rows = []
    for name, by_bits in found.correlations.items():
        values = list(by_bits.values())
        span = min(values), max(values)
        drawing = svg.interval(axis, float(np.mean(values)), span, kind="quantized", zero=0.0, limit=None)
        detail = ", ".join(f"{value:+.2f} at {bits}" for bits, value in by_bits.items())
        rows.append(Row(name, drawing, f"{float(np.mean(values)):+.2f}", detail))
    note = "Spearman's ρ with the measured divergence over all weights, by width in bits"
    return Chart("Estimators", note, tuple(rows), svg.scale(axis, wording.tick))


def _map(one: Slice) -> Map:
    losses = np.asarray(one.losses)
    middle = len(one.steps) // 2
    rise = losses[::-1] - losses[middle, middle]  # the first row is the top
    first, second = one.eigenvalues
    note = (
        f"to all sides {one.steps[-1]:.3g}, the length of its quantization error; eigenvalues {first:.3g}, {second:.3g}"
    )
    return Map(one.name, note, svg.heat(np.digitize(rise, LEVELS), ROW_HEIGHT))
