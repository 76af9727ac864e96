"""Pages: an analysis as one self-contained HTML page, its plots drawn inline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from qonnx_pipe.charts import page, sensitivity, svg, wording
from qonnx_pipe.charts.rows import Chart, Row
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.sensitivity import Sensitivity
from qonnx_pipe.core.site import Role
from qonnx_pipe.core.verdict import Interval
from qonnx_pipe.stages.analyse.leave_one_out import LeaveOneOut
from qonnx_pipe.stages.analyse.outliers import PAPER, Outliers
from qonnx_pipe.stages.analyse.score import Score

TEMPLATES = Path(__file__).parent / "templates"

RANGE_LEVELS = (1.5, 2.0, 3.0, 5.0, 8.0, 16.0)
"""Where the colours of ranges change: range of a dimension ÷ median range of its site."""

SHARE_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Where the colours of attention change."""

COLUMNS = 384
"""Columns of a heat map at most: more dimensions share one, which shows the widest."""

ROW_HEIGHT = 12
LETTERS = dict(zip(PAPER, "hyx", strict=True))


@dataclass(frozen=True)
class Strip:
    """One heat map: what it shows, its rows in words, the number of its last column."""

    title: str
    rows: str
    last: int
    drawing: Markup


def outliers_page(found: Outliers, name: str) -> str:
    """Heat maps of ranges over layers × dimensions and of attention over layers × heads; the widest sites."""
    often = Counter(
        dimension.index
        for site in found.sites
        if site.role in PAPER
        for dimension in site.dimensions
        if dimension.ratio >= RANGE_LEVELS[3]
    )
    return page.render(
        TEMPLATES / "outliers.html",
        name=name,
        found=found,
        strips=[strip for role in PAPER if (strip := _ranges(found, role))],
        attention=_attention(found),
        recurring=[(dimension, count) for dimension, count in often.most_common(5) if count > 1],
        range_levels=RANGE_LEVELS,
        share_levels=SHARE_LEVELS,
    )


def changes_page(found: LeaveOneOut, name: str) -> str:
    """A chart of SQNR, and one of the accuracy drop where there are labels: a row a change, 95 % intervals."""
    return page.render(TEMPLATES / "changes.html", name=name, found=found, sqnr=_sqnr(found), accuracy=_accuracy(found))


def sensitivity_page(found: Sensitivity, name: str) -> str:
    """The dearest weights, Ω of the layers, rank correlations, the loss around two layers."""
    return page.render(
        TEMPLATES / "sensitivity.html",
        name=name,
        found=found,
        charts=sensitivity.charts(found),
        slices=sensitivity.slices(found),
        levels=sensitivity.LEVELS,
    )


def _ranges(found: Outliers, role: Role) -> Strip | None:
    """The sites of one role, a row each."""
    sites = sorted((site for site in found.sites if site.role == role), key=lambda site: site.layer or 0)
    if not sites:
        return None
    rows = [np.array(site.ranges) / (site.median or 1.0) for site in sites]
    width = len(rows[0])
    starts = np.arange(min(width, COLUMNS)) * width // min(width, COLUMNS)
    columns = np.stack([np.maximum.reduceat(row, starts) for row in rows])
    layers = [site.layer for site in sites if site.layer is not None]
    return _strip(f"{LETTERS[role]}: {role}", layers, width - 1, columns, RANGE_LEVELS)


def _attention(found: Outliers) -> list[Strip]:
    if not found.attention:
        return []
    layers = [seen.layer for seen in found.attention]
    kinds = {
        found.separator: np.array([seen.separator for seen in found.attention]),
        found.start: np.array([seen.start for seen in found.attention]),
    }
    return [_strip(f"to {name}", layers, heads.shape[1] - 1, heads, SHARE_LEVELS) for name, heads in kinds.items()]


def _strip(
    title: str, layers: Sequence[int], last: int, values: npt.NDArray[np.float64], levels: Sequence[float]
) -> Strip:
    return Strip(title, wording.spans(layers), last, svg.heat(np.digitize(values, levels), ROW_HEIGHT))


def _sqnr(found: LeaveOneOut) -> Chart:
    base = found.all_on.sqnr_db
    axis = Axis.around([base, *(end for change in found.changes for end in change.score.sqnr_interval)])
    rows = []
    for change in found.changes:
        seen = change.score
        drawing = svg.interval(axis, seen.sqnr_db, seen.sqnr_interval, kind="quantized", zero=base, limit=None)
        gain = "" if seen.gain_db is None else f"{seen.gain_db:+.1f}"
        rows.append(Row(change.name, drawing, f"{seen.sqnr_db:.1f} dB", gain))
    what = "quantized alone" if found.mirror else "left in float, all others quantized"
    note = f"each {found.by} {what}; thin line: all quantizers on; 95 % bootstrap interval"
    return Chart("SQNR", note, tuple(rows), svg.scale(axis, lambda at: f"{wording.tick(at)} dB"))


def _accuracy(found: LeaveOneOut) -> Chart | None:
    known = [(change.name, *drop) for change in found.changes if (drop := _drops(change.score))]
    if not known:
        return None
    axis = Axis.around([0.0, *(end for _, _, interval in known for end in interval)])
    rows = [
        Row(
            name,
            svg.interval(axis, drop, interval, kind="quantized", zero=0.0, limit=None),
            wording.percent(drop, 1),
            wording.between(interval, lambda end: wording.percent(end, 1)),
        )
        for name, drop, interval in known
    ]
    note = "float − variant on the same examples, 95 % paired bootstrap interval"
    return Chart("Accuracy drop", note, tuple(rows), svg.scale(axis, lambda at: f"{wording.tick(at * 100)} %"))


def _drops(score: Score) -> tuple[float, Interval] | None:
    if score.accuracy_drop is None or score.accuracy_drop_interval is None:
        return None
    return score.accuracy_drop, score.accuracy_drop_interval
