"""Words with their tags in text files: two columns and a blank line, or word/tag on one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qonnx_pipe.data.decoding import read_text
from qonnx_pipe.data.rows import Columns, Row, Rows
from qonnx_pipe.errors import DataError

DOCUMENT = "-DOCSTART-"
"""What CoNLL-2003 writes where a document begins."""


def read_columns(path: Path, columns: Columns) -> Rows:
    """Sentences of a file like CoNLL's: a word a line, first column the word, last one its tag; a blank line ends it.

    Raises DataError for a line with another number of columns than the first one has.
    """
    rows = tuple(_sentences(path))
    if columns.form == "tags":
        return Rows(rows)
    return Rows(tuple(Row(row.text, None, row.where) for row in rows), ("the tags are left out",))


def _sentences(path: Path) -> Iterator[Row]:
    lines = [line.split() for line in read_text(path).split("\n")]
    width = next((len(cells) for cells in lines if cells and cells[0] != DOCUMENT), 0)
    sentence: list[list[str]] = []
    for number, cells in enumerate([*lines, []], start=1):
        if cells and cells[0] != DOCUMENT:
            if len(cells) != width or width < 2:
                what = f"{len(cells)} columns, not {max(width, 2)}"
                raise DataError(
                    what, where=f"{path}:{number}", fix="write word and tag, and a blank line between texts"
                )
            sentence.append(cells)
        elif sentence:
            tags = " ".join(one[-1] for one in sentence)
            yield Row(" ".join(one[0] for one in sentence), tags, f"{path}:{number - len(sentence)}")
            sentence = []


def read_tagged(path: Path, columns: Columns) -> Rows:
    """Sentences of a file like the Brown corpus': `word/tag word/tag …`, one a line; blank lines are left out."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        pairs = [item.rpartition("/") for item in line.split()]
        if any(not word or not tag for word, _, tag in pairs):
            raise DataError("an item is no word/tag", where=f"{path}:{number}", fix="write word/tag word/tag …")
        if pairs:
            tags = " ".join(tag for _, _, tag in pairs) if columns.form == "tags" else None
            rows.append(Row(" ".join(word for word, _, _ in pairs), tags, f"{path}:{number}"))
    return Rows(tuple(rows))


def is_tagged(path: Path) -> bool:
    """Whether a file without a suffix begins as one of the Brown corpus does."""
    if path.suffix or not path.is_file():
        return False
    with path.open("rb") as stream:
        begin = stream.read(4096).split()[:5]
    return bool(begin) and all(b"/" in item.strip(b"/") or item == b"//" for item in begin)
