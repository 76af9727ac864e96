"""Tables become rows: which column is the text, which the label, and the line of everything that is wrong."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qonnx_pipe.core.examples import Form
from qonnx_pipe.data.decoding import read_text
from qonnx_pipe.data.labels import NAMES, UNANSWERED, as_answers, as_number, as_tags, as_words
from qonnx_pipe.data.rows import Columns, Row, Rows
from qonnx_pipe.errors import DataError

PAIRS = {
    "text": "text_pair",
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
    "text1": "text2",
    "question": "context",
}
"""Text column → that of a second text, which is taken where it is there too."""

USUAL = ("text", "sentence", "review", "document", "content", "article", "body", "question", "title")
TEXT_NAMES: dict[Form, tuple[str, ...]] = {
    "class": (*USUAL, *(name for name in PAIRS if name not in USUAL)),
    "tags": ("tokens", "words", *USUAL),
    "number": (*USUAL, *(name for name in PAIRS if name not in USUAL)),
    "answers": ("question",),
}
"""Column names that are taken, in this order, when the user names none; case does not matter."""

Record = tuple[str, Mapping[str, object]]
"""Where it stands, and its values by column."""


def read_delimited(path: Path, columns: Columns) -> Rows:
    """Rows of a .csv file (quotes as in RFC 4180), or of a .tsv or .txt file with tabs (no quotes, as registered).

    The first line is the header, unless `columns` brings one.
    """
    tabs = path.suffix.lower() != ".csv"
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        header = list(columns.header) or [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise DataError("the header names a column twice", where=f"{path}:1", fix="give each column its own name")
        return table(str(path), header, list(_records(path, reader, header)), columns)
    except csv.Error as error:
        raise DataError(f"malformed: {error}", where=f"{path}:{reader.line_num}", fix="correct this line") from error


def _records(path: Path, reader: Iterator[list[str]], header: Sequence[str]) -> Iterator[Record]:
    line = reader.line_num + 1  # type: ignore[attr-defined]  # the first line of a record that may span several
    for cells in reader:
        if cells and len(cells) != len(header):
            what = f"{len(cells)} cells, the header has {len(header)}"
            raise DataError(what, where=f"{path}:{line}", fix="quote cells that hold the delimiter")
        if cells:
            yield f"{path}:{line}", {name: cell or None for name, cell in zip(header, cells, strict=True)}
        line = reader.line_num + 1  # type: ignore[attr-defined]


def read_json_lines(path: Path, columns: Columns) -> Rows:
    """Rows of a .jsonl file: one object a line; empty lines are left out."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    return _from_objects(path, [(f"{path}:{n}", _parse(line, path, n)) for n, line in lines if line.strip()], columns)


def read_json(path: Path, columns: Columns) -> Rows:
    """Rows of a .json file: a list of objects, or a file in the form of SQuAD."""
    found = _parse(read_text(path), path, 1)
    if isinstance(found, dict) and isinstance(found.get("data"), list):
        return read_squad(path, found["data"], columns)
    if not isinstance(found, list):
        raise DataError("not a list of objects", where=str(path), fix='write [{"text": …, "label": …}, …]')
    return _from_objects(path, [(f"{path}: item {n}", value) for n, value in enumerate(found, start=1)], columns)


def _parse(text: str, path: Path, first_line: int) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        raise DataError(f"malformed JSON ({error})", where=f"{path}:{line}", fix="correct this line") from error


def _from_objects(path: Path, values: Sequence[tuple[str, object]], columns: Columns) -> Rows:
    records: list[Record] = []
    for where, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{type(value).__name__}, not an object", where=where, fix='write {"text": …, "label": …}')
        records.append((where, value))
    names = list(records[0][1]) if records else []
    return table(str(path), names, records, columns)


def table(where: str, names: Sequence[str], records: Iterable[Record], columns: Columns) -> Rows:
    """Rows from the columns that hold text and label: those that the user names, else those with a usual name.

    Raises DataError when a column is missing (naming those there are), or a text or label is not of the task's form.
    """
    records = list(records)
    if not names:
        return Rows(())
    text = _column("text", columns.text, TEXT_NAMES[columns.form], names, where)
    if text is None:
        found = ", ".join(map(repr, names))
        what = f"no text column among {found}"
        raise DataError(what, where=where, fix="name it with text_column, or add the header if it is missing")
    label = _column("label", columns.label, NAMES[columns.form], names, where)
    usual = [PAIRS[text.lower()]] if text.lower() in PAIRS and columns.form != "tags" else []
    pair = _column("second text", columns.pair, usual, names, where)
    if columns.form == "answers" and pair is None:
        raise DataError("no column of texts to answer from", where=where, fix="name it with pair_column")
    used = Columns(text, label, (), pair, columns.form)
    rows = tuple(_row(values, used, place) for place, values in records)
    read = {"text": (columns.text, text), "second text": (columns.pair, pair), "label": (columns.label, label)}
    notes = [f"{kind} from column {name!r}" for kind, (given, name) in read.items() if given is None and name]
    blank = [row for row in rows if label is not None and row.label is None and not row.text.strip()]
    silent = [row for row in rows if columns.form == "answers" and row.label == UNANSWERED]
    for what, left_out in (("neither text nor label", blank), ("a question without an answer", silent)):
        if left_out:
            more = f" and {len(left_out) - 1} more" * (len(left_out) > 1)
            notes.append(f"left out, {what}: {left_out[0].where}{more}")
    places = {row.where for row in (*blank, *silent)}
    return Rows(tuple(row for row in rows if row.where not in places), tuple(notes))


def _row(values: Mapping[str, object], columns: Columns, where: str) -> Row:
    """One record in the form that the task reads."""
    assert columns.text is not None
    value = values.get(columns.label) if columns.label is not None else None
    pair = None if columns.pair is None else _text(values, columns.pair, where)
    if columns.form == "tags":
        words = as_words(values.get(columns.text) or "", where)
        return Row(words, None if value is None else as_tags(value, words, where), where)
    text = _text(values, columns.text, where)
    if value is None or columns.form == "class":
        return Row(text, _label(value, where), where, pair)
    label = as_number(value, where) if columns.form == "number" else as_answers(value, pair or "", where)
    return Row(text, label, where, pair)


def _column(kind: str, named: str | None, usual: Sequence[str], names: Sequence[str], where: str) -> str | None:
    if named is not None:
        if named not in names:
            found = ", ".join(map(repr, names))
            raise DataError(f"no {kind} column {named!r}", where=where, fix=f"the columns are {found}")
        return named
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in usual if name in lowered), None)


def _text(values: Mapping[str, object], column: str, where: str) -> str:
    value = values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{column!r} is {type(value).__name__}, not a text", where=where, fix="write a string")
    return value


def _label(value: object, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, int):
        raise DataError(f"label {value!r} is no class", where=where, fix="write a string or a whole number")
    return json.dumps(value)


def read_squad(path: Path, articles: Sequence[Any], columns: Columns) -> Rows:
    """Questions of a file in the form of SQuAD (Rajpurkar et al. 2016)."""
    names = ("question", "context", "answers")
    asked = enumerate(_asked(path, articles), start=1)
    records = [(f"{path}: question {one.get('id', n)}", {name: one.get(name) for name in names}) for n, one in asked]
    return table(str(path), names, records, columns)


def _asked(path: Path, articles: Sequence[Any]) -> Iterator[Mapping[str, object]]:
    """Each question with the text that it is about."""
    try:
        for part in (part for article in articles for part in article["paragraphs"]):
            yield from ({"context": part["context"], **question} for question in part["qas"])
    except (KeyError, TypeError, ValueError) as error:
        fix = 'write {"data": [{"paragraphs": [{"context": …, "qas": [{"question": …, "answers": […]}]}]}]}'
        raise DataError("not in the form of SQuAD", where=str(path), fix=fix) from error
