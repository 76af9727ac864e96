"""The learning rate, and which epoch is the best."""

import numpy as np

from qonnx_pipe.recipe.training import QAT, Loss, Training
from qonnx_pipe.source.training import Epoch, _rate, best


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
