"""Feature extraction: mean-pooled, normalised embeddings, judged by the class of the nearest other example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.scores import classes
from qonnx_pipe.errors import ModelError
from qonnx_pipe.tasks import IdToLabel, Labels, Outputs, Task

BLOCK = 1024
"""Examples whose similarities to all others are held at once: memory grows with n, not with n²."""


def scored(outputs: Outputs, batch: Batch) -> FloatArray:
    """Embeddings [batch, d] of length 1: the mean of [batch, sequence, d] over the tokens that the mask keeps.

    A model that pools by itself gives [batch, d], which is only normalised.
    """
    states = next((values for values in outputs.values() if values.ndim == 3), None)
    pooled = next((values for values in outputs.values() if values.ndim == 2), None)
    if states is None and pooled is None:
        raise ModelError("no output holds embeddings", fix="export the model for the task feature-extraction")
    if states is not None:
        mask = batch.inputs.get("attention_mask", np.ones(states.shape[:2]))[..., None].astype(np.float32)
        pooled = (states.astype(np.float32) * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    assert pooled is not None
    embeddings = pooled.astype(np.float32)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(norms == 0, 1, norms), np.float32)


def labels(batches: Sequence[Batch], _: IdToLabel) -> Labels:
    """The labels as they are: any classes will do."""
    return tuple(label for batch in batches for label in batch.labels)


def answered(rows: FloatArray, _: Sequence[Batch], labels: Labels, __: IdToLabel) -> tuple[str, ...]:
    """Class of the nearest other example by cosine (leave-one-out 1-NN); its index where no example has a label.

    Among labelled data, unlabelled examples are no neighbours. Ties go to the first.
    """
    n = len(rows)
    names = [str(i) for i in range(n)] if all(label is None for label in labels) else labels
    absent = np.array([label is None for label in names])
    nearest = np.empty(n, np.int64)
    for start in range(0, n, BLOCK):
        own = np.arange(start, min(start + BLOCK, n))
        similarity = rows[own] @ rows.T
        similarity[:, absent] = -np.inf
        similarity[np.arange(len(own)), own] = -np.inf
        nearest[own] = similarity.argmax(axis=1)
    return tuple(names[i] or "" for i in nearest)


TASK = Task("feature-extraction", "class", classes("nn_class_accuracy"), scored, labels, answered)
