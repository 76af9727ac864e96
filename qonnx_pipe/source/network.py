"""The exported graph as a torch module: every tensor by its own name, every weight a parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from qonnx_pipe.core.examples import Array
from qonnx_pipe.core.network import Network, Node
from qonnx_pipe.errors import ModelError
from qonnx_pipe.source.operators import compute, is_known

Hook = Callable[[Tensor], Tensor]
"""Takes a tensor and gives what every reader gets instead."""

RowsHook = Callable[[Tensor, Tensor], Tensor]
"""Takes a table [rows, d] and the ids (any shape) of the rows that are read; gives these rows, (*ids.shape, d)."""

Environment: TypeAlias = "dict[str, Tensor]"


class GraphModule(torch.nn.Module):
    """A Network that computes in torch, with gradients of all orders.

    Float constants of more than one element are parameters: weights, tables, biases, gains; all others are fixed.
    There is no dropout: an exported graph has none.
    """

    def __init__(self, network: Network) -> None:
        """Raises ModelError for an operator that is not known here, naming its node."""
        super().__init__()
        _check(network)
        self.network = network
        self._trained: dict[str, str] = {}
        self._fixed: dict[str, str] = {}
        for index, (name, array) in enumerate(sorted(network.initializers.items())):
            tensor = torch.from_numpy(np.array(array))  # a copy: the file's own bytes cannot be written
            if tensor.is_floating_point() and tensor.numel() > 1:
                self._trained[name] = f"weight_{index}"
                self.register_parameter(self._trained[name], torch.nn.Parameter(tensor))
            else:
                self._fixed[name] = f"constant_{index}"
                self.register_buffer(self._fixed[name], tensor, persistent=False)
        self._nodes = _needed(network)
        self._last = _last_uses(self._nodes, network.outputs)

    @property
    def weights(self) -> dict[str, torch.nn.Parameter]:
        """The parameters by the initializer's name, which their own names in the module cannot be."""
        return {name: getattr(self, place) for name, place in self._trained.items()}

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        hooks: Mapping[str, Hook] | None = None,
        rows: Mapping[str, RowsHook] | None = None,
        *,
        exact: bool = False,
    ) -> dict[str, Tensor]:
        """Outputs by name, from `inputs` by name.

        `hooks` by name of a tensor or an initializer: every reader, and the graph's output, gets what the hook gives;
        a hook on an initializer runs once. `rows` by name of a table: runs at each Gather along its first axis, instead
        of it. `exact`: sums of products as integer kernels take them, without an error.
        """
        hooks, rows = hooks or {}, rows or {}
        known: Environment = {name: getattr(self, place) for name, place in self._fixed.items()}
        known |= self.weights
        known |= {name: inputs[name] for name in self.network.inputs}
        for name in hooks.keys() & known.keys():
            known[name] = hooks[name](known[name])
        for node, done in zip(self._nodes, self._last, strict=True):
            _run(node, known, hooks, rows, exact=exact)
            for name in done:
                del known[name]
        return {name: known[name] for name in self.network.outputs}

    def arrays(self) -> dict[str, Array]:
        """The parameters' values by the initializer's name."""
        return {name: weight.detach().cpu().numpy().copy() for name, weight in self.weights.items()}


def _run(
    node: Node, known: Environment, hooks: Mapping[str, Hook], rows: Mapping[str, RowsHook], *, exact: bool
) -> None:
    """Add the node's outputs to what is `known`."""
    results: Sequence[Tensor]
    if node.operator == "If":
        results = _branch(node, known, hooks, rows, exact=exact)
    elif node.operator == "Gather" and node.inputs[0] in rows and not node.attributes.get("axis", 0):
        results = (rows[node.inputs[0]](known[node.inputs[0]], known[node.inputs[1]]),)
    else:
        results = compute(node, [known[name] if name else None for name in node.inputs], exact=exact)
    for name, result in zip(node.outputs, results, strict=False):
        known[name] = hooks[name](result) if name in hooks else result


def _branch(
    node: Node, known: Environment, hooks: Mapping[str, Hook], rows: Mapping[str, RowsHook], *, exact: bool
) -> Sequence[Tensor]:
    chosen = node.attributes["then_branch" if bool(known[node.inputs[0]]) else "else_branch"]
    assert isinstance(chosen, Network)
    device = known[node.inputs[0]].device
    own = {name: torch.from_numpy(np.array(array)).to(device) for name, array in chosen.initializers.items()}
    inside = known | own
    for inner in chosen.nodes:
        _run(inner, inside, hooks, rows, exact=exact)
    return [inside[name] for name in chosen.outputs]


def _check(network: Network) -> None:
    for node in _all_nodes(network):
        if node.operator != "If" and not is_known(node):
            reduction = node.attributes.get("reduction", "")
            what = f"operator {node.operator}{reduction and f' with reduction {reduction}'} cannot be computed in torch"
            raise ModelError(
                what, where=node.name, fix="give the float graph of an encoder, as `qpipe export` makes it"
            )


def _all_nodes(network: Network) -> Iterator[Node]:
    for node in network.nodes:
        yield node
        for inner in _inner(node):
            yield from _all_nodes(inner)


def _inner(node: Node) -> Iterator[Network]:
    return (value for value in node.attributes.values() if isinstance(value, Network))


def _reads(node: Node) -> set[str]:
    """Names that a node reads, inside of its branches too."""
    inner = (name for part in _inner(node) for one in part.nodes for name in _reads(one))
    outputs = (name for part in _inner(node) for name in part.outputs)
    return {*filter(None, node.inputs), *inner, *outputs}


def _needed(network: Network) -> tuple[Node, ...]:
    """The nodes that the outputs depend on, in order."""
    wanted, found = set(network.outputs), list[Node]()
    for node in reversed(network.nodes):
        if wanted & set(node.outputs):
            wanted |= _reads(node)
            found.append(node)
    return tuple(reversed(found))


def _last_uses(nodes: Sequence[Node], outputs: Iterable[str]) -> list[set[str]]:
    """For each node the computed tensors that nothing reads afterwards."""
    made = {name for node in nodes for name in node.outputs if name}
    later, result = set(outputs), list[set[str]]()
    for node in reversed(nodes):
        mine = (_reads(node) | {name for name in node.outputs if name}) & made
        result.append(mine - later)
        later |= mine
    return result[::-1]
