"""Sensitivity as a value: rank correlations as scipy has them, Ω by hand, and JSON there and back."""

import json

import numpy as np
import pytest
from scipy import stats

from qonnx_pipe.core.sensitivity import Curvature, Eigenvalue, spearman
from tests.zoo.sensitivities import invented


@pytest.mark.parametrize("seed", range(4))
def test_rank_correlation_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 6, 30), rng.normal(size=30)  # ties on one side
    expected = stats.spearmanr(first, second).statistic
    assert spearman(first, second) == pytest.approx(expected, abs=1e-12)


def test_rank_correlation_of_constants_is_zero() -> None:
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.0


def test_omega_is_mean_and_spread() -> None:
    runs = tuple(Eigenvalue(value, 5, 0.1, converged=True) for value in (-1.0, 2.0, 5.0))
    block = Curvature("layer 0", runs)
    assert block.omega == pytest.approx(2.0 + 6.0**0.5)
    assert block.negative
    assert not Curvature("layer 0", runs[1:]).negative


def test_there_and_back() -> None:
    found = invented()
    written = json.loads(json.dumps(found.to_json()))
    assert type(found).from_json(written) == found
    assert written["layers"][0]["omega"] == found.layers[0].omega
    assert set(written["correlations"]) == {"taylor"}


def test_correlations_are_taken_over_what_was_measured() -> None:
    """Costs of the invented matrices rise with the measured change."""
    assert invented().correlations == {"taylor": {2: pytest.approx(1.0), 3: pytest.approx(1.0)}}
