"""Batches to learn from hold texts of like lengths, in another order each epoch."""

import numpy as np

from qonnx_pipe.data.texts import bucketed


def test_bucketed_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 1003).tolist()
    order = bucketed(lengths, 16, seed=3)
    assert sorted(order) == list(range(1003))
    assert order == bucketed(lengths, 16, seed=3) != bucketed(lengths, 16, seed=4)
    spread = [np.ptp([lengths[index] for index in order[start : start + 16]]) for start in range(0, 1003, 16)]
    assert np.mean(spread) < 40, "a shuffled batch spans 175 of 200 on average"
    assert bucketed([], 4, seed=0) == []
