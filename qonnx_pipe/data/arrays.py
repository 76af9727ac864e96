"""Ready model inputs from an .npz file: arrays by name, first axis = example, and their labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qonnx_pipe.core.examples import Array
from qonnx_pipe.errors import DataError

LABELS = "labels"


@dataclass(frozen=True, eq=False)
class Arrays:
    """Model inputs by name, each [n, …], and n labels."""

    inputs: Mapping[str, Array]
    labels: tuple[str | None, ...]

    def key(self, index: int) -> bytes:
        """The bytes of one example, by which it is told apart from others."""
        return b"".join(np.ascontiguousarray(self.inputs[name][index]).tobytes() for name in sorted(self.inputs))

    def take(self, indices: list[int]) -> Arrays:
        """The chosen examples, in that order."""
        inputs = {name: array[indices] for name, array in self.inputs.items()}
        return Arrays(inputs, tuple(self.labels[index] for index in indices))


def read_arrays(path: Path) -> Arrays:
    """Read an .npz file; its array `labels`, [n], holds class names or numbers and is optional.

    Raises DataError for a damaged file, pickled objects, NaN or infinity, and arrays of different lengths.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"not a readable .npz file ({error})", where=str(path), fix="write it with np.savez") from error
    if found.keys() <= {LABELS}:
        raise DataError("holds no arrays", where=str(path), fix="save the model's inputs by their names")
    for name, array in found.items():
        _check(name, array, path)
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        fix = "save the same number of examples in each"
        raise DataError(f"arrays of different lengths: {listed}", where=str(path), fix=fix)
    labels = found.pop(LABELS, None)
    names = (None,) * next(iter(lengths.values())) if labels is None else tuple(str(label) for label in labels)
    return Arrays(found, names)


def _check(name: str, array: Array, path: Path) -> None:
    allowed = "biuU" if name == LABELS else "biuf"
    if array.ndim == 0 or array.dtype.kind not in allowed or (name == LABELS and array.ndim != 1):
        what = f"array {name!r} has type {array.dtype} and shape {list(array.shape)}"
        raise DataError(what, where=str(path), fix="save numbers, first axis = example; labels as one list")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        index = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(
            f"array {name!r} holds NaN or infinity", where=f"{path}: example {index}", fix="repair the data"
        )
