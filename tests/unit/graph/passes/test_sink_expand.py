"""Expand behind elementwise operators, and where it stays."""

import numpy as np
import pytest

from qonnx_pipe.graph.passes.sink_expand import SinkExpand
from tests.unit.graph.passes.contract import check_leaves, check_rewrites, operators, parse

HEAD = "g (float[B,1,1,S] x, int64[4] shape) => (float[B,1,S,S] y) "
CONSTANTS = {"one": np.float32(1), "ones": np.ones(1, np.float32), "wide": np.ones((1, 1, 3, 3), np.float32)}
FEED = {"x": np.array([[[[1, 1, 0]]], [[[1, 0, 0]]]], np.float32), "shape": np.array([2, 1, 3, 3], np.int64)}


def mask(body: str):
    return parse(HEAD + "{ " + body + " }", **CONSTANTS)


def names(model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "body",
    [
        "a = Expand(x, shape) y = Sub(one, a)",
        "a = Expand(x, shape) y = Mul(a, ones)",
        "a = Expand(x, shape) b = Sub(one, a) c = Cast <to = 9> (b) y = Where(c, one, b)",
        "a = Expand(x, shape) b = Expand(x, shape) y = Add(a, b)",
    ],
)
def test_it_sinks_to_the_end(body: str) -> None:
    model = check_rewrites(SinkExpand(), mask(body), FEED)
    assert names(model)[-1] == "Expand"
    assert operators(model)["Expand"] == 1


@pytest.mark.parametrize(
    "body",
    [
        "a = Expand(x, shape) y = Add(a, wide)",
        "a = Expand(x, shape) y = Add(a, x)",
        "a = Expand(x, shape) y = Softmax <axis = -1> (a)",
        "y = Expand(x, shape)",
    ],
)
def test_it_stays(body: str) -> None:
    check_leaves(SinkExpand(), mask(body))
