"""Tasks by name: what of a model's outputs is compared, and which class it stands for; one file each."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import UsageError

Outputs = Mapping[str, npt.NDArray[np.generic]]
Labels = tuple[str | None, ...]
IdToLabel = Mapping[str, str]
"""Class id, as decimal text, to its name; empty for a model without a head."""


@dataclass(frozen=True)
class Task:
    """What a file of this folder offers as `TASK`: three pure functions, and the name of the accuracy they give.

    `scored(outputs, batch)`: the compared tensor, one row an example, [batch, k]; ModelError when it is not there.
    `labels(labels, id2label)`: the data's labels in the model's words; DataError for classes it does not have.
    `predicted(rows, labels, id2label)`: one class an example, from all rows [n, k]; it works without labels too.
    """

    name: str
    metric: str
    scored: Callable[[Outputs, Batch], FloatArray]
    labels: Callable[[Labels, IdToLabel], Labels]
    predicted: Callable[[FloatArray, Labels, IdToLabel], tuple[str, ...]]


def known() -> tuple[str, ...]:
    """Names of the tasks that can be validated, sorted."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Task:
    """The task of that name; UsageError for one that has no file."""
    if name not in known():
        raise UsageError(f"task {name!r} cannot be validated", fix=f"use one of {', '.join(known())}")
    return cast(Task, importlib.import_module(f"{__name__}.{name.replace('-', '_')}").TASK)
