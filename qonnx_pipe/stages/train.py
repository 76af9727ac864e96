"""Train: a checkpoint and labelled texts → a model fine-tuned for a task: a checkpoint folder and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch, Examples, classes_of
from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.verdict import Metric
from qonnx_pipe.data.texts import Texts
from qonnx_pipe.errors import DataError
from qonnx_pipe.recipe.training import Training
from qonnx_pipe.source import finetune
from qonnx_pipe.source.checkpoint import Checkpoint
from qonnx_pipe.source.training import fit
from qonnx_pipe.tasks import Task

METRICS = "metrics.json"


def train_stage(
    checkpoint: Checkpoint,
    train: Texts,
    validation: Texts,
    test: Texts | None,
    folder: Path,
    *,
    task: str,
    settings: Training,
    workdir: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write weights, configuration, tokenizer and `metrics.json` of the fine-tuned model into `folder`.

    The epoch that is best on `validation` by the task's metric is kept, and `test` is judged with it. `workdir`
    outlives an interruption: the same call goes on after the last whole epoch. Raises DataError for texts that cannot
    be learned from, ModelError for a checkpoint that cannot be trained, NumericsError for a loss that is no number.
    """
    found, classes = tasks.find(task), _classes(train.examples)
    for texts in (validation, *([test] if test else [])):
        _check(texts.examples, classes)
    names = finetune.save_tokenizer(checkpoint, folder)
    learner = finetune.learner(checkpoint, found.form, classes, seed=settings.seed)

    def epoch(number: int) -> list[Batch]:
        return train.epoch(folder, names, settings.seed + number)

    held_out = validation.batches(folder, names)

    def judge() -> tuple[float, None]:
        return _judged(learner, found, held_out).value, None

    epochs = fit(learner, epoch, judge, settings, workdir=workdir, progress=progress)
    judged = {"validation": held_out} | ({"test": test.batches(folder, names)} if test else {})
    metrics = {name: _plain(_judged(learner, found, batches)) for name, batches in judged.items()}
    finetune.save(learner, folder)
    sizes = {"train": len(train.examples), "validation": len(validation.examples)}
    sizes |= {"test": len(test.examples)} if test else {}
    learned = [{"loss": round(one.loss, 6), "accuracy": one.accuracy} for one in epochs]
    write_json(
        folder / METRICS,
        {"version": 1, "classes": classes, "examples": sizes, "epochs": learned, "settings": settings.model_dump()}
        | {"accuracy": metrics},
    )


def _judged(learner: finetune.Learner, task: Task, batches: Sequence[Batch]) -> Metric:
    metric = tasks.judged(task, learner.outputs(batches), batches, learner.classes)
    assert metric is not None, "every example has a label"
    return metric


def _plain(metric: Metric) -> dict[str, object]:
    return {key: value for key, value in asdict(metric).items() if key != "also" or value}


def _classes(examples: Examples) -> tuple[str, ...]:
    """Classes that the examples have, sorted; DataError unless two labels differ, and every text has one."""
    if examples.arrays is not None:
        raise DataError("training needs texts", where=examples.source, fix="give a table, or .txt documents by class")
    if None in examples.labels:
        count = examples.labels.count(None)
        what = f"{count} of {len(examples)} texts have no label"
        raise DataError(what, where=examples.source, fix="name label_column, or label them")
    classes = _named(examples)
    if len(classes or set(examples.labels)) < 2:
        what = f"all texts are of one class, {(classes or examples.labels)[0]!r}"
        raise DataError(what, where=examples.source, fix="give texts of at least two classes")
    return classes


def _check(examples: Examples, classes: Sequence[str]) -> None:
    if examples.arrays is not None or None in examples.labels:
        raise DataError("texts without labels cannot judge a model", where=examples.source, fix="label them")
    if unknown := sorted(set(_named(examples)) - set(classes)):
        what = f"classes that data.train does not have: {', '.join(map(repr, unknown))}"
        raise DataError(what, where=examples.source, fix="give texts of all classes to train on")


def _named(examples: Examples) -> tuple[str, ...]:
    return tuple(sorted({name for label in examples.labels if label for name in classes_of(label, examples.form)}))
