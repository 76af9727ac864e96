"""Heads: what a model learns for each form of labels: its class in transformers, a batch's targets, and the losses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qonnx_pipe.core.examples import Array, Batch, Form, Reading
from qonnx_pipe.core.targets import IGNORED

if TYPE_CHECKING:
    import torch

AUTO_CLASSES: Mapping[Form, str] = {
    "class": "AutoModelForSequenceClassification",
    "tags": "AutoModelForTokenClassification",
    "number": "AutoModelForSequenceClassification",
    "answers": "AutoModelForQuestionAnswering",
}


def settings(form: Form, classes: Sequence[str]) -> dict[str, Any]:
    """What the configuration says of the head."""
    if form == "answers":
        return {}
    if form == "number":
        return {"num_labels": 1, "problem_type": "regression"}
    named = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    kind = {"problem_type": "single_label_classification"} if form == "class" else {}
    return {"num_labels": len(classes), **named, **kind}


def targets(batch: Batch, form: Form, classes: Sequence[str]) -> Array:
    """What the outputs of a labelled batch should be.

    class: ids [batch]. tags: ids [batch, sequence], IGNORED where no word begins. number: float32 [batch]. answers:
    first and last token [batch, 2], both the first of the row where the answer stands in another part of the text.
    """
    labels = [str(label) for label in batch.labels]
    if form == "number":
        return np.array([float(label) for label in labels], np.float32)
    ids = {name: index for index, name in enumerate(classes)}
    if form == "class":
        return np.array([ids[label] for label in labels], np.int64)
    if form == "answers":
        return np.array([_span(*pair) for pair in zip(batch.readings, labels, strict=True)], np.int64)
    found = np.full(batch.inputs["input_ids"].shape, IGNORED, np.int64)
    for row, (reading, label) in enumerate(zip(batch.readings, labels, strict=True)):
        tags = label.split(" ")
        for position, begin in zip(reading.positions.tolist(), reading.spans[:, 0].tolist(), strict=True):
            found[row, position] = ids[tags[reading.text.count(" ", 0, begin)]]
    return found


def _span(reading: Reading, label: str) -> tuple[int, int]:
    """First and last token of the first right answer."""
    answer, start = json.loads(label)[0]
    begins, ends = reading.spans[:, 0], reading.spans[:, 1]
    inside = reading.positions[(ends > start) & (begins < start + len(answer))]
    whole = len(begins) and begins[0] <= start and ends[-1] >= start + len(answer)
    return (int(inside[0]), int(inside[-1])) if whole and len(inside) else (0, 0)


def loss(outputs: Any, wanted: torch.Tensor, form: Form) -> torch.Tensor:
    """Mean loss over a batch: cross-entropy in nats, or the squared error of numbers."""
    mean: torch.Tensor = _LOSSES[form](outputs, wanted)
    return mean


def divergence(
    mine: Mapping[str, torch.Tensor],
    taught: Mapping[str, torch.Tensor],
    form: Form,
    temperature: float,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """How far outputs are from a teacher's, mean over the examples, or tokens for tags; numbers: squared error.

    Kullback-Leibler divergence (nats) of softened probabilities, times T² (Hinton et al. 2015). `mask` [batch,
    sequence] is 0 at padding, which tags leave out.
    """
    import torch

    if form == "number":
        return torch.nn.functional.mse_loss(mine["logits"], taught["logits"])
    parts = []
    for name in ("start_logits", "end_logits") if form == "answers" else ("logits",):
        first, second = (torch.log_softmax(found[name] / temperature, -1) for found in (taught, mine))
        each = (first.exp() * (first - second)).sum(-1)
        parts.append(each[mask.bool()].mean() if form == "tags" and mask is not None else each.mean())
    return temperature**2 * torch.stack(parts).mean()


def _of_classes(outputs: Any, wanted: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.cross_entropy(outputs.logits, wanted)


def _of_tags(outputs: Any, wanted: torch.Tensor) -> torch.Tensor:
    import torch

    logits = outputs.logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)


def _of_numbers(outputs: Any, wanted: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.mse_loss(outputs.logits[:, 0], wanted)


def _of_answers(outputs: Any, wanted: torch.Tensor) -> torch.Tensor:
    import torch

    ends = zip((outputs.start_logits, outputs.end_logits), wanted.unbind(1), strict=True)
    first, last = (torch.nn.functional.cross_entropy(*pair) for pair in ends)
    return (first + last) / 2


_LOSSES: Mapping[Form, Callable[[Any, Any], Any]] = {
    "class": _of_classes,
    "tags": _of_tags,
    "number": _of_numbers,
    "answers": _of_answers,
}
