"""Network: a graph of operators as plain values, so that a room without onnx can compute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from qonnx_pipe.core.examples import Array

Attribute: TypeAlias = "int | float | str | tuple[int, ...] | tuple[float, ...] | Array | Network"
"""A tensor is an array, a sub-graph a Network; a type of elements is its ONNX number."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operator of the ONNX standard; an optional input that is left out is called ""."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in an order in which they can run, and the constants that they read.

    Every name stands for one tensor. A sub-graph (a branch of If) also reads names of the network around it.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    initializers: Mapping[str, Array]


def tapped(network: Network, taps: Mapping[str, str]) -> Network:
    """`network` with an Identity in front of the first input of some nodes: those named in `taps`, node → tag.

    What a node read as `x` it reads as `tag@x` then; nodes of one tag that read the same tensor share its Identity.
    """
    nodes, made = list[Node](), set[str]()
    for node in network.nodes:
        if node.name not in taps:
            nodes.append(node)
            continue
        read, *others = node.inputs
        name = f"{taps[node.name]}@{read}"
        if name not in made:
            nodes.append(Node(name, "Identity", (read,), (name,), {}))
            made.add(name)
        nodes.append(replace(node, inputs=(name, *others)))
    return replace(network, nodes=tuple(nodes))
