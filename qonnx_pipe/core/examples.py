"""Example and Batch: labelled data before and after tokenization, and where a batch reads its examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

Form = Literal["class", "tags", "number", "answers"]
"""What the text of a label says. class: a class name. tags: one a word, between single spaces, as the words of the text
stand too. number: a finite one. answers: the right ones and where they begin in `pair`, as JSON [[answer, start], …].
"""


def classes_of(label: str, form: Form) -> tuple[str, ...]:
    """The classes that a label names, one after another; none for numbers and answers."""
    return tuple(label.split(" ")) if form == "tags" else (label,) if form == "class" else ()


@dataclass(frozen=True)
class Example:
    """One text, or a pair of them, with its label (in the form that the task says, or None)."""

    text: str
    label: str | None = None
    pair: str | None = None


@dataclass(frozen=True)
class Examples:
    """A data set in a fixed order. `sha256` digests the very texts, arrays and labels that it holds.

    Text data stand in `items`; ready model inputs (an .npz file, e.g. images) in `arrays`, first axis = example.
    `labels` has one an example in both cases. `class_names` are the labels of the whole data set, sorted, whatever
    the split holds; `duplicates` counts the examples left out because their text stood before; `notes` say what else
    the loader did that a reader must know (another encoding, files left out). `form`: what the labels say.
    """

    source: str
    sha256: str
    items: tuple[Example, ...] = ()
    arrays: Mapping[str, Array] | None = None
    labels: tuple[str | None, ...] = ()
    class_names: tuple[str, ...] = ()
    duplicates: int = 0
    notes: tuple[str, ...] = ()
    form: Form = "class"

    def __len__(self) -> int:
        return len(self.items) if self.arrays is None else len(self.labels)


@dataclass(frozen=True, eq=False)
class Reading:
    """Which tokens of a batch's row are judged, and the characters that they stand for.

    `example` numbers the example, of which several rows may read a part. `positions` [m]: columns of the row,
    ascending. `spans` [m, 2]: where each begins and ends in `text`.
    """

    example: int
    text: str
    positions: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """Model inputs by name, each [batch, …], and one label a row (None where there is none).

    `readings`: one a row, where the labels are about tokens (tags, answers); else none, and a row is an example.
    """

    inputs: Mapping[str, Array]
    labels: tuple[str | None, ...]
    readings: tuple[Reading, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)
