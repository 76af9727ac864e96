"""Decisions: what the plan made of the sites, and the encodings that came of it, gathered by role."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qonnx_pipe.charts import wording
from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, Windows
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import Site, Skipped


@dataclass(frozen=True)
class Group:
    """Sites with the same fate, and their roles. `where`: their layers; `what`: the spec, or why there is none."""

    roles: tuple[str, ...]
    sites: tuple[str, ...]
    where: str
    what: str
    rule: str
    lowering: str


@dataclass(frozen=True)
class Decisions:
    """A plan for readers: quantized (by role), float on purpose (by reason), and wanted but impossible."""

    target: str
    placement: str
    total: int
    quantized: tuple[Group, ...]
    floats: tuple[Group, ...]
    skipped: tuple[Skipped, ...]

    @property
    def count(self) -> int:
        """Number of quantized sites."""
        return sum(len(group.sites) for group in self.quantized)


@dataclass(frozen=True)
class Encoded:
    """Encodings of one role and form: how many scales, and between which values they lie."""

    role: str
    form: str
    sites: int
    scales: int
    smallest: float
    largest: float
    zero_points: str


def summarise(plan: QuantPlan) -> Decisions:
    """The plan in groups; a site that was skipped does not count as float on purpose."""
    skipped = {skip.site for skip in plan.skipped}
    floats = [entry for entry in plan.entries if entry.spec is None and entry.site.id not in skipped]
    return Decisions(
        plan.target,
        plan.placement,
        len(plan.entries),
        _groups(plan.quantized, lambda entry: (_role(entry.site), str(entry.spec), entry.rule, entry.lowering)),
        _groups(floats, lambda entry: (entry.reason, entry.rule)),
        plan.skipped,
    )


def encoded(encodings: Mapping[str, Encoding] | None, plan: QuantPlan | None) -> tuple[Encoded, ...]:
    """The encodings by role, type and granularity."""
    roles = {entry.site.id: _role(entry.site) for entry in plan.entries} if plan else {}
    grouped: dict[tuple[str, str], list[Encoding]] = {}
    for site, encoding in (encodings or {}).items():
        key = roles.get(site, site.rpartition("/")[2]), f"{encoding.dtype.name} {_layout(encoding)}"
        grouped.setdefault(key, []).append(encoding)
    return tuple(_encoded(role, form, found) for (role, form), found in grouped.items())


def _groups(entries: Iterable[PlanEntry], key: Callable[[PlanEntry], tuple[str, ...]]) -> tuple[Group, ...]:
    grouped: dict[tuple[str, ...], list[PlanEntry]] = {}
    for entry in entries:
        grouped.setdefault(key(entry), []).append(entry)
    return tuple(
        Group(
            roles=tuple(dict.fromkeys(_role(entry.site) for entry in found)),
            sites=tuple(entry.site.id for entry in found),
            where=_where([entry.site for entry in found]),
            what=str(found[0].spec or found[0].reason),
            rule=found[0].rule,
            lowering=found[0].lowering,
        )
        for found in grouped.values()
    )


def _role(site: Site) -> str:
    return f"{site.role} of {site.owner}" if site.owner else str(site.role)


def _where(sites: Sequence[Site]) -> str:
    layers = [site.layer for site in sites if site.layer is not None]
    return f"layer{'s' if len(layers) > 1 else ''} {wording.spans(layers)}" if layers else ""


def _layout(encoding: Encoding) -> str:
    if isinstance(encoding.granularity, EmbeddingGroups):
        permuted = "" if encoding.granularity.is_identity else ", permuted"
        return f"per_embedding_group({len(encoding.granularity.sizes)}{permuted})"
    if isinstance(encoding.granularity, Windows):
        return f"per_tensor, {len(encoding.granularity.dimensions)} more columns"
    return str(encoding.granularity)


def _encoded(role: str, form: str, found: Sequence[Encoding]) -> Encoded:
    scales = np.concatenate([encoding.scale.ravel() for encoding in found])
    zeros = np.concatenate([encoding.zero_point.ravel() for encoding in found])
    low, high = int(zeros.min()), int(zeros.max())
    return Encoded(
        role,
        form,
        len(found),
        scales.size,
        float(scales.min()),
        float(scales.max()),
        wording.tick(low) if low == high else f"{wording.tick(low)} … {wording.tick(high)}",
    )
