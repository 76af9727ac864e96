"""Text regression: a number for each text or pair of texts, judged by Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qonnx_pipe.core import correlation
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import ModelError
from qonnx_pipe.tasks import IdToLabel, Labels, Outputs, Task


def scored(outputs: Outputs, batch: Batch) -> FloatArray:
    """The number, [batch, 1]: the output `logits`, or the only one of that shape."""
    columns = [values for values in outputs.values() if values.shape == (len(batch), 1)]
    numbers = outputs.get("logits", columns[0] if len(columns) == 1 else None)
    if numbers is None or numbers.shape != (len(batch), 1):
        fix = "use the task text-classification for a model of several classes"
        raise ModelError("no output holds one number an example, [batch, 1]", fix=fix)
    return numbers.astype(np.float32)


def labels(batches: Sequence[Batch], _: IdToLabel) -> Labels:
    """The numbers as they are."""
    return tuple(label for batch in batches for label in batch.labels)


def answered(rows: FloatArray, _: Sequence[Batch], __: Labels, ___: IdToLabel) -> tuple[str, ...]:
    """The model's number of each example, in as many digits as it has."""
    return tuple(repr(float(number)) for number in rows[:, 0])


TASK = Task("text-regression", "number", correlation.MEASURE, scored, labels, answered)
