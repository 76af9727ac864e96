"""Rows: the tensor that a task compares, as a model in a worker of its own computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.graph.summary import static_shape
from qonnx_pipe.runtime.client import Worker
from qonnx_pipe.runtime.shapes import of_shape
from qonnx_pipe.tasks import Outputs, Task


@dataclass(frozen=True, eq=False)
class Trained:
    """What a model was trained as: batches, and the compared tensor [m, k] that torch computes for them."""

    batches: Sequence[Batch]
    rows: FloatArray


def compared_rows(worker: Worker, batches: Sequence[Batch], task: Task) -> FloatArray:
    """The compared tensor [m, k] for all batches; NumericsError when a row is no number."""
    path = worker.model
    shape = static_shape(path)
    fed = list(of_shape(batches, *shape)) if shape else batches
    with worker:
        outputs = worker.predict(batch.inputs for batch in fed)
        rows = np.concatenate([task.scored(*_of_examples(*pair)) for pair in zip(outputs, fed, strict=True)])
    if broken := int((~np.isfinite(rows)).any(axis=1).sum()):
        judged = "tokens" if batches[0].readings else "examples"
        raise NumericsError(
            f"the outputs of {broken} of {len(rows)} {judged} hold NaN or infinity",
            where=str(path),
            fix="look for overflowing scales or damaged weights: `qpipe inspect` shows the layers",
        )
    return rows


def _of_examples(outputs: Outputs, batch: Batch) -> tuple[Outputs, Batch]:
    """Outputs and inputs without the rows that fill up a batch of a fixed size."""
    kept = {name: values[: len(batch)] for name, values in outputs.items() if values.ndim}
    return kept, replace(batch, inputs={name: values[: len(batch)] for name, values in batch.inputs.items()})
