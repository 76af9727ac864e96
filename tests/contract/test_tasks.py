"""What every task must do, whatever it is."""

import numpy as np
import pytest

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch

N, SEQUENCE, WIDTH = 6, 4, 3
NAMES = {str(i): f"class{i}" for i in range(WIDTH)}
RNG = np.random.default_rng(0)
OUTPUTS = {"last_hidden_state": RNG.normal(size=(N, SEQUENCE, WIDTH)), "logits": RNG.normal(size=(N, WIDTH))}
BATCH = Batch({"attention_mask": np.ones((N, SEQUENCE), np.int64)}, (None,) * N)

every_task = pytest.mark.parametrize("task", [tasks.find(name) for name in tasks.known()], ids=tasks.known())


@every_task
def test_it_knows_its_name(task):
    assert tasks.find(task.name) is task
    assert task.metric


@every_task
def test_rows_are_float32_one_an_example_whatever_the_batches(task):
    rows = task.scored(OUTPUTS, BATCH)
    assert rows.dtype == np.float32
    assert rows.shape == (N, WIDTH)
    halves = []
    for part in (slice(0, 2), slice(2, N)):
        batch = Batch({name: values[part] for name, values in BATCH.inputs.items()}, BATCH.labels[part])
        halves.append(task.scored({name: values[part] for name, values in OUTPUTS.items()}, batch))
    np.testing.assert_allclose(np.concatenate(halves), rows, rtol=1e-6)


@every_task
def test_every_example_gets_a_class_with_labels_and_without(task):
    rows = task.scored(OUTPUTS, BATCH)
    labels = task.labels(tuple(NAMES[str(i % WIDTH)] for i in range(N)), NAMES)
    for given in (labels, (None,) * N):
        classes = task.predicted(rows, given, NAMES)
        assert len(classes) == N
        assert all(isinstance(name, str) and name for name in classes)
    assert set(task.predicted(rows, labels, NAMES)) <= set(NAMES.values())


@every_task
def test_predictions_do_not_depend_on_the_rows_scale(task):
    rows = task.scored(OUTPUTS, BATCH)
    assert task.predicted(rows * 4, (None,) * N, NAMES) == task.predicted(rows, (None,) * N, NAMES)
