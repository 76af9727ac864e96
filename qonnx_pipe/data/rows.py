"""Row: one text, its label and where it stands in its source, so that a complaint can name the line."""

from __future__ import annotations

from dataclasses import dataclass

ALL = "all"
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    ALL: ALL,
}
"""Names that people give to splits → ours."""


@dataclass(frozen=True)
class Row:
    """One text; `where` is its file, with a line or an item where the file holds several."""

    text: str
    label: str | None
    where: str


@dataclass(frozen=True)
class Rows:
    """What a source holds, in its order; `notes` as in Examples.

    `own_split` tells that the source has splits of its own and these rows are the wanted one.
    """

    items: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    own_split: bool = False


@dataclass(frozen=True)
class Columns:
    """Names of the text and the label column, where the user gave them; of all columns, where the table has none."""

    text: str | None = None
    label: str | None = None
    header: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.text is not None or self.label is not None or bool(self.header)
