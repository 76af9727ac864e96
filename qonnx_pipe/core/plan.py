"""QuantPlan: for every site the spec that it gets, or that it stays float, and the rule that said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from qonnx_pipe.core.granularity import (
    Granularity,
    PerChannel,
    PerEmbedding,
    PerEmbeddingGroup,
    PerGroup,
    PerOutputGroup,
    PerTensor,
)
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import ATTENTION_OPERANDS, Role, Site, SiteMap, Skipped
from qonnx_pipe.core.spec import QuantSpec

Placement = Literal["matmul_inputs", "all_matmul_inputs", "full"]
"""Which activations have quantizers: inputs of MatMuls with a weight, of attention's MatMuls too, or every site."""

MatMulForm = Literal["integer", "qdq"]
GatherForm = Literal["nbits", "dq"]
AttentionForm = Literal["fused", "plain"]
"""One operator an attention (ONNX's Attention, opset 23), or the operators of the float model."""

Lowering = Literal[
    "integer",
    "qdq",
    "split",
    "fold",
    "expand",
    "reference",
    "gather_dq",
    "gather_nbits",
    "nbits",
    "blocked",
    "float",
    "auto",
]
"""The form in the graph; "auto" stands only in a plan that calibration has yet to settle."""

BLOCKS: tuple[Lowering, ...] = ("nbits", "blocked")
"""Forms of weights whose codes stay as they are in a session: their kernels depend on the bits and take real values."""


def is_placed(placement: Placement, site: Site) -> bool:
    """Whether a placement takes in an activation."""
    if placement == "all_matmul_inputs" and site.role in ATTENTION_OPERANDS:
        return True
    return placement == "full" or bool(site.feeds)


@dataclass(frozen=True)
class PlanEntry:
    """One site and its fate: `spec` None means that it stays float, on purpose, for `reason`.

    `rule` names what decided (`recipe.rules.Choice`): "activations", "weights", "embeddings" (the recipe's defaults),
    "budget" or "rules[2]".
    """

    site: Site
    spec: QuantSpec | None
    lowering: Lowering
    rule: str
    reason: str = ""


@dataclass(frozen=True)
class QuantPlan:
    """The whole decision, made before calibration; `skipped` is what was wanted and cannot be.

    `shape`: batch and sequence of a target that takes no other. `attention`: its form where MatMuls are `integer`.
    """

    target: str
    placement: Placement
    entries: tuple[PlanEntry, ...]
    skipped: tuple[Skipped, ...] = ()
    bias_correction: bool = False
    equalise: bool = False
    shape: tuple[int, int] | None = None
    attention: AttentionForm = "fused"

    @property
    def quantized(self) -> tuple[PlanEntry, ...]:
        """Entries with a spec."""
        return tuple(entry for entry in self.entries if entry.spec is not None)

    @property
    def sites(self) -> SiteMap:
        """The sites that the plan is about."""
        return SiteMap(tuple(entry.site for entry in self.entries))

    def reaches_all(self, site: Site) -> bool:
        """Whether every reader of an activation gets it quantized, not only the linear layers that it feeds."""
        return self.placement == "full" or not site.feeds

    def to_json(self) -> dict[str, object]:
        """Plain values for `plan.json`."""
        return {
            "version": 1,
            "target": self.target,
            "placement": self.placement,
            "bias_correction": self.bias_correction,
            "equalise": self.equalise,
            "shape": self.shape and list(self.shape),
            "attention": self.attention,
            "entries": [_entry_to_json(entry) for entry in self.entries],
            "skipped": [{"site": skip.site, "reason": skip.reason} for skip in self.skipped],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantPlan:
        """The inverse of `to_json`; KeyError or ValueError on anything that `to_json` does not write."""
        return cls(
            data["target"],
            data["placement"],
            tuple(_entry_from_json(entry) for entry in data["entries"]),
            tuple(Skipped(skip["site"], skip["reason"]) for skip in data["skipped"]),
            bias_correction=data["bias_correction"],
            equalise=data["equalise"],
            shape=(int(data["shape"][0]), int(data["shape"][1])) if data.get("shape") else None,
            attention=data.get("attention", "fused"),
        )


def _entry_to_json(entry: PlanEntry) -> dict[str, object]:
    site, spec = entry.site, entry.spec
    return {
        "site": site.id,
        "role": site.role.value,
        "layer": site.layer,
        "tensor": site.tensor,
        "width": site.width,
        "feeds": list(site.feeds),
        "owner": site.owner.value if site.owner else None,
        "pairwise": site.pairwise,
        "heads": site.heads,
        "spec": None
        if spec is None
        else {
            "dtype": spec.dtype.name,
            "granularity": _granularity_to_json(spec.granularity),
            "symmetric": spec.symmetric,
            "range": spec.range,
            "smooth": spec.smooth,
            "shift": spec.shift,
            "form": spec.form,
            "columns": spec.columns,
            "rounding": spec.rounding,
            "accuracy_level": spec.accuracy_level,
        },
        "lowering": entry.lowering,
        "rule": entry.rule,
        "reason": entry.reason,
    }


def _entry_from_json(data: Mapping[str, Any]) -> PlanEntry:
    if data["lowering"] not in get_args(Lowering):
        raise ValueError(f"unknown lowering {data['lowering']!r}")
    site = Site(
        id=data["site"],
        role=Role(data["role"]),
        layer=data["layer"],
        tensor=data["tensor"],
        width=data["width"],
        feeds=tuple(data["feeds"]),
        owner=Role(data["owner"]) if data["owner"] else None,
        pairwise=data["pairwise"],
        heads=data["heads"],
    )
    spec = data["spec"]
    if spec is not None:
        granularity = _granularity_from_json(spec["granularity"])
        rest = {name: value for name, value in spec.items() if name not in ("dtype", "granularity")}
        spec = QuantSpec(QTYPES[spec["dtype"]], granularity, **rest)
    return PlanEntry(site, spec, data["lowering"], data["rule"], data["reason"])


def _granularity_to_json(granularity: Granularity) -> object:
    """As recipes write it, with the axis where there is one."""
    match granularity:
        case PerTensor():
            return "per_tensor"
        case PerEmbedding():
            return "per_embedding"
        case PerChannel(axis):
            return {"per_channel": axis}
        case PerGroup(axis, size):
            return {"per_group": size, "axis": axis}
        case PerOutputGroup(groups, heads):
            return {"per_output_group": groups, "heads": heads}
        case PerEmbeddingGroup(groups, permute, share, boundaries):
            return {
                "per_embedding_group": groups if isinstance(groups, int) else list(groups),
                "permute": permute,
                "share": share,
                "boundaries": boundaries,
            }


def _granularity_from_json(data: Any) -> Granularity:
    match data:
        case "per_tensor":
            return PerTensor()
        case "per_embedding":
            return PerEmbedding()
        case {"per_channel": axis}:
            return PerChannel(axis)
        case {"per_group": size, "axis": axis}:
            return PerGroup(axis, size)
        case {"per_output_group": groups, "heads": heads}:
            return PerOutputGroup(groups, heads)
        case {"per_embedding_group": groups, "permute": permute, "share": share, "boundaries": boundaries}:
            return PerEmbeddingGroup(groups if isinstance(groups, int) else tuple(groups), permute, share, boundaries)
    raise ValueError(f"unknown granularity {data!r}")
