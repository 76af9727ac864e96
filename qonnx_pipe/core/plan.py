"""QuantPlan: for every site the spec that it gets, or that it stays float, and the rule that said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qonnx_pipe.core.site import Site, Skipped
from qonnx_pipe.core.spec import QuantSpec

Placement = Literal["matmul_inputs", "full"]
Lowering = Literal["qdq", "split", "gather_dq", "float"]


@dataclass(frozen=True)
class PlanEntry:
    """One site and its fate: `spec` None means that it stays float, on purpose, for `reason`.

    `rule` names what chose the spec: "activations", "weights" (the recipe's defaults) or "rules[2]".
    """

    site: Site
    spec: QuantSpec | None
    lowering: Lowering
    rule: str
    reason: str = ""


@dataclass(frozen=True)
class QuantPlan:
    """The whole decision, made before calibration; `skipped` is what was wanted and cannot be."""

    target: str
    placement: Placement
    entries: tuple[PlanEntry, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def quantized(self) -> tuple[PlanEntry, ...]:
        """Entries with a spec."""
        return tuple(entry for entry in self.entries if entry.spec is not None)
