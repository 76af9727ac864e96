"""Collector: sites gathered tensor by tensor, and which linear layers read them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qonnx_pipe.core.site import Role, Site, Skipped
from qonnx_pipe.graph.walk import Linear, constant_shape, is_constant, origins, readers


class Collector:
    """Gathers sites; a tensor gets at most one role, the first that claims it."""

    def __init__(self, linears: Sequence[Linear]) -> None:
        self.linears = tuple(linears)
        self.unplaced: list[Skipped] = []
        self.claimed: set[str] = set()
        self._tensors: dict[str, tuple[Role, int | None, ir.Value, bool]] = {}
        self._owners: dict[str, tuple[Role, int | None]] = {}
        self._heads: dict[str, int] = {}
        self._tables: dict[str, tuple[Role, ir.Value, list[str]]] = {}

    def place(self, role: Role, layer: int | None, value: ir.Value, *, pairwise: bool = False) -> None:
        """Give `value` a role."""
        self._tensors.setdefault(str(value.name), (role, layer, value, pairwise))

    def own(self, linear: Linear, role: Role, layer: int | None, heads: int = 1) -> None:
        """Say what the linear layer computes, and of how many heads its outputs are made."""
        self._owners.setdefault(linear.name, (role, layer))
        self._heads.setdefault(linear.name, heads)

    def is_owned(self, linear: Linear) -> bool:
        """Whether a role has claimed the linear layer."""
        return linear.name in self._owners

    def table(self, role: Role, value: ir.Value, node: ir.Node) -> None:
        """Give an embedding table a role; `node` is the Gather that reads it."""
        self._tables.setdefault(str(value.name), (role, value, []))[2].append(str(node.name))
        self.claimed.add(str(node.name))

    def has(self, value: ir.Value) -> bool:
        """Whether the tensor has a role."""
        return value.name in self._tensors

    def skip(self, site: str, reason: str) -> None:
        """Note something that has no place."""
        self.unplaced.append(Skipped(site, reason))

    def finish(self) -> tuple[Site, ...]:
        """All sites, with the linear layers that each feeds; layers that nothing placed get a `linear.input` site."""
        feeds = self._feeds()
        ids = _Ids()
        sites = [
            Site(
                id=ids.unique(role.value if layer is None else f"layer.{layer}/{role.value}"),
                role=role,
                layer=layer,
                tensor=name,
                width=0 if pairwise else _width(value, self.linears),
                feeds=tuple(feeds.get(name, ())),
                pairwise=pairwise,
            )
            for name, (role, layer, value, pairwise) in self._tensors.items()
        ]
        sites += [
            Site(ids.unique(role.value), role, None, name, constant_shape(value)[1], tuple(nodes))
            for name, (role, value, nodes) in self._tables.items()
        ]
        return (*sites, *self._weights(ids))

    def _feeds(self) -> dict[str, list[str]]:
        feeds: dict[str, list[str]] = {}
        for linear in self.linears:
            placed = next((value for value in origins(linear.source) if self.has(value)), None)
            if placed is None:
                placed = linear.source
                self.place(Role.LINEAR_INPUT, None, placed)
            feeds.setdefault(str(placed.name), []).append(linear.name)
        return feeds

    def _weights(self, ids: _Ids) -> list[Site]:
        """One site a weight; a weight that several layers share (ALBERT) has no layer number."""
        users: dict[tuple[str, bool], list[Linear]] = {}
        for linear in self.linears:
            users.setdefault((str(linear.weight.name), linear.transposed), []).append(linear)
        sites = []
        for (name, _), linears in users.items():
            role, layer = self._owners.get(linears[0].name, (Role.LINEAR_INPUT, None))
            shared = len({self._owners.get(linear.name) for linear in linears}) > 1
            place = "shared/" if shared else "" if layer is None else f"layer.{layer}/"
            sites.append(
                Site(
                    id=ids.unique(f"{place}weight[{role.value}]"),
                    role=Role.WEIGHT,
                    layer=None if shared else layer,
                    tensor=name,
                    width=linears[0].shape[1],
                    feeds=tuple(linear.name for linear in linears),
                    owner=role,
                    heads=self._heads.get(linears[0].name, 1),
                )
            )
        return sites


class _Ids:
    """Ids made unique by a counter: "embedding.sum", "embedding.sum.1", … ."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def unique(self, base: str) -> str:
        count = self._count.get(base, 0)
        self._count[base] = count + 1
        return f"{base}.{count}" if count else base


def _width(value: ir.Value, linears: Sequence[Linear]) -> int:
    """Size of the last axis: from the shape, else from the linear layer or normalisation that writes or reads it."""
    if value.shape is not None and len(value.shape) and isinstance(value.shape[-1], int):
        return value.shape[-1]
    for linear in linears:
        if linear.output is value or linear.source is value:
            return linear.shape[1 if linear.output is value else 0]
    producer = value.producer()
    norms = (node for node in (producer, *readers(value)) if node is not None and node.op_type == "LayerNormalization")
    gains = (norm.inputs[1] for norm in norms)
    return next((constant_shape(gain)[0] for gain in gains if gain is not None and is_constant(gain)), 0)
