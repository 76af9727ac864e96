"""`cloze:SOURCE`: questions made from texts: a few words around a name or number, which the text then answers.

A stand-in for a labelled set, where there is none: it shows whether a model finds a place again, no more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

from qonnx_pipe.data.rows import Row, Rows

SCHEME = "cloze:"

SENTENCES = 2
"""Sentences of a text that answers: enough for a few names and numbers, short enough to train on in minutes."""

AROUND = 5
"""Words of the question on each side of the gap."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'A-Z0-9])")
_WORD = re.compile(r"[\w£$%][\w'£$%.,-]*(?<![.,'-])|[^\w\s]")
_ANSWER = re.compile(r"(?:[A-Z][\w'-]+ )*[A-Z][\w'-]+|[£$]?\d[\d.,]*\d%?|\d")


def questions(texts: Rows) -> Rows:
    """One question for each run of SENTENCES sentences that holds at least two possible answers; the same each time."""
    rows = tuple(row for text in texts.items for row in _of_text(text))
    note = f"{len(rows)} questions were made from {len(texts.items)} texts, by leaving out a name or number"
    return replace(texts, items=rows, notes=(*texts.notes, note))


def _of_text(text: Row) -> Iterator[Row]:
    for paragraph in text.text.split("\n"):
        sentences = _SENTENCE.split(" ".join(paragraph.split()))
        for start in range(0, len(sentences), SENTENCES):
            yield from _of_passage(" ".join(sentences[start : start + SENTENCES]), text.where)


def _of_passage(passage: str, where: str) -> Iterator[Row]:
    """The question whose answer stands in the middle of the possible ones, none of which begins a sentence."""
    found = [one for one in _ANSWER.finditer(passage) if one.start() > 1 and passage[one.start() - 2] not in ".!?:\"'"]
    once = [one for one in found if passage.count(one[0]) == 1]
    if len(found) < 2 or not once:
        return
    answer = once[len(once) // 2]
    before = _WORD.findall(passage[: answer.start()])[-AROUND:]
    after = _WORD.findall(passage[answer.end() :])[:AROUND]
    asked = "how many" if answer[0][-1:].isdigit() or answer[0].endswith("%") else "who or what"
    label = json.dumps([[answer[0], answer.start()]], ensure_ascii=False)
    yield Row(" ".join([*before, asked, *after, "?"]), label, where, passage)
