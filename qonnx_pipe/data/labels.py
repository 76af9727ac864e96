"""Labels: what users write as tags, numbers and answers becomes a text of the form that the task reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from qonnx_pipe.core.examples import Form
from qonnx_pipe.errors import DataError

LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent")
NAMES: dict[Form, tuple[str, ...]] = {
    "class": LABEL_NAMES,
    "tags": ("tags", "ner_tags", "pos_tags", "upos", "chunk_tags", *LABEL_NAMES),
    "number": (*LABEL_NAMES, "score", "rating", "stars", "value", "similarity"),
    "answers": ("answers", "answer"),
}
"""Names of label columns that are taken, in this order, when the user names none; case does not matter."""


UNANSWERED = "[]"
"""What `as_answers` gives where it is said that there is no answer."""


def as_words(value: object, where: str) -> str:
    """Words between single spaces, from a list of them or from a text; DataError for what is neither."""
    if isinstance(value, str):
        return " ".join(value.split())
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise DataError(f"{value!r:.40} is no list of words", where=where, fix="write a list of strings, or a text")
    for word in value:
        if not word or any(one.isspace() for one in word):
            raise DataError(f"the word {word!r} is empty or has white space inside", where=where, fix="split it")
    return " ".join(value)


def as_tags(value: object, text: str, where: str) -> str:
    """Tags between single spaces, one for each word of `text`."""
    if isinstance(value, list) and all(isinstance(tag, str | int) and not isinstance(tag, bool) for tag in value):
        tags = [str(tag) for tag in value]
    elif isinstance(value, str):
        tags = value.split()
    else:
        raise DataError(f"{value!r:.40} is no list of tags", where=where, fix="write one tag a word")
    if any(not tag or any(one.isspace() for one in tag) for tag in tags):
        raise DataError("a tag is empty or has white space inside", where=where, fix="write one name a word")
    words = text.count(" ") + 1 if text else 0
    if len(tags) != words:
        raise DataError(f"{words} words and {len(tags)} tags", where=where, fix="give each word one tag")
    return " ".join(tags)


def as_number(value: object, where: str) -> str:
    """A finite number, as Python writes it."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"label {value!r:.40} is no finite number", where=where, fix="write a number, or nothing")
    return repr(number)


def as_answers(value: object, text: str, where: str) -> str:
    """Answers with the places where they begin in `text`, as JSON.

    From a text, a list of them, or SQuAD's mapping of `text` and `answer_start`, or a list of such mappings; without a
    place it is the first one. DataError for an answer that does not stand there.
    """
    found = [_placed(answer, start, text, where) for answer, start in _answers(value, where)]
    return json.dumps(list(dict.fromkeys(found)), ensure_ascii=False)


def _answers(value: object, where: str) -> Sequence[tuple[object, object]]:
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        starts = value.get("answer_start") or [None] * len(value["text"])
        if len(starts) == len(value["text"]):
            return list(zip(value["text"], starts, strict=True))
    elif isinstance(value, dict):
        return [(value.get("text"), value.get("answer_start"))]
    elif isinstance(value, list):
        return [one for item in value for one in _answers(item, where)]
    elif isinstance(value, str):
        return [(value, None)]
    fix = 'write the answer, or {"text": […], "answer_start": […]}'
    raise DataError(f"{value!r:.40} is no answer", where=where, fix=fix)


def _placed(answer: object, start: object, text: str, where: str) -> tuple[str, int]:
    if not isinstance(answer, str) or not answer.strip():
        raise DataError(f"{answer!r:.40} is no answer", where=where, fix="write a piece of the text")
    place = text.find(answer) if start is None else start
    if not isinstance(place, int) or place < 0 or text[place : place + len(answer)] != answer:
        spot = "" if start is None else f" at {start}"
        fix = "answers must be pieces of their text, letter by letter"
        raise DataError(f"the answer {answer!r:.40} does not stand in the text{spot}", where=where, fix=fix)
    return answer, place
