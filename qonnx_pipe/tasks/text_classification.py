"""Text classification: the class with the largest logit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.scores import classes
from qonnx_pipe.errors import DataError, ModelError
from qonnx_pipe.tasks import IdToLabel, Labels, Outputs, Task


def scored(outputs: Outputs, batch: Batch) -> FloatArray:
    """Logits [batch, classes]: the output of that name, or the only output of rank 2."""
    matrices = [values for values in outputs.values() if values.ndim == 2 and len(values) == len(batch)]
    logits = outputs.get("logits", matrices[0] if len(matrices) == 1 else None)
    if logits is None or logits.ndim != 2:
        raise ModelError("no output holds logits [batch, classes]", fix="export the model for the task that it has")
    if logits.shape[1] == 1:
        raise ModelError("one logit tells no classes apart", fix="use the task text-regression for a model of a number")
    return logits.astype(np.float32)


def labels(batches: Sequence[Batch], id2label: IdToLabel) -> Labels:
    """Labels as class names: they may be given as names (whatever their case) or as ids."""
    given = tuple(label for batch in batches for label in batch.labels)
    found = named({label for label in given if label is not None}, id2label)
    return tuple(None if label is None else found[label] for label in given)


def answered(rows: FloatArray, _: Sequence[Batch], __: Labels, id2label: IdToLabel) -> tuple[str, ...]:
    """Name of the class with the largest logit; its id where the model names no classes."""
    return tuple(id2label.get(str(i), str(i)) for i in rows.argmax(axis=1))


def named(given: Collection[str], id2label: IdToLabel) -> Mapping[str, str]:
    """Each given class in the model's words; DataError for those that its head does not have."""
    if not id2label:
        return {label: label for label in given}
    names = {name.casefold(): name for name in id2label.values()}
    known = names | ({} if names.keys() & id2label.keys() else dict(id2label))
    unknown = sorted({label for label in given if label.casefold() not in known})
    if unknown:
        raise DataError(
            f"the data have labels that the model's head does not have: {', '.join(map(repr, unknown))}",
            fix=f"the head knows {', '.join(map(repr, id2label.values()))}; rename the labels or take another model",
        )
    return {label: known[label.casefold()] for label in given}


TASK = Task("text-classification", "class", classes("accuracy"), scored, labels, answered)
