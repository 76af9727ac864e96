"""Text files and folders become rows: one reader for each format, one for each way to lay out a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from qonnx_pipe.data.decoding import read_document, read_text
from qonnx_pipe.data.rows import ALL, SPLITS, Columns, Row, Rows
from qonnx_pipe.data.tables import read_delimited, read_json, read_json_lines
from qonnx_pipe.data.words import is_tagged, read_columns, read_tagged
from qonnx_pipe.errors import DataError


def read_lines(path: Path, columns: Columns) -> Rows:
    """Rows of a .txt file: one text a line, no labels; for tags, as CoNLL's; where columns have names, a table."""
    if columns.header:
        return read_delimited(path, columns)
    _refuse_columns(path, columns)
    if columns.form == "tags":
        return read_columns(path, columns)
    lines = read_text(path).removesuffix("\n").split("\n")
    items = (Row(line.removesuffix("\r"), None, f"{path}:{n}") for n, line in enumerate(lines, start=1))
    return Rows(tuple(items) if lines != [""] else ())


READERS: Mapping[str, Callable[[Path, Columns], Rows]] = {
    ".txt": read_lines,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".conll": read_columns,
    ".bio": read_columns,
    "": read_tagged,
}


def read_path(path: Path, splits: Collection[str], columns: Columns) -> Rows:
    """Rows of a file or a folder; of the wanted splits, if the folder has splits of its own.

    A folder holds either its splits (`train` with `validation` or `test`: folders or files), or one folder of .txt
    documents for each class, or .txt documents without a class, or files of word/tag. Raises DataError for everything
    else.
    """
    if path.is_file():
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            known = ", ".join((*filter(None, READERS), ".npz"))
            raise DataError(f"unknown format {path.suffix!r}", where=str(path), fix=f"give a folder or one of {known}")
        return reader(path, columns)
    if not path.is_dir():
        raise DataError("no such file or folder", where=str(path), fix="check the path")
    parts = _own_splits(path)
    if not parts:
        _refuse_columns(path, columns)
        return _tagged(path, columns) or _documents(path)
    return pick({name: partial(read_path, part, (ALL,), columns) for name, part in parts.items()}, splits, path)


def pick(parts: Mapping[str, Callable[[], Rows]], splits: Collection[str], where: object) -> Rows:
    """The rows of these of a source's own splits, or of all of them; DataError when it has no such split."""
    if missing := [split for split in splits if split != ALL and split not in parts]:
        found = ", ".join(parts)
        raise DataError(f"there is no split {missing[0]!r}", where=str(where), fix=f"it has {found}")
    chosen = [read() for name, read in parts.items() if ALL in splits or name in splits]
    items = tuple(row for rows in chosen for row in rows.items)
    return Rows(items, tuple(dict.fromkeys(note for rows in chosen for note in rows.notes)), own_split=True)


def _own_splits(folder: Path) -> dict[str, Path]:
    """Split → its folder or file: train, validation, test; {} unless there are two, for "train" may be a class."""
    found = {
        SPLITS[child.stem.lower()]: child
        for child in _visible(folder)
        if child.stem.lower() in SPLITS and (child.is_dir() or child.suffix.lower() in READERS)
    }
    return {name: found[name] for name in ("train", "validation", "test") if name in found} if len(found) > 1 else {}


def _tagged(folder: Path, columns: Columns) -> Rows | None:
    """All sentences of a folder's files of word/tag, in the order of their names; None where it has no such file."""
    found = [child for child in _visible(folder) if is_tagged(child)]
    left_out = [child for child in _visible(folder) if child not in found]
    rows = tuple(row for child in found for row in read_tagged(child, columns).items)
    return Rows(rows, tuple(_note(left_out, "left out, not word/tag"))) if found else None


def _documents(folder: Path) -> Rows:
    """Every .txt file of the class folders, or of the folder itself, as one text; in the order of their names."""
    children = _visible(folder)
    classes = [child for child in children if child.is_dir()]
    rows: list[Row] = []
    left_out = [child for child in children if classes and child not in classes]
    recoded: list[str] = []
    for place in classes or [folder]:
        label = place.name if classes else None
        for file in _visible(place):
            if file.suffix.lower() != ".txt" or not file.is_file():
                left_out.append(file)
                continue
            text, old = read_document(file)
            rows.append(Row(text, label, str(file)))
            recoded += [str(file)] * old
    notes = [*_note(left_out, "left out, not a .txt document"), *_note(recoded, "read as Windows-1252, not UTF-8")]
    return Rows(tuple(rows), tuple(notes))


def _note(paths: Sequence[object], what: str) -> list[str]:
    if not paths:
        return []
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return [f"{what}: {paths[0]}{more}"]


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith((".", "__")))


def _refuse_columns(path: Path, columns: Columns) -> None:
    if columns:
        raise DataError("has no columns", where=str(path), fix="leave text_column and label_column out")
