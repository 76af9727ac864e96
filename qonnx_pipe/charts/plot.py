"""Plot: points and lines in a plane with two axes, as inline SVG that stretches with the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from qonnx_pipe.charts.svg import Axis

HEIGHT, PAD = 260, 18
"""Pixels of a plane, and of these what is left free above and below."""

NARROW = 300.0
"""Width in pixels at which names of points must not overlap: that of a phone."""

Wording = Callable[[float], str]


@dataclass(frozen=True)
class Point:
    """A dot of `radius` pixels; `span`: its interval along y; `name` stands beside it; `best` fills it."""

    x: float
    y: float
    kind: str
    name: str
    radius: float = 4.5
    span: tuple[float, float] | None = None
    best: bool = True


@dataclass(frozen=True)
class Line:
    """Dots joined from left to right."""

    kind: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plane:
    """A drawing with its axes: `up` holds the numbers of the y axis, `along` those of the x axis."""

    up: Markup
    drawing: Markup
    along: Markup


def scatter(points: Sequence[Point], x: Axis, y: Axis, wordings: tuple[Wording, Wording]) -> Plane:
    """Points of different size, the largest at the back, each with its name where there is room."""
    marks = Markup()
    for point in sorted(points, key=lambda point: -point.radius):
        at, height = _n(x.at(point.x)), _at(y, point.y)
        if point.span is not None:
            ends = (_n(_at(y, end)) for end in point.span)
            marks += Markup('<line class="span {}" x1="{}%" x2="{}%" y1="{}" y2="{}"/>').format(
                point.kind, at, at, *ends
            )
        dot = '<circle class="{} {}" cx="{}%" cy="{}" r="{}"/>'
        hollow = "" if point.best else "hollow"
        marks += Markup(dot).format(point.kind, hollow, at, _n(height), _n(point.radius))
    names = Markup().join(
        Markup('<text x="{}%" y="{}" dx="{}" text-anchor="{}">{}</text>').format(
            _n(x.at(point.x)), _n(_at(y, point.y) + down), _n(right), anchor, point.name
        )
        for point, (right, down, anchor) in zip(points, _places(points, x, y), strict=True)
    )
    ticks = [(tick, wordings[0](tick)) for tick in x.ticks()]
    return _plane(marks + names, x, y, ticks, wordings[1])


def lines(series: Sequence[Line], x: Axis, y: Axis, ticks: Sequence[tuple[float, str]], wording: Wording) -> Plane:
    """Lines over each other, the first ones wider, so that equal ones show; `ticks`: places along x with a name."""
    marks = Markup()
    for above, line in zip(range(len(series) - 1, -1, -1), series, strict=True):
        path = " ".join(f"{_n(x.at(at))},{_n(_at(y, value))}" for at, value in line.dots)
        box = f'<svg viewBox="0 0 100 {HEIGHT}" preserveAspectRatio="none" width="100%" height="{HEIGHT}">'
        stroke = '<polyline class="path {}" stroke-width="{}" points="{}"/></svg>'
        marks += Markup(box + stroke).format(line.kind, _n(2 + 1.5 * above), path)
        for at, value in line.dots:
            dot = '<circle class="{} dot" cx="{}%" cy="{}" r="{}"/>'
            marks += Markup(dot).format(line.kind, _n(x.at(at)), _n(_at(y, value)), _n(2.5 + above))
    return _plane(marks, x, y, ticks, wording)


def _plane(marks: Markup, x: Axis, y: Axis, ticks: Sequence[tuple[float, str]], wording: Wording) -> Plane:
    grid, up, along = Markup(), Markup(), Markup()
    for tick in y.ticks():
        at = _n(_at(y, tick))
        grid += Markup('<line class="grid" x1="0" x2="100%" y1="{}" y2="{}"/>').format(at, at)
        up += Markup('<text x="100%" y="{}" dy="4" text-anchor="end">{}</text>').format(at, wording(tick))
    for tick, text in ticks:
        place = x.at(tick)
        anchor = "start" if place < 4 else "end" if place > 96 else "middle"
        along += Markup('<text x="{}%" y="14" text-anchor="{}">{}</text>').format(_n(place), anchor, text)
    return Plane(_svg(up, HEIGHT), _svg(grid + marks, HEIGHT), _svg(along, 20))


def _places(points: Sequence[Point], x: Axis, y: Axis) -> list[tuple[float, float, str]]:
    """Where each name stands beside its dot (right, down, anchor): the first place that nothing else covers."""
    boxes = [_around(NARROW * x.at(point.x) / 100, _at(y, point.y), point.radius) for point in points]
    found = []
    for point in points:
        across, height, gap = NARROW * x.at(point.x) / 100, _at(y, point.y), point.radius + 4
        width = 7.0 * len(point.name)
        choices = [
            (gap, 4.0, "start", across + gap, height),
            (-gap, 4.0, "end", across - gap - width, height),
            (0.0, -gap, "middle", across - width / 2, height - gap - 4),
            (0.0, gap + 9, "middle", across - width / 2, height + gap + 5),
        ]
        inside = [one for one in choices if one[3] >= 0 and one[3] + width <= NARROW]
        free = [one for one in inside if not any(_overlap(_text(one[3], one[4], width), box) for box in boxes)]
        right, down, anchor, left, middle = (free or inside or choices)[0]
        boxes.append(_text(left, middle, width))
        found.append((right, down, anchor))
    return found


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def _around(across: float, height: float, radius: float) -> Box:
    return across - radius, height - radius, across + radius, height + radius


def _text(left: float, middle: float, width: float) -> Box:
    return left, middle - 6, left + width, middle + 6


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _at(axis: Axis, value: float) -> float:
    """Height of a value in pixels from the top."""
    return HEIGHT - PAD - (HEIGHT - 2 * PAD) * (value - axis.low) / (axis.high - axis.low)


def _svg(marks: Markup, height: int) -> Markup:
    return Markup('<svg class="chart" height="{}" aria-hidden="true">{}</svg>').format(height, marks)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
