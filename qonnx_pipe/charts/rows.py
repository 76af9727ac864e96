"""Rows: a chart as lines of label, drawing and number on one axis."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Row:
    """One line of a chart; `detail` is smaller text behind the number."""

    label: str
    drawing: Markup
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Chart:
    """Rows on one axis, whose numbers are `foot`."""

    title: str
    note: str
    rows: tuple[Row, ...]
    foot: Markup | None = None
