"""The learning rate, and which epoch is the best."""

import numpy as np

from qonnx_pipe.source.training import Epoch, _rate


def test_rate_rises_and_falls() -> None:
    rates = [_rate(step, 100, 0.1) for step in range(100)]
    assert np.argmax(rates) == 10
    assert rates[10] == 1.0
    assert np.all(np.diff(rates[:11]) > 0)
    np.testing.assert_allclose(np.diff(rates[10:]), -1 / 90)
    assert rates[0] > 0
    assert [_rate(step, 2, 0.0) for step in range(2)] == [1.0, 0.5]


def test_the_best_epoch() -> None:
    assert Epoch(0.5, 0.8).beats([])
    assert Epoch(0.5, 0.8, 0.4).beats([Epoch(0.1, 0.7, 0.1), Epoch(0.1, 0.8, 0.5)])
    assert not Epoch(0.1, 0.8, 0.5).beats([Epoch(0.5, 0.8, 0.4)])
    assert not Epoch(0.1, 0.8).beats([Epoch(0.5, 0.8)]), "the earlier of equal ones"
    assert Epoch(0.5, None, 0.3).beats([Epoch(0.1, None, 0.4)])
