"""Load a data set: find it, read it, leave duplicates out, choose a split and samples, digest what is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from qonnx_pipe.core.examples import Example, Examples
from qonnx_pipe.core.packages import SCHEME as PACKAGE
from qonnx_pipe.core.packages import package_path
from qonnx_pipe.data.arrays import Arrays, read_arrays
from qonnx_pipe.data.files import read_path
from qonnx_pipe.data.hub import SCHEME as HUB
from qonnx_pipe.data.hub import read_hub
from qonnx_pipe.data.rows import ALL, SPLITS, Columns, Row, Rows
from qonnx_pipe.data.selection import digest, select
from qonnx_pipe.errors import DataError


def load(
    source: str,
    *,
    split: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    base: Path | None = None,
) -> Examples:
    """The examples of a split (None and "all": every one), in the order of the source, or `samples` of them, shuffled.

    `source` is a file (.txt, .csv, .tsv, .jsonl, .json, .npz) or a folder, relative to `base`; `package:NAME/path`;
    or `hub:NAME[:config]`. Texts that stand twice count once. A source without splits of its own is split by the
    digests of its texts. Raises DataError for data that are missing, empty or damaged; MissingDependency.
    """
    wanted = _split(split, source)
    columns = Columns(text_column, label_column)
    if source.startswith(HUB):
        return _of_texts(source, read_hub(source, wanted, columns), wanted, samples, seed)
    if source.startswith(PACKAGE):
        path = package_path(source, DataError)
    else:
        path = (base or Path()) / Path(source).expanduser()
    if path.suffix.lower() == ".npz" and path.is_file():
        return _of_arrays(source, read_arrays(path), wanted, samples, seed)
    return _of_texts(source, read_path(path, wanted, columns), wanted, samples, seed)


def _split(name: str | None, source: str) -> str:
    try:
        return SPLITS[(name or ALL).lower()]
    except KeyError as error:
        known = ", ".join(dict.fromkeys(SPLITS.values()))
        raise DataError(f"unknown split {name!r}", where=source, fix=f"write one of {known}") from error


def _of_texts(source: str, found: Rows, split: str, samples: int | None, seed: int) -> Examples:
    _check(source, found.items)
    first: dict[str, Row] = {}
    for row in found.items:
        first.setdefault(row.text, row)
    unique = tuple(first.values())
    chosen = select([row.text.encode() for row in unique], ALL if found.own_split else split, samples, seed)
    _refuse_none(source, split, chosen)
    items = tuple(Example(unique[index].text, unique[index].label) for index in chosen)
    labels = [row.label for row in unique]
    return Examples(
        source=source,
        sha256=digest(part for item in items for part in (item.text.encode(), _bytes(item.label))),
        items=items,
        labels=tuple(item.label for item in items),
        class_names=_class_names(labels),
        duplicates=len(found.items) - len(unique),
        notes=(*found.notes, *_contradictions(found.items, first), *_unlabelled(labels)),
    )


def _of_arrays(source: str, found: Arrays, split: str, samples: int | None, seed: int) -> Examples:
    chosen = select([found.key(index) for index in range(len(found.labels))], split, samples, seed)
    _refuse_none(source, split, chosen)
    taken = found.take(chosen)
    described = (
        part
        for name, array in sorted(taken.inputs.items())
        for part in (f"{name} {array.dtype.str} {array.shape}".encode(), np.ascontiguousarray(array).tobytes())
    )
    return Examples(
        source=source,
        sha256=digest((*described, *map(_bytes, taken.labels))),
        arrays=taken.inputs,
        labels=taken.labels,
        class_names=_class_names(found.labels),
    )


def _check(source: str, rows: Sequence[Row]) -> None:
    if not rows:
        raise DataError("the data set is empty", where=source, fix="give texts: a table, lines, or .txt documents")
    empty = [row.where for row in rows if not row.text.strip()]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(f"empty text{more}", where=empty[0], fix="remove it, or fill it in")
    for row in rows:
        try:
            f"{row.text}{row.label}".encode()
        except UnicodeEncodeError as error:
            raise DataError("holds half a surrogate pair", where=row.where, fix="write whole characters") from error


def _refuse_none(source: str, split: str, chosen: Sequence[int]) -> None:
    if not chosen:
        what = "no example is left" if split == ALL else f"no example is left in split {split!r}"
        raise DataError(what, where=source, fix="give more data, at least one sample, or `split: all`")


def _class_names(labels: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({label for label in labels if label is not None}))


def _contradictions(rows: Sequence[Row], first: dict[str, Row]) -> list[str]:
    other = [row for row in rows if row.label != first[row.text].label]
    return [f"{len(other)} duplicates had another label than the first, at {other[0].where}"] if other else []


def _unlabelled(labels: Sequence[str | None]) -> list[str]:
    missing = labels.count(None)
    return [f"{missing} of {len(labels)} examples have no label"] if 0 < missing < len(labels) else []


def _bytes(label: str | None) -> bytes | None:
    return None if label is None else label.encode()
