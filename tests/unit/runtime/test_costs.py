"""Measured costs: relative to the first model, in the worker's own process."""

import numpy as np
import pytest

from qonnx_pipe.errors import ModelError
from qonnx_pipe.runtime.costs import relative_times
from tests.zoo import graphs


def test_more_work_takes_more_time(tmp_path) -> None:
    one = graphs.split_matmul(tmp_path / "a.onnx", 1).read_bytes()
    many = graphs.split_matmul(tmp_path / "b.onnx", 16).read_bytes()
    x = np.random.default_rng(0).normal(0, 1, (8, 64, graphs.WIDTH)).astype(np.float32)
    found = relative_times({"one": one, "many": many}, {"x": x}, rounds=2)
    assert list(found) == ["one", "many"]
    assert found["one"] == 1.0
    assert found["many"] > 1.5  # sixteen MatMuls and quantizers, each a sixteenth of the work: measured 8


def test_a_broken_model_is_named() -> None:
    with pytest.raises(ModelError):
        relative_times({"broken": b"no model"}, {"x": np.zeros((1, 1, 1), np.float32)}, rounds=1)
