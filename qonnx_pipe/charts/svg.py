"""SVG: a few marks drawn as inline elements that stretch with the page; pure functions of numbers.

Widths are percentages of the element, so that bars stretch on any screen while text and dots keep their size. Colours
are classes of the page's style sheet, so that they follow light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

HEIGHT = 22
SMALL = 52
"""Height of a distribution."""

MARGIN = 2.0
"""Percent left free on both sides of an axis, so that dots at its ends are whole."""


@dataclass(frozen=True)
class Axis:
    """A linear scale from `low` to `high`."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float]) -> Axis:
        """A little wider than all of `values`."""
        low, high = min(values), max(values)
        pad = 0.06 * (high - low) or max(abs(high), 1e-6) * 0.1
        return cls(low - pad, high + pad)

    def at(self, value: float) -> float:
        """Where a value stands, in percent of the width."""
        return MARGIN + (100 - 2 * MARGIN) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Three to six round values."""
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]


def bar(axis: Axis, value: float, *, kind: str, whisker: float | None = None) -> Markup:
    """A bar from the axis' low end to `value`, and a thin line on to `whisker`."""
    start, end = axis.at(axis.low), axis.at(value)
    marks = _rect(start, end, kind, y=4, height=14)
    if whisker is not None:
        marks += _line(end, axis.at(whisker), HEIGHT / 2, HEIGHT / 2, "whisker")
        marks += _line(axis.at(whisker), axis.at(whisker), 7, 15, "whisker")
    return _svg(marks)


def bullet(axis: Axis, value: float | None, limit: float, *, kind: str) -> Markup:
    """A thin bar from zero to what was measured, and the limit as an upright line."""
    marks = _rect(axis.at(axis.low), axis.at(axis.high), "track", y=9, height=4)
    if value is not None:
        low, high = sorted((axis.at(0.0), axis.at(value)))
        marks += _rect(low, high, kind, y=7, height=8)
    return _svg(marks + _line(axis.at(limit), axis.at(limit), 2, 20, "limit"))


def interval(
    axis: Axis, value: float, bounds: tuple[float, float] | None, *, kind: str, zero: float | None, limit: float | None
) -> Markup:
    """A dot at `value` on a line over `bounds`; upright lines at `zero` (no change) and at a gate's `limit`."""
    marks = Markup().join(
        _line(axis.at(where), axis.at(where), 0, HEIGHT, name)
        for where, name in ((zero, "zero"), (limit, "limit"))
        if where is not None
    )
    if bounds is not None:
        marks += _line(axis.at(bounds[0]), axis.at(bounds[1]), HEIGHT / 2, HEIGHT / 2, f"span {kind}")
    return _svg(marks + Markup('<circle class="{}" cx="{}%" cy="11" r="4.5"/>').format(kind, _n(axis.at(value))))


def stacked(axis: Axis, parts: Sequence[tuple[str, float]]) -> Markup:
    """Bars of (class, length) end to end."""
    marks, end = Markup(), 0.0
    for kind, length in parts:
        marks += _rect(axis.at(end), axis.at(end + length), kind, y=2, height=18)
        end += length
    return _svg(marks)


def scale(axis: Axis, wording: Callable[[float], str]) -> Markup:
    """The numbers under a chart; those at the ends stay inside."""
    marks = Markup()
    for tick in axis.ticks():
        x = axis.at(tick)
        anchor = "start" if x < 4 else "end" if x > 96 else "middle"
        text = Markup('<text x="{}%" y="14" text-anchor="{}">{}</text>')
        marks += text.format(_n(x), anchor, wording(0.0 if abs(tick) < 1e-12 else tick))
    return _svg(marks)


def heat(levels: npt.NDArray[np.int64], height: int) -> Markup:
    """A grid of levels [rows, columns], one path a level; level 0 is left open. `height` in pixels a row."""
    rows, columns = levels.shape
    paths = Markup()
    for level in range(1, int(levels.max(initial=0)) + 1):
        runs = "".join(
            f"M{start} {row}h{end - start}v1h-{end - start}z"
            for row in range(rows)
            for start, end in _runs(levels[row] == level)
        )
        if runs:
            paths += Markup('<path class="h{}" d="{}"/>').format(level, runs)
    shape = 'class="heat" viewBox="0 0 {} {}" preserveAspectRatio="none" height="{}"'
    return Markup(f'<svg {shape} aria-hidden="true">{{}}</svg>').format(columns, rows, rows * height, paths)


def profile(axis: Axis, counts: npt.NDArray[np.float64], ends: tuple[float, float]) -> Markup:
    """Counts in equal bins over the axis, their height the logarithm, and what lies between `ends` on a band."""
    heights = np.log1p(counts) / max(float(np.log1p(counts.max(initial=0.0))), 1e-9)
    tops = [_n(SMALL - 2 - (SMALL - 8) * height) for height in heights.tolist()]
    path = f"M0 {SMALL - 2}" + "".join(f"V{top}h1" for top in tops) + f"V{SMALL - 2}z"
    box = '<svg x="{}%" width="{}%" height="{}" viewBox="0 0 {} {}" preserveAspectRatio="none"><path d="{}"/></svg>'
    drawn = Markup(box).format(_n(MARGIN), _n(100 - 2 * MARGIN), SMALL, len(tops), SMALL, path)
    return _small(axis, ends, drawn)


def extent(axis: Axis, seen: tuple[float, float], ends: tuple[float, float]) -> Markup:
    """A bar over all values that were `seen`, and what lies between `ends` on a band."""
    return _small(axis, ends, _rect(axis.at(seen[0]), axis.at(seen[1]), "", y=SMALL - 12, height=6))


def _small(axis: Axis, ends: tuple[float, float], drawn: Markup) -> Markup:
    low, high = (axis.at(end) for end in ends)
    band = _rect(low, high, "band", y=0, height=SMALL)
    sides = Markup().join(_line(at, at, 0, SMALL, "end") for at in (low, high))
    return Markup('<svg class="profile" height="{}" aria-hidden="true">{}</svg>').format(SMALL, band + drawn + sides)


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _svg(marks: Markup) -> Markup:
    return Markup('<svg class="chart" height="{}" aria-hidden="true">{}</svg>').format(HEIGHT, marks)


def _rect(start: float, end: float, kind: str, *, y: float, height: float) -> Markup:
    rect = '<rect class="{}" x="{}%" y="{}" width="{}%" height="{}"/>'
    return Markup(rect).format(kind, _n(start), _n(y), _n(max(end - start, 0.0)), _n(height))


def _line(x1: float, x2: float, y1: float, y2: float, kind: str) -> Markup:
    line = '<line class="{}" x1="{}%" x2="{}%" y1="{}" y2="{}"/>'
    return Markup(line).format(kind, _n(x1), _n(x2), _n(y1), _n(y2))


def _n(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
