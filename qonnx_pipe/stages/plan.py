"""Plan: a recipe and the sites of a model → for each site a spec and a lowering, or the reason why it stays float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qonnx_pipe.core.granularity import PerChannel, PerEmbedding, PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.plan import Lowering, PlanEntry, QuantPlan
from qonnx_pipe.core.site import EMBEDDING_TABLES, Site, SiteMap, Skipped
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.errors import ModelError, Problem, RecipeError
from qonnx_pipe.graph import io, smooth
from qonnx_pipe.graph.sites import find_sites, has_other_readers
from qonnx_pipe.recipe import Choice, Recipe, resolve
from qonnx_pipe.recipe.quantize import Quantize

TARGETS = ("cpu",)
"""Targets that have lowerings."""

QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul"})
"""Operators of a model that is quantized already."""


def plan_stage(recipe: Recipe, model: Path) -> QuantPlan:
    """What every site of `model` becomes under `recipe`; nothing is changed.

    Raises ModelError when the graph has no recognised site or is already quantized, RecipeError for a target without
    lowerings, a rule that matches nothing, or groups that do not fit, and what `io.load` raises.
    """
    _check_target(recipe)
    loaded, sites = _recognised(model)
    entries: list[PlanEntry] = []
    skipped = list(sites.unplaced)
    for choice in resolve(recipe, sites):
        entry = _tied(loaded, choice.site) or _entry(choice, recipe.quantize)
        if isinstance(entry, Skipped):
            skipped.append(entry)
            entry = PlanEntry(choice.site, None, "float", choice.rule, entry.reason)
        elif reason := _smoothing_obstacle(loaded, entry):
            skipped.append(Skipped(choice.site.id, f"not smoothed: {reason}"))
            entry = _unsmoothed(entry)
        entries.append(entry)
    return QuantPlan(
        recipe.quantize.target,
        recipe.quantize.placement,
        tuple(entries),
        tuple(skipped),
        bias_correction=recipe.quantize.bias_correction,
        equalise=recipe.quantize.equalise,
    )


def sites_of(model: Path) -> SiteMap:
    """The sites of a file; ModelError when there is none, or it is quantized already."""
    return _recognised(model)[1]


def _recognised(model: Path) -> tuple[io.Model, SiteMap]:
    """The loaded file and its sites."""
    loaded = io.load(model)
    if any(node.op_type in QUANTIZED for node in loaded.graph):
        raise ModelError("the model is already quantized", where=str(model), fix="give the float model it was made of")
    io.check_finite(loaded, model)
    sites = find_sites(loaded)
    if not sites.sites:
        reasons = "; ".join(f"{skip.site}: {skip.reason}" for skip in sites.unplaced[:3])
        raise ModelError(
            "no recognised site: no attention with its linear layers in this graph"
            + (f" ({reasons})" if reasons else ""),
            where=str(model),
            fix="give a transformer encoder that `qpipe export` wrote",
        )
    return loaded, sites


def _check_target(recipe: Recipe) -> None:
    target = recipe.quantize.target
    if target not in TARGETS:
        key = ("quantize", "target")
        known = ", ".join(TARGETS)
        problem = Problem(
            recipe.origin.where(key), "quantize.target", f"no lowerings for {target!r} yet", f"use one of: {known}"
        )
        raise RecipeError([problem])


def _entry(choice: Choice, settings: Quantize) -> PlanEntry | Skipped:
    """One site's entry; Skipped for what was wanted and cannot be written."""
    site, spec = choice.site, choice.spec
    if spec is None:
        return PlanEntry(site, None, "float", choice.rule, choice.note or "the recipe leaves it float")
    if site.is_weight:
        obstacle = _weight_obstacle(site, spec)
        if obstacle:
            return Skipped(site.id, obstacle)
        form: Lowering = "gather_dq" if site.role in EMBEDDING_TABLES else settings.matmul
        return PlanEntry(site, spec, form, choice.rule, choice.note)
    if settings.placement != "full" and not site.feeds:
        reason = "placement matmul_inputs: only what enters a weight MatMul is quantized"
        return PlanEntry(site, None, "float", choice.rule, reason)
    grouped = isinstance(spec.granularity, PerEmbedding | PerEmbeddingGroup)
    lowering: Lowering = "split" if grouped else "qdq"
    return PlanEntry(site, spec, lowering, choice.rule, choice.note or _activation_note(site, spec, settings))


def _weight_obstacle(site: Site, spec: QuantSpec) -> str:
    """Why a weight's spec has no lowering; "" when it has one."""
    if spec.dtype.bits != 8:
        return f"{spec.dtype.name} weights are not packed yet; kept float: use int8"
    if not isinstance(spec.granularity, PerTensor | PerChannel):
        return f"{spec.granularity} weights have no integer kernel at 8 bits; kept float: use per_channel"
    if site.role in EMBEDDING_TABLES:
        by_row = spec.granularity == PerChannel(0)
        return "one scale a row needs a symmetric type; kept float" if by_row and not spec.symmetric else ""
    if spec.granularity == PerChannel(0):
        return "one scale an input channel cannot run: the CPU kernel wants scales along the output; kept float"
    return ""


def _tied(model: io.Model, site: Site) -> Skipped | None:
    """Skipped for a table that something else reads too: its codes would come on top of the float table."""
    if site.role not in EMBEDDING_TABLES or not has_other_readers(model, site):
        return None
    return Skipped(site.id, "a tied table: the head reads it in float, so that codes would come on top; kept float")


def _smoothing_obstacle(model: io.Model, entry: PlanEntry) -> str:
    """Why an entry that asks for smoothing cannot have it; "" when it can, or does not ask."""
    if entry.spec is None or not entry.spec.smooth:
        return ""
    if entry.spec.range not in ("minmax", "running_minmax"):
        return f"a {entry.spec.range} range does not tell the dimensions apart: use minmax or running_minmax"
    return smooth.obstacle(model, entry.site)


def _unsmoothed(entry: PlanEntry) -> PlanEntry:
    assert entry.spec is not None
    return replace(entry, spec=replace(entry.spec, smooth=0.0))


def _activation_note(site: Site, spec: QuantSpec, settings: Quantize) -> str:
    if spec.dtype.bits == 16 and site.feeds:
        return "16-bit activations: the CPU provider runs the MatMuls that read this in float"
    if settings.matmul == "qdq" and spec.dtype.signed and len(site.feeds) > 1:
        return "signed activations that feed several MatMuls stay float in the CPU provider on x86: use uint8"
    return ""
