"""Tasks by name: what of a model's outputs is compared, what they answer, and how that is judged; one file each."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch, Form
from qonnx_pipe.core.scores import Measure
from qonnx_pipe.core.verdict import Metric
from qonnx_pipe.errors import UsageError

Outputs = Mapping[str, npt.NDArray[np.generic]]
Labels = tuple[str | None, ...]
IdToLabel = Mapping[str, str]
"""Class id, as decimal text, to its name; empty for a model without a head."""


@dataclass(frozen=True)
class Task:
    """What a file of this folder offers as `TASK`: three pure functions, the form of its labels, and its measure.

    `scored(outputs, batch)`: the compared tensor, [m, k]: one row an example, or a judged token; ModelError when it is
    not there. `labels(batches, id2label)`: one label an example, in the model's words; DataError for what its head does
    not have. `answered(rows, batches, labels, id2label)`: one answer an example, from all rows; it works without
    labels too. Answers and labels are texts in the same form. Examples come in the order of the batches.
    """

    name: str
    form: Form
    measure: Measure
    scored: Callable[[Outputs, Batch], FloatArray]
    labels: Callable[[Sequence[Batch], IdToLabel], Labels]
    answered: Callable[[FloatArray, Sequence[Batch], Labels, IdToLabel], tuple[str, ...]]


def judged(task: Task, outputs: Iterable[Outputs], batches: Sequence[Batch], classes: Sequence[str]) -> Metric | None:
    """The metric of a model's outputs, one a batch; `classes` by their ids. None where no example has a label."""
    names = {str(index): name for index, name in enumerate(classes)}
    labels = task.labels(batches, names)
    return task.measure.score(task.answered(rows(task, outputs, batches), batches, labels, names), labels)


def rows(task: Task, outputs: Iterable[Outputs], batches: Sequence[Batch]) -> FloatArray:
    """The compared tensor [m, k] of all batches."""
    return np.concatenate([task.scored(*pair) for pair in zip(outputs, batches, strict=True)])


def known() -> tuple[str, ...]:
    """Names of the tasks that can be validated, sorted."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Task:
    """The task of that name; UsageError for one that has no file."""
    if name not in known():
        raise UsageError(f"task {name!r} cannot be validated", fix=f"use one of {', '.join(known())}")
    return cast(Task, importlib.import_module(f"{__name__}.{name.replace('-', '_')}").TASK)


def form_of(name: str) -> Form:
    """The form of a task's labels; "class" for tasks that cannot be validated."""
    return find(name).form if name in known() else "class"
