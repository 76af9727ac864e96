"""Differences: what several runs decided or did differently, and nothing of what they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qonnx_pipe.charts import wording
from qonnx_pipe.core.artifact import Manifest
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.verdict import Verdict

Plans = Sequence[QuantPlan | None]

NOWHERE = "not there"
"""What a run has of a site or node that only others have."""


@dataclass(frozen=True)
class Difference:
    """Names of things that differ in the same way, `what` they are together, and what each run has of them."""

    what: str
    names: tuple[str, ...]
    cells: tuple[str, ...]


def settings(plans: Plans) -> tuple[Difference, ...]:
    """What holds for a whole plan and is not the same in all."""
    rows = {
        name: tuple(str(getattr(plan, name)) if plan else NOWHERE for plan in plans)
        for name in ("target", "placement", "bias_correction", "equalise", "attention")
    }
    return tuple(Difference(name, (name,), cells) for name, cells in rows.items() if len(set(cells)) > 1)


def sites(plans: Plans) -> tuple[Difference, ...]:
    """Sites whose spec or form is not the same in all plans, those of one role that differ alike together."""
    tables = [{entry.site.id: entry for entry in plan.entries} if plan else {} for plan in plans]
    grouped: dict[tuple[str, tuple[str, ...]], list[PlanEntry]] = {}
    for site, entry in {site: entry for table in reversed(tables) for site, entry in table.items()}.items():
        cells = tuple(_decision(table.get(site)) for table in tables)
        if len(set(cells)) > 1:
            grouped.setdefault((_role(entry), cells), []).append(entry)
    return tuple(
        Difference(f"{role}{_where(found)}", tuple(entry.site.id for entry in found), cells)
        for (role, cells), found in grouped.items()
    )


def kernels(verdicts: Sequence[Verdict]) -> tuple[tuple[str, tuple[Difference, ...]], ...]:
    """By provider, the weight MatMuls of the quantized models that did not run in the same kernel."""
    providers = dict.fromkeys(result.provider for verdict in verdicts for result in verdict.results)
    found = ((provider, tuple(_kernels(provider, verdicts))) for provider in providers)
    return tuple((provider, different) for provider, different in found if different)


def facts(machines: Sequence[Mapping[str, str | int]], manifests: Sequence[Manifest | None]) -> tuple[Difference, ...]:
    """Machines and versions where they are not the same."""
    versions = [manifest.versions if manifest else {} for manifest in manifests]
    tables = [{**version, **machine} for version, machine in zip(versions, machines, strict=True)]
    names = sorted({name for table in tables for name in table})
    rows = ((name, tuple(str(table.get(name, wording.MISSING)) for table in tables)) for name in names)
    return tuple(Difference(name, (name,), cells) for name, cells in rows if len(set(cells)) > 1)


def _kernels(provider: str, verdicts: Sequence[Verdict]) -> Iterable[Difference]:
    tables = []
    for verdict in verdicts:
        ran = [one.kernels for one in verdict.results if one.provider == provider and one.model == "quantized"]
        if not ran or ran[0] is None:
            return ()
        tables.append({node.node: f"{node.kernel}{'' if node.integer else ', float'}" for node in ran[0].nodes})
    grouped: dict[tuple[str, ...], list[str]] = {}
    for node in dict.fromkeys(node for table in tables for node in table):
        cells = tuple(table.get(node, NOWHERE) for table in tables)
        if len(set(cells)) > 1:
            grouped.setdefault(cells, []).append(node)
    return (Difference(_count(nodes), tuple(nodes), cells) for cells, nodes in grouped.items())


def _count(nodes: Sequence[str]) -> str:
    return f"{len(nodes)} MatMul{'s' if len(nodes) > 1 else ''}"


def _decision(entry: PlanEntry | None) -> str:
    if entry is None:
        return NOWHERE
    if entry.spec is None:
        return "float"
    spec = str(entry.spec)
    return spec if entry.lowering in spec.split() else f"{spec} · {entry.lowering}"


def _role(entry: PlanEntry) -> str:
    return f"{entry.site.role} of {entry.site.owner}" if entry.site.owner else str(entry.site.role)


def _where(found: Sequence[PlanEntry]) -> str:
    layers = [entry.site.layer for entry in found if entry.site.layer is not None]
    return f", layer{'s' if len(layers) > 1 else ''} {wording.spans(layers)}" if layers else ""
