"""Example and Batch: labelled data before and after tokenization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Example:
    """One text with its label (a class name, or None)."""

    text: str
    label: str | None = None


@dataclass(frozen=True)
class Examples:
    """A data set in a fixed order. `sha256` digests the very texts, arrays and labels that it holds.

    Text data stand in `items`; ready model inputs (an .npz file, e.g. images) in `arrays`, first axis = example.
    `labels` has one an example in both cases. `class_names` are the labels of the whole data set, sorted, whatever
    the split holds; `duplicates` counts the examples left out because their text stood before; `notes` say what else
    the loader did that a reader must know (another encoding, files left out).
    """

    source: str
    sha256: str
    items: tuple[Example, ...] = ()
    arrays: Mapping[str, Array] | None = None
    labels: tuple[str | None, ...] = ()
    class_names: tuple[str, ...] = ()
    duplicates: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items) if self.arrays is None else len(self.labels)


@dataclass(frozen=True, eq=False)
class Batch:
    """Model inputs by name, each [batch, …], and one label an example (None where there is none)."""

    inputs: Mapping[str, Array]
    labels: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.labels)
