"""Partition: which nodes of a file a provider took, in how many pieces, and which ones ran elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Fallback:
    """So many nodes of one operator that another provider ran, because the one that was asked did not claim them."""

    op_type: str
    provider: str
    count: int


@dataclass(frozen=True)
class Partition:
    """Nodes as onnxruntime assigned them, after its first fusions and before a provider compiles what it got.

    `nodes`: all of them. `subgraphs`: pieces that the provider took; between two of them tensors go back and forth.
    """

    nodes: int
    subgraphs: int
    fallbacks: tuple[Fallback, ...] = ()

    @property
    def assigned(self) -> int:
        """Nodes that run on the provider that was asked."""
        return self.nodes - sum(fallback.count for fallback in self.fallbacks)

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "assigned": self.assigned}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Partition:
        """The inverse of `to_json`."""
        return cls(data["nodes"], data["subgraphs"], tuple(Fallback(**one) for one in data["fallbacks"]))
