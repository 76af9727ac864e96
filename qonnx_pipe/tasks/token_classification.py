"""Token classification: the tag of each word, judged by F1 of entities; tags without BIO are entities of one word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qonnx_pipe.core import ratios
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.ratios import Tally
from qonnx_pipe.core.scores import Answers, Drop, Measure
from qonnx_pipe.core.scores import Labels as Given
from qonnx_pipe.core.verdict import Metric
from qonnx_pipe.errors import DataError, ModelError
from qonnx_pipe.tasks import IdToLabel, Labels, Outputs, Task
from qonnx_pipe.tasks.text_classification import named

UNREAD = ""
"""Tag of a word that the model does not get to see, for the text was cut before it; it counts as found nothing."""

Entity = tuple[str, int, int]
"""Type, first word, word behind the last."""


def scored(outputs: Outputs, batch: Batch) -> FloatArray:
    """Logits [words, tags] at the first token of each word; padding, special and further tokens are left out."""
    cubes = [values for values in outputs.values() if values.ndim == 3]
    logits = outputs.get("logits", cubes[0] if len(cubes) == 1 else None)
    if logits is None or logits.ndim != 3:
        fix = "export the model for token-classification"
        raise ModelError("no output holds logits [batch, sequence, tags]", fix=fix)
    if len(batch.readings) != len(batch):
        raise DataError("the examples have no words", fix="give words with their tags, not an .npz file")
    rows = [logits[row, reading.positions] for row, reading in enumerate(batch.readings)]
    return np.concatenate(rows).astype(np.float32)


def labels(batches: Sequence[Batch], id2label: IdToLabel) -> Labels:
    """Tags in the model's words, between spaces: they may be given as names (whatever their case) or as ids."""
    given = [label for batch in batches for label in batch.labels]
    found = named({tag for label in given if label is not None for tag in label.split(" ")}, id2label)
    return tuple(None if label is None else " ".join(found[tag] for tag in label.split(" ")) for label in given)


def answered(rows: FloatArray, batches: Sequence[Batch], _: Labels, id2label: IdToLabel) -> tuple[str, ...]:
    """A tag for every word of each text, between spaces."""
    best = iter(rows.argmax(axis=1).tolist())
    answers = []
    for reading in (reading for batch in batches for reading in batch.readings):
        tags = [UNREAD] * (reading.text.count(" ") + 1)
        for begin in reading.spans[:, 0].tolist():
            index = str(next(best))
            tags[reading.text.count(" ", 0, begin)] = id2label.get(index, index)
        answers.append(" ".join(tags))
    return tuple(answers)


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """Entities of a tag sequence, as conlleval reads it (Tjong Kim Sang and Buchholz 2000).

    B, I, E and S (also L and U) in front of a hyphen are prefixes. An entity begins at B and S, and where an I or E
    does not go on with one of its type; it ends behind E and S. O is none, and a tag without a prefix is one word's.
    """
    begin, kind, closed = 0, "", True
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-") if tag[1:2] == "-" and tag[0] in "BIESLU" else ("S", "", tag)
        if not closed and prefix in "IEL" and name == kind:
            closed = prefix in "EL"
            if closed:
                yield kind, begin, index + 1
            continue
        if not closed:
            yield kind, begin, index
        begin, kind, closed = index, name, tag in ("O", UNREAD)
        if not closed and prefix in "ESLU":
            closed = True
            yield kind, begin, index + 1


def _tally(answers: Answers, labels: Given) -> Tally | None:
    pairs = [(answer.split(" "), label.split(" ")) for answer, label in zip(answers, labels, strict=True) if label]
    if not pairs:
        return None
    read = [(set(entities(found)), set(entities(wanted))) for found, wanted in pairs]
    classes = tuple(sorted({kind for _, wanted in read for kind, _, _ in wanted}))
    column = {name: i for i, name in enumerate(classes)}
    over, under = (np.zeros((len(read), len(classes) + 1)) for _ in range(2))
    for row, (found, wanted) in enumerate(read):
        for one in (*found, *wanted):
            under[row, column.get(one[0], -1)] += 1
        for kind, _, _ in found & wanted:
            over[row, column[kind]] += 2
    return Tally(classes, over, under)


def _score(answers: Answers, labels: Given) -> Metric | None:
    tally = _tally(answers, labels)
    also = {"token_accuracy": _agreement(answers, labels)}
    return ratios.metric("tag_f1", tally, also=also) if tally else None


def _drop(reference: Answers, candidate: Answers, labels: Given) -> Drop | None:
    first, second = _tally(reference, labels), _tally(candidate, labels)
    return ratios.drop(first, second) if first and second else None


def _agreement(reference: Answers, candidate: Given) -> float:
    """Share of words with the same tag; texts without tags do not count."""
    texts = [(a.split(" "), b.split(" ")) for a, b in zip(reference, candidate, strict=True) if b is not None]
    same = [x == y for a, b in texts for x, y in zip(a, b, strict=True)]
    return sum(same) / max(len(same), 1)


TASK = Task("token-classification", "tags", Measure("tag_f1", _score, _drop, _agreement), scored, labels, answered)
