"""QAT: a float model, a plan and labelled texts → float weights and encodings that were trained for each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from qonnx_pipe import tasks
from qonnx_pipe.core.artifact import TRAINED, TRAINED_ROWS
from qonnx_pipe.core.encodings import Encodings
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.granularity import PerEmbedding, PerEmbeddingGroup
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.data.texts import Texts
from qonnx_pipe.errors import DataError, NumericsError, UsageError
from qonnx_pipe.graph.lowerings.activation import MOST_PIECES
from qonnx_pipe.graph.network import read_network, write_weights
from qonnx_pipe.graph.summary import id2label
from qonnx_pipe.recipe.training import QAT
from qonnx_pipe.source.loading import quiet
from qonnx_pipe.tasks import Task

METRICS = "qat.json"
"""How the training went, and the encodings as in `encodings.json`."""

RESHAPED = ("expand", "auto")
"""Forms that may change the number of a weight's rows after calibration."""


def qat_stage(
    model: Path,
    start: Path,
    first: Encodings,
    plan: QuantPlan,
    folder: Path,
    *,
    teacher: Path,
    train: Texts,
    validation: Texts,
    task: str,
    settings: QAT,
    workdir: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Write `trained.onnx` (the folded float graph with trained weights), `qat.json` and `trained_rows.npy`.

    They go into `folder`; the rows are the tensor that the task compares, [m, k] of float32, for `validation`.

    `model` is the exported float file, its tokenizer and `config.json` beside it; `teacher` computes the same in the
    form that will be quantized; `start` is the teacher with the biases, and `first` the encodings, that the training
    starts from. The epoch that is best on `validation`, by the task's metric, or by the loss where no labels count, is
    kept, and its number returned; or 0, the start, where no epoch is better. `workdir` outlives an interruption: the
    same call goes on after the last whole epoch. Requires `check_trainable`. Raises DataError for classes that the
    model does not have, ModelError for a graph that torch cannot compute, NumericsError for a loss that is no number.
    """
    found, classes = tasks.find(task), _classes(model)
    with quiet():
        from qonnx_pipe.source.qat import student
        from qonnx_pipe.source.training import Epoch, best, fit

    networks, encodings = (read_network(start), read_network(teacher)), {**first.activations, **first.weights}
    learner = student(*networks, plan, encodings, form=found.form, classes=classes, settings=settings, where=str(model))
    tokenizer, names = model.parent / "tokenizer.json", learner.teacher.network.inputs
    held_out = _named(validation.batches(tokenizer, names), found, classes)

    def epoch(number: int) -> list[Batch]:
        return _named(train.epoch(tokenizer, names, settings.seed + number), found, classes)

    def judge() -> tuple[float | None, float]:
        score, loss = tasks.judged(found, learner.outputs(held_out), held_out, classes), learner.mean_loss(held_out)
        _check_finite(loss, "the loss", model)
        return None if score is None else score.value, loss

    untrained = Epoch(math.nan, *judge())
    epochs = fit(learner, epoch, judge, settings, workdir=workdir, progress=progress, start=untrained)
    write_weights(start, learner.module.weights(), folder / TRAINED)
    chosen, trained = best((untrained, *epochs), settings.chosen_by), learner.module.encodings()
    activations = {site: trained.pop(site) for site in first.activations}
    score = tasks.judged(found, learner.outputs(held_out), held_out, classes)
    rows = tasks.rows(found, learner.outputs(held_out, exact=True), held_out)
    _check_finite(float(np.abs(rows).sum()), "the sum of the outputs", model)
    np.save(folder / TRAINED_ROWS, rows)
    facts = {
        "examples": {"train": len(train.examples), "validation": len(validation.examples)},
        "untrained": {"accuracy": untrained.accuracy, "held_out_loss": untrained.held_out_loss},
        "epochs": [asdict(one) for one in epochs],
        "chosen": {"epoch": chosen, "by": settings.chosen_by},
        "settings": settings.model_dump(),
        "accuracy": {"validation": score and asdict(score)},
        "encodings": replace(first, activations=activations, weights=trained).to_json(),
    }
    write_json(folder / METRICS, {"version": 1, **facts})
    return chosen


def read_encodings(path: Path) -> Encodings:
    """Trained encodings; DataError when the file holds none."""
    try:
        return Encodings.from_json(json.loads(path.read_bytes())["encodings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "train again: `qpipe run` with --from qat"
        raise DataError("no trained encodings, or damaged ones", where=str(path), fix=fix) from error


def check_trainable(plan: QuantPlan, texts: Sequence[Texts], settings: QAT) -> None:
    """Raise UsageError for a quantizer that cannot be trained where it is, DataError for texts without labels."""
    _check_texts(texts, settings)
    for entry in plan.quantized:
        assert entry.spec is not None
        site, groups = entry.site, entry.spec.granularity
        if entry.lowering in RESHAPED or _scales_rows(entry):
            what = f"{groups} as {entry.lowering} changes the weights' rows, which qat is to train"
            fix = f"use one scale, or at most {MOST_PIECES} groups with lowering: split"
            raise UsageError(what, where=site.id, fix=fix)
        if settings.ranges == "current" and site.is_weight and entry.spec.range != "minmax":
            what = "ranges: current are the extremes of each step, not of least squared error"
            raise UsageError(what, where=site.id, fix="use range: minmax, or ranges: learned")


def _scales_rows(entry: PlanEntry) -> bool:
    """Whether an activation has more groups than can be pieces of their own: its readers' rows take its scales."""
    as_codes = entry.site.feeds and entry.lowering not in ("fold", "reference")
    groups = entry.spec.granularity if entry.spec and as_codes else None
    if not isinstance(groups, PerEmbeddingGroup):
        return isinstance(groups, PerEmbedding)
    return (groups.groups if isinstance(groups.groups, int) else len(groups.groups)) > MOST_PIECES


def _check_texts(texts: Sequence[Texts], settings: QAT) -> None:
    """Raise DataError for examples that cannot be learned from."""
    for examples in (one.examples for one in texts):
        if examples.arrays is not None:
            fix = "give a table, or .txt documents by class"
            raise DataError("training needs texts", where=examples.source, fix=fix)
        if settings.loss.labels and None in examples.labels:
            what = f"{examples.labels.count(None)} of {len(examples)} texts have no label"
            fix = "label them, name label_column, or learn from the float model alone: quantize.qat.loss.labels: 0"
            raise DataError(what, where=examples.source, fix=fix)


def _check_finite(value: float, what: str, model: Path) -> None:
    """Raise NumericsError for what held-out examples gave, where it is no number."""
    if not math.isfinite(value):
        fix = "lower quantize.qat.learning_rate; or look at data.validation"
        raise NumericsError(f"{what} on the held-out examples is {value}", where=str(model), fix=fix)


def _named(batches: Sequence[Batch], task: Task, classes: Sequence[str]) -> list[Batch]:
    """The batches with classes in the model's words; DataError for those that it does not have."""
    if task.form != "class":
        return list(batches)
    names = {str(index): name for index, name in enumerate(classes)}
    return [replace(batch, labels=task.labels([batch], names)) for batch in batches]


def _classes(model: Path) -> tuple[str, ...]:
    """Names of the classes by their ids; none for a head without classes."""
    names = id2label(model)
    return tuple(names[key] for key in sorted(names, key=int))
