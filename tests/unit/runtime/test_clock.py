"""The statistics of paired rounds, on a simulated machine whose truth is known."""

import numpy as np
import pytest

from qonnx_pipe.runtime.clock import quantiles_ms, speedup


def simulate(base: float, *, seed: int, load: np.ndarray, runs: int = 8) -> list[list[float]]:
    """Rounds of `runs` times: `base` seconds, times the machine's load in that round, times 3 % noise."""
    rng = np.random.default_rng(seed)
    return [list(base * factor * rng.lognormal(0, 0.03, runs)) for factor in load]


LOAD = np.random.default_rng(9).uniform(1, 4, 12)
"""The machine is up to four times slower in some rounds: unpaired medians would drown in it."""


def test_equal_models_have_an_interval_around_one():
    ratio, (low, high) = speedup(simulate(0.01, seed=1, load=LOAD), simulate(0.01, seed=2, load=LOAD))
    assert low <= 1 <= high
    assert high - low < 0.1
    assert low <= ratio <= high


def test_a_slower_model_has_an_interval_below_one():
    ratio, (_, high) = speedup(simulate(0.01, seed=1, load=LOAD), simulate(0.012, seed=2, load=LOAD))
    assert high < 1
    assert ratio == pytest.approx(1 / 1.2, rel=0.03)  # the noise of a round's median, halved by twelve rounds


def test_the_interval_covers_the_truth_in_most_trials():
    hits = 0
    for seed in range(100):
        fast, slow = simulate(0.01, seed=2 * seed, load=LOAD), simulate(0.025, seed=2 * seed + 1, load=LOAD)
        _, (low, high) = speedup(slow, fast, seed=seed)
        hits += low <= 2.5 <= high
    assert hits >= 88  # 95 expected; a median of 12 rounds is discrete, and 3 binomial deviations are 6.5


def test_a_model_against_itself_is_exactly_one():
    rounds = simulate(0.01, seed=1, load=LOAD)
    assert speedup(rounds, rounds) == (1.0, (1.0, 1.0))


def test_the_same_times_give_the_same_interval():
    pair = simulate(0.02, seed=1, load=LOAD), simulate(0.01, seed=2, load=LOAD)
    assert speedup(*pair) == speedup(*pair)


def test_quantiles_are_in_milliseconds_over_all_runs():
    p50, p95 = quantiles_ms([[0.001, 0.002, 0.003], [0.004, 0.005]])
    assert (p50, p95) == (pytest.approx(3.0), pytest.approx(4.8))


@pytest.mark.parametrize(("a", "b"), [([], []), ([[0.1]], [[0.1], [0.1]])])
def test_rounds_that_do_not_pair_are_refused(a, b):
    with pytest.raises(ValueError, match="cannot be paired"):
        speedup(a, b)
