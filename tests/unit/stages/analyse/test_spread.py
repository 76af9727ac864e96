"""Spread, attention and scores against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.scores import classes
from qonnx_pipe.stages.analyse.attention import Heads
from qonnx_pipe.stages.analyse.score import Baseline, score
from qonnx_pipe.stages.analyse.spread import Spread
from qonnx_pipe.stages.analyse.tokens import Tokens


def text(peak: float = 0.0, token: int = 0, dimension: int = 3) -> np.ndarray:
    """20 tokens of 50 dimensions, ±1 in turn, but for one value."""
    values = np.tile(np.array([1, -1], np.float32), (20, 25))
    values[token, dimension] += np.float32(peak)
    return values


def test_an_outlier_is_found_with_its_token_and_in_its_texts() -> None:
    spread = Spread.empty(50)
    keys = np.arange(100, 120)
    spread.add(text(), keys)
    spread.add(text(40.0, token=7), keys)
    spread.add(text(-60.0, token=7), keys)
    spread.add(text(50.0, token=9), keys)
    assert np.flatnonzero(spread.values).tolist() == [3]
    assert (spread.values[3], spread.texts[3], spread.seen) == (3, 3, 4)
    assert dict(spread.carriers) == {(3, 107): 2, (3, 109): 1}
    assert spread.ranges[3] == 110.0  # from −1 − 60 to −1 + 50
    assert spread.ratios[3] == pytest.approx(50)  # the median is 0: over the mean, 110 / 50


def test_six_sigma_is_of_the_text_itself() -> None:
    """One value v among 999 of ±1: σ² = (999 + v²)/1000 − (v/1000)², so v > 6σ from about 6.1 on."""
    for peak, found in ((5.0, 0), (9.0, 1)):
        spread = Spread.empty(50)
        spread.add(text(peak, dimension=4), np.arange(20))  # 1 + peak
        value = 1.0 + peak
        sigma = np.sqrt((999 + value**2) / 1000 - ((value - 1) / 1000) ** 2)
        assert (value > 6 * sigma) == bool(found)
        assert int(spread.values.sum()) == found


def test_the_order_of_texts_does_not_count() -> None:
    rng = np.random.default_rng(0)
    texts = [rng.standard_t(2, (9, 12)).astype(np.float32) for _ in range(6)]
    spreads = [Spread.empty(12), Spread.empty(12)]
    for values in texts:
        spreads[0].add(values, np.arange(9))
    for values in reversed(texts):
        spreads[1].add(values, np.arange(9))
    first, second = spreads
    assert first.carriers == second.carriers
    assert first.carriers.total() > 0
    np.testing.assert_array_equal(first.ranges, second.ranges)


@pytest.mark.parametrize("merged", [False, True])
def test_attention_to_separators_leaves_padding_out(merged: bool) -> None:
    """Two texts of 3 and 2 tokens: [start, word, separator] and [start, separator, padding]."""
    ids = np.array([[1, 5, 2], [1, 2, 0]])
    batch = Batch({"input_ids": ids, "attention_mask": np.array([[1, 1, 1], [1, 1, 0]])}, (None, None))
    shares = np.zeros((2, 1, 3, 3), np.float32)
    shares[0, 0] = [[0.2, 0.3, 0.5], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]
    shares[1, 0] = [[0.6, 0.4, 0.0], [0.5, 0.5, 0.0], [9.0, 9.0, 9.0]]
    heads = Heads()
    heads.add(shares.reshape(2, 3, 3) if merged else shares, batch, Tokens(1, 2))
    found = heads.result(0)
    assert found.separator == pytest.approx([(0.5 + 0.7 + 0.0 + 0.4 + 0.5) / 5])
    assert found.start == pytest.approx([(0.2 + 0.1 + 0.0 + 0.6 + 0.5) / 5])


def test_a_score_by_hand() -> None:
    exact = np.array([[3.0, 0.0], [0.0, 4.0], [3.0, 4.0], [5.0, 0.0]], np.float32)
    baseline = Baseline(exact, ("a", "b", "b", "a"), ("a", "b", "a", None), classes("accuracy"))
    found = score(baseline, exact + 0.5, ("a", "a", "b", "a"), beside=exact + 1.0)
    assert found.sqnr_db == pytest.approx(10 * np.log10(75 / (8 * 0.25)))
    assert found.gain_db == pytest.approx(10 * np.log10(4))
    assert found.gain_interval == pytest.approx((10 * np.log10(4),) * 2)  # every resample has four times the noise
    assert found.agreement == 0.75
    assert (baseline.accuracy, found.accuracy) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found.accuracy_drop == pytest.approx(1 / 3)
    half = 1.959963984540054 * (2 - 1 / 5) ** 0.5 / 5  # Agresti and Min: one of three lost
    assert found.accuracy_drop_interval == pytest.approx((1 / 5 - half, 1 / 5 + half))
    assert found.sqnr_interval[0] < found.sqnr_db < found.sqnr_interval[1]


def test_no_noise_and_no_labels_are_plain_values() -> None:
    exact = np.ones((3, 2), np.float32)
    found = score(Baseline(exact, ("a",) * 3, (None,) * 3, classes("accuracy")), exact, ("a",) * 3)
    assert found.sqnr_db == 200.0
    assert found.sqnr_interval == (200.0, 200.0)
    assert found.accuracy is found.accuracy_drop is found.accuracy_drop_interval is None
