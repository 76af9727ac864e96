"""Question answering: the span of the text with the best legal pair of logits, judged as SQuAD is."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from qonnx_pipe.core import ratios
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch, Reading
from qonnx_pipe.core.ratios import Tally
from qonnx_pipe.core.scores import Answers, Drop, Measure
from qonnx_pipe.core.scores import Labels as Given
from qonnx_pipe.core.scores import agreement as same_answers
from qonnx_pipe.core.verdict import Metric
from qonnx_pipe.errors import DataError, ModelError
from qonnx_pipe.tasks import IdToLabel, Labels, Outputs, Task

LONGEST_ANSWER = 30
"""Tokens of an answer at most, as in the reference implementations for SQuAD."""

OUTPUTS = ("start_logits", "end_logits")


def scored(outputs: Outputs, batch: Batch) -> FloatArray:
    """Start and end logits, [tokens, 2], at the tokens of the text; those of the question and padding are left out."""
    if missing := [name for name in OUTPUTS if name not in outputs or outputs[name].ndim != 2]:
        fix = "export the model for question-answering"
        raise ModelError(f"no output {missing[0]} [batch, sequence]", fix=fix)
    if len(batch.readings) != len(batch):
        raise DataError("the examples have no texts to answer from", fix="give questions with texts, not an .npz file")
    pair = np.stack([outputs[name] for name in OUTPUTS], axis=-1)
    rows = [pair[row, reading.positions] for row, reading in enumerate(batch.readings)]
    return np.concatenate(rows).astype(np.float32)


def labels(batches: Sequence[Batch], _: IdToLabel) -> Labels:
    """The right answers of each question, as JSON."""
    found: dict[int, str | None] = {}
    for batch in batches:
        for reading, label in zip(batch.readings, batch.labels, strict=True):
            found.setdefault(reading.example, label)
    return tuple(found.values())


def answered(rows: FloatArray, batches: Sequence[Batch], _: Labels, __: IdToLabel) -> tuple[str, ...]:
    """The best span over all windows of a text: the largest sum of a start and an end logit."""
    best: dict[int, tuple[float, str]] = {}
    place = 0
    for reading in (reading for batch in batches for reading in batch.readings):
        own = rows[place : place + len(reading.positions)]
        place += len(own)
        found = _best_span(own, reading)
        best[reading.example] = max(best.get(reading.example, found), found, key=lambda one: one[0])
    return tuple(text for _, text in best.values())


def _best_span(rows: FloatArray, reading: Reading) -> tuple[float, str]:
    """Score and text of the best span that does not end before it begins and is at most LONGEST_ANSWER long."""
    best = (-np.inf, 0, 0)
    for length in range(min(LONGEST_ANSWER, len(rows))):
        sums = rows[: len(rows) - length, 0] + rows[length:, 1]
        begin = int(sums.argmax())
        best = max(best, (float(sums[begin]), begin, begin + length), key=lambda one: one[0])
    score, begin, end = best
    if not len(rows):
        return score, ""
    return score, reading.text[int(reading.spans[begin, 0]) : int(reading.spans[end, 1])]


def normalised(text: str) -> list[str]:
    """Words of an answer as SQuAD compares them (Rajpurkar et al. 2016): lower case, no punctuation, no articles."""
    bare = "".join(one for one in text.lower() if one not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def f1(answer: str, right: str) -> float:
    """Harmonic mean of precision and recall of the words; 1 where both have none."""
    found, wanted = normalised(answer), normalised(right)
    if not found or not wanted:
        return float(found == wanted)
    return 2 * (Counter(found) & Counter(wanted)).total() / (len(found) + len(wanted))


def _texts(label: str) -> list[str]:
    return [answer for answer, _ in json.loads(label)]


def _tally(answers: Answers, labels: Given) -> Tally | None:
    pairs = [(answer, _texts(label)) for answer, label in zip(answers, labels, strict=True) if label is not None]
    if not pairs:
        return None
    kinds = [_kind(right) for _, right in pairs]
    classes = tuple(sorted(set(kinds)))
    over, under = (np.zeros((len(pairs), len(classes) + 1)) for _ in range(2))
    for row, ((answer, right), kind) in enumerate(zip(pairs, kinds, strict=True)):
        over[row, classes.index(kind)] = max(f1(answer, one) for one in right)
        under[row, classes.index(kind)] = 1
    return Tally(classes, over, under)


def _kind(right: Sequence[str]) -> str:
    """What is asked for, as far as the first right answer tells."""
    first = right[0]
    if any(one.isdigit() for one in first):
        return "number"
    return "name" if first[:1].isupper() else "other"


def _score(answers: Answers, labels: Given) -> Metric | None:
    tally = _tally(answers, labels)
    if tally is None:
        return None
    pairs = [(normalised(answer), _texts(label)) for answer, label in zip(answers, labels, strict=True) if label]
    exact = sum(any(answer == normalised(one) for one in right) for answer, right in pairs)
    return ratios.metric("answer_f1", tally, also={"exact_match": exact / len(pairs)})


def _drop(reference: Answers, candidate: Answers, labels: Given) -> Drop | None:
    first, second = _tally(reference, labels), _tally(candidate, labels)
    return ratios.drop(first, second) if first and second else None


TASK = Task(
    "question-answering", "answers", Measure("answer_f1", _score, _drop, same_answers), scored, labels, answered
)
