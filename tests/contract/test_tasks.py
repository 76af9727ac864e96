"""What every task must do, whatever it is."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch, Form, Reading

N, SEQUENCE, WIDTH = 6, 4, 3
NAMES = {str(i): f"class{i}" for i in range(WIDTH)}
RNG = np.random.default_rng(0)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]] * 2)
TEXT = "ab cd"


@dataclass(frozen=True)
class Case:
    """Outputs of a model for six examples, the batch that they belong to, and how many rows are compared."""

    outputs: dict[str, np.ndarray]
    batch: Batch
    rows: int


def case(form: Form) -> Case:
    """Labelled examples of two words; those about tokens have [special, word, word, special]."""
    labels = {
        "class": [NAMES[str(i % WIDTH)] for i in range(N)],
        "tags": [f"class{i % WIDTH} class0" for i in range(N)],
        "number": [repr(float(i)) for i in range(N)],
        "answers": [json.dumps([["ab", 0]])] * N,
    }[form]
    readings, rows = (), N
    if form in ("tags", "answers"):
        places = [[i for i in (1, 2) if mask[i]] for mask in MASK]
        spans = [[(3 * (i - 1), 3 * (i - 1) + 2) for i in place] for place in places]
        readings = tuple(Reading(n, TEXT, np.array(places[n]), np.array(spans[n])) for n in range(N))
        rows = sum(map(len, places))
    head = {"number": (N, 1), "tags": (N, SEQUENCE, WIDTH)}.get(form, (N, WIDTH))
    shapes = {"last_hidden_state": (N, SEQUENCE, WIDTH), "logits": head}
    if form == "answers":
        shapes = {"start_logits": (N, SEQUENCE), "end_logits": (N, SEQUENCE)}
    rng = np.random.default_rng(0)
    return Case(
        {k: rng.normal(size=v) for k, v in shapes.items()},
        Batch({"attention_mask": MASK}, tuple(labels), readings),
        rows,
    )


every_task = pytest.mark.parametrize("task", [tasks.find(name) for name in tasks.known()], ids=tasks.known())


def answers(task, found, *, labelled: bool = True, scale: float = 1.0):
    rows = task.scored(found.outputs, found.batch) * np.float32(scale)
    labels = task.labels([found.batch], NAMES) if labelled else (None,) * N
    return task.answered(rows, [found.batch], labels, NAMES), labels


@every_task
def test_it_knows_its_name_and_the_form_of_its_labels(task):
    assert tasks.find(task.name) is task
    assert task.measure.name
    assert tasks.form_of(task.name) == task.form


@every_task
def test_rows_are_float32_whatever_the_batches(task):
    found = case(task.form)
    rows = task.scored(found.outputs, found.batch)
    assert rows.dtype == np.float32
    assert len(rows) == found.rows
    halves = []
    for part in (slice(0, 2), slice(2, N)):
        inputs = {name: values[part] for name, values in found.batch.inputs.items()}
        batch = Batch(inputs, found.batch.labels[part], found.batch.readings[part])
        halves.append(task.scored({name: values[part] for name, values in found.outputs.items()}, batch))
    np.testing.assert_allclose(np.concatenate(halves), rows, rtol=1e-6)


@every_task
def test_padding_changes_nothing(task):
    """Also not where an image has none: its outputs have no sequence."""
    found = case(task.form)
    padded = {name: values.copy() for name, values in found.outputs.items()}
    for values in padded.values():
        if values.shape[:2] == MASK.shape:
            values[MASK == 0] = 99
    np.testing.assert_allclose(task.scored(padded, found.batch), task.scored(found.outputs, found.batch), rtol=1e-6)


@every_task
def test_every_example_gets_an_answer_with_labels_and_without(task):
    found = case(task.form)
    for labelled in (True, False):
        said, labels = answers(task, found, labelled=labelled)
        assert len(said) == len(labels) == N
        assert all(isinstance(one, str) and one for one in said)


@every_task
def test_right_answers_are_perfect_and_lose_nothing(task):
    labels = task.labels([case(task.form).batch], NAMES)
    right = tuple("ab" for _ in labels) if task.form == "answers" else labels
    metric = task.measure.score(right, labels)
    assert metric.name == task.measure.name
    assert metric.value == pytest.approx(1.0)
    assert metric.interval[0] <= metric.value <= metric.interval[1] + 1e-12
    drop, classes = task.measure.drop(right, right, labels)
    assert (drop.name, drop.value) == ("accuracy_drop", pytest.approx(0.0))
    assert {one.drop for one in classes} <= {0.0}
    assert {one.name for one in classes} == set(metric.per_class)
    assert task.measure.agreement(right, right) == 1.0


@every_task
def test_the_drop_is_the_difference_of_the_scores_and_the_most_forgotten_class_comes_first(task):
    found = case(task.form)
    labels = task.labels([found.batch], NAMES)
    first = tuple("ab" for _ in labels) if task.form == "answers" else labels
    second, _ = answers(task, found)
    drop, classes = task.measure.drop(first, second, labels)
    scores = [task.measure.score(one, labels) for one in (first, second)]
    assert drop.value == pytest.approx(scores[0].value - scores[1].value)
    assert drop.interval[0] <= drop.value <= drop.interval[1]
    assert [one.drop for one in classes] == sorted((one.drop for one in classes), reverse=True)
    for one in classes:
        assert one.drop == pytest.approx(scores[0].per_class[one.name] - scores[1].per_class[one.name])
        assert one.n > 0


@every_task
def test_nothing_labelled_is_no_score(task):
    said, none = answers(task, case(task.form), labelled=False)
    assert task.measure.score(said, none) is None
    assert task.measure.drop(said, said, none) is None
    assert 0.0 <= task.measure.agreement(said, said) <= 1.0


@every_task
def test_answers_do_not_depend_on_the_rows_scale(task):
    found = case(task.form)
    once, four = answers(task, found)[0], answers(task, found, scale=4.0)[0]
    if task.form == "number":
        assert [4 * float(one) for one in once] == pytest.approx([float(one) for one in four])
    else:
        assert once == four
