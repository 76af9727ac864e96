"""Part: one of the sources that a data set is put together from, and how its columns and labels are to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """One source of texts.

    `columns` names the columns of a table without a header, in their order. `text_column`, `label_column` and
    `pair_column` name those that are read (None: the ones with a usual name). `labels` maps labels or tags as they
    stand in the source, or patterns of them, to class names; empty: they stay.
    """

    source: str
    text_column: str | None = None
    label_column: str | None = None
    columns: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    pair_column: str | None = None
