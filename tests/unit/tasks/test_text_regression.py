"""Correlations against scipy's figures and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from qonnx_pipe import tasks
from qonnx_pipe.core.correlation import pearson, spearman
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import ModelError

RATE = tasks.find("text-regression")


def texts(values: np.ndarray) -> tuple[str, ...]:
    return tuple(repr(float(one)) for one in values)


def test_the_same_figures_as_scipy() -> None:
    """Made with scipy 1.17.1, `spearmanr` and `pearsonr`, of these very numbers; a quarter of them are ties."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 12, 50) / 2
    y = x + rng.normal(size=50).round(1)
    assert spearman(x, y) == pytest.approx(0.8346389846408404, rel=1e-12)
    assert pearson(x, y) == pytest.approx(0.832652587545884, rel=1e-12)
    metric = RATE.measure.score(texts(y), texts(x))
    assert (metric.name, metric.unit, metric.n) == ("spearman", "correlation", 50)
    assert metric.value == pytest.approx(0.8346389846408404)
    assert metric.also == {"pearson": pytest.approx(0.832652587545884)}
    assert 0.7 < metric.interval[0] < metric.value < metric.interval[1] < 0.92


def test_ranks_of_ties_by_hand() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5."""
    assert spearman(np.array([1.0, 2, 2, 9]), np.array([0.0, 1, 2, 3])) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert spearman(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])) == 0.0


def test_the_drop_is_paired() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=80)
    close, worse = gold + 0.5 * rng.normal(size=80), rng.normal(size=80)
    drop, classes = RATE.measure.drop(texts(close), texts(worse), texts(gold))
    assert classes == ()
    assert drop.interval[0] > 0.3
    none, _ = RATE.measure.drop(texts(close), texts(close), texts(gold))
    assert (none.value, none.interval) == (0.0, (0.0, 0.0))


def test_examples_without_a_number_do_not_count() -> None:
    assert RATE.measure.score(("1.0", "2.0", "-3.0"), ("1", None, "0")).n == 2


def test_a_head_of_several_classes_is_refused() -> None:
    with pytest.raises(ModelError, match="one number an example") as failure:
        RATE.scored({"logits": np.zeros((2, 3))}, Batch({}, (None, None)))
    assert "text-classification" in failure.value.fix
    with pytest.raises(ModelError, match="tells no classes apart") as failure:
        tasks.find("text-classification").scored({"logits": np.zeros((2, 1))}, Batch({}, (None, None)))
    assert "text-regression" in failure.value.fix
