"""The learning rate, the precision of steps, and which epoch is the best."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.recipe.training import QAT, Loss, Precision, Training
from qonnx_pipe.source.training import Epoch, _rate, best, decayed, fit


def test_rate_rises_and_falls() -> None:
    rates = [_rate(step, 100, 0.1) for step in range(100)]
    assert np.argmax(rates) == 10
    assert rates[10] == 1.0
    assert np.all(np.diff(rates[:11]) > 0)
    np.testing.assert_allclose(np.diff(rates[10:]), -1 / 90)
    assert rates[0] > 0
    assert [_rate(step, 2, 0.0) for step in range(2)] == [1.0, 0.5]


def test_the_best_epoch() -> None:
    assert best([Epoch(0.5, 0.8)], "accuracy") == 0
    by_hand = [Epoch(0.1, 0.7, 0.1), Epoch(0.1, 0.8, 0.5), Epoch(0.5, 0.8, 0.4), Epoch(0.2, 0.75, 0.1)]
    assert best(by_hand, "accuracy") == 2, "of equal ones the one with the lower loss"
    assert best(by_hand, "held_out_loss") == 3, "of equal ones the one with the higher accuracy"
    assert best([Epoch(0.5, 0.8), Epoch(0.1, 0.8)], "accuracy") == 0, "the earlier of equal ones"
    unlabelled = [Epoch(0.1, None, 0.4), Epoch(0.5, None, 0.3), Epoch(0.5, None, 0.3)]
    assert [best(unlabelled, by) for by in ("accuracy", "held_out_loss")] == [1, 1]
    assert best([Epoch(0.1, 0.9, float("nan")), Epoch(0.1, 0.5, 3.0)], "held_out_loss") == 1, "no number is no loss"


def test_the_teacher_alone_is_asked_for_its_distance() -> None:
    assert Training().chosen_by == QAT().chosen_by == "accuracy"
    assert QAT(loss=Loss(labels=0.0)).chosen_by == "held_out_loss"


@dataclass(frozen=True)
class Watched:
    """One weight that learns to be 0, and what a step's matrix products are computed from."""

    module: torch.nn.Linear
    seen: list[str]
    device: str = "cpu"
    where: str = "a test"
    key: str = "train"

    def groups(self, settings: Training) -> list[dict[str, Any]]:
        return decayed(list(self.module.parameters()), settings.weight_decay)

    def loss(self, batch: Batch) -> torch.Tensor:
        self.seen.append(torch.get_float32_matmul_precision())
        return self.module(torch.ones(1, 1)).square().sum()


@pytest.mark.parametrize(("precision", "seen"), [("float32", "highest"), ("bfloat16", "medium")])
def test_steps_are_as_precise_as_asked_and_judged_in_float32(precision: Precision, seen: str, tmp_path: Path) -> None:
    batch = Batch(inputs={"input_ids": np.ones((1, 1), np.int64)}, labels=("a",))
    learner, judged = Watched(torch.nn.Linear(1, 1), []), list[str]()

    def judge() -> tuple[float | None, float | None]:
        judged.append(torch.get_float32_matmul_precision())
        return 1.0, None

    settings = Training(epochs=1, precision=precision)
    fit(learner, lambda _: [batch, batch], judge, settings, workdir=tmp_path, progress=lambda _: None)
    assert (learner.seen, judged) == ([seen, seen], ["highest"])
