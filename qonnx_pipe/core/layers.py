"""Layers: how far the tensors of a quantized model lie from those of its float model, site by site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qonnx_pipe.core.site import Role, Skipped


@dataclass(frozen=True)
class SiteFidelity:
    """SQNR of one activation beside the float model's, in dB; padding does not count."""

    site: str
    role: Role
    layer: int | None
    sqnr_db: float


@dataclass(frozen=True)
class Layers:
    """The content of `layers.json`: sites in data-flow order; `skipped` could not be compared."""

    sites: tuple[SiteFidelity, ...]
    examples: int
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain values for `layers.json`."""
        return {
            "version": 1,
            "examples": self.examples,
            "sites": [asdict(site) for site in self.sites],
            "skipped": [asdict(skip) for skip in self.skipped],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layers:
        """The inverse of `to_json`; KeyError, TypeError or ValueError on anything that `to_json` does not write."""
        return cls(
            tuple(SiteFidelity(**{**site, "role": Role(site["role"])}) for site in data["sites"]),
            data["examples"],
            tuple(Skipped(**skip) for skip in data["skipped"]),
        )
