"""Row: one text, its label and where it stands in its source, so that a complaint can name the line."""

from __future__ import annotations

from dataclasses import dataclass

from qonnx_pipe.core.examples import Form

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
    """One text, or a pair; `where` is its file, with a line or an item where the file holds several."""

    text: str
    label: str | None
    where: str
    pair: str | None = None


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
    """Names of the text, label and second text's column, where the user gave them; of all, where the table has none.

    `form`: what a label says, and so which columns have it by their usual names.
    """

    text: str | None = None
    label: str | None = None
    header: tuple[str, ...] = ()
    pair: str | None = None
    form: Form = "class"

    def __bool__(self) -> bool:
        return any(name is not None for name in (self.text, self.label, self.pair)) or bool(self.header)
