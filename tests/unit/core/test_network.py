"""A tap stands between a tensor and the nodes that are named, and nowhere else."""

import numpy as np

from qonnx_pipe.core.network import Network, Node, tapped


def node(name: str, *inputs: str) -> Node:
    return Node(name, "MatMul", inputs, (f"{name}.out",), {})


NETWORK = Network(
    ("x",),
    ("q.out", "k.out", "sum.out"),
    (node("q", "x", "w"), node("k", "x", "w"), node("sum", "x", "q.out")),
    {"w": np.ones((2, 2), np.float32)},
)


def test_nodes_of_one_tag_share_an_identity() -> None:
    found = tapped(NETWORK, {"q": "site", "k": "site"})
    assert [(one.operator, one.inputs, one.outputs) for one in found.nodes] == [
        ("Identity", ("x",), ("site@x",)),
        ("MatMul", ("site@x", "w"), ("q.out",)),
        ("MatMul", ("site@x", "w"), ("k.out",)),
        ("MatMul", ("x", "q.out"), ("sum.out",)),
    ]
    assert (found.inputs, found.outputs, found.initializers) == (NETWORK.inputs, NETWORK.outputs, NETWORK.initializers)


def test_each_tag_has_its_own() -> None:
    found = tapped(NETWORK, {"q": "a", "sum": "b"})
    assert [one.inputs[0] for one in found.nodes] == ["x", "a@x", "x", "x", "b@x"]


def test_without_taps_nothing_changes() -> None:
    assert tapped(NETWORK, {}).nodes == NETWORK.nodes
