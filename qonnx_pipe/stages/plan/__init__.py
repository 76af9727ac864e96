"""Plan: a recipe and the sites of a model → for each site a spec and a lowering, or the reason why it stays float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import EMBEDDING_TABLES, Role, Site, SiteMap
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.errors import ModelError, Problem, RecipeError, UsageError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.equalise import unequal
from qonnx_pipe.graph.npu.legal import adapted
from qonnx_pipe.graph.sites import find_sites
from qonnx_pipe.recipe import Recipe, resolve, shared_out
from qonnx_pipe.recipe.budget import Budget
from qonnx_pipe.stages.plan.entries import planned, read_as_they_are, without_heads

NARROW = 2
"""Bits at which a head is warned of."""


QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul"})
"""Operators of a model that is quantized already."""


def plan_stage(recipe: Recipe, model: Path, widths: Mapping[str, int] | None = None) -> QuantPlan:
    """What every site of `model` becomes under `recipe`; nothing is changed. `widths`: bits by site, of its budget.

    Raises ModelError when the graph has no recognised site or is already quantized, RecipeError for a
    rule that matches nothing, or groups that do not fit, UsageError for a budget without widths, and what `io.load`
    raises.
    """
    if recipe.quantize.budget is not None and widths is None:
        what = "a budget needs the sensitivity of the weights"
        raise UsageError(
            what, where="quantize.budget", fix="`qpipe run` or `qpipe plan` finds it; or give weights dtypes"
        )
    loaded, sites = _recognised(model)
    entries: list[PlanEntry] = []
    skipped = list(sites.unplaced)
    for choice in resolve(recipe, sites, widths):
        if recipe.quantize.static_shape:
            entry, notes = adapted(PlanEntry(choice.site, choice.spec, "qdq", choice.rule, choice.note))
        else:
            entry, notes = planned(loaded, choice, recipe.quantize)
        entries.append(entry)
        skipped += notes
    skipped = without_heads(loaded, entries, skipped)
    if not recipe.quantize.quantizes_all:
        entries, notes = read_as_they_are(entries)
        skipped += notes
    if recipe.quantize.equalise:
        skipped += unequal(loaded, [entry.site for entry in entries if entry.spec is None or not entry.spec.folds])
    return QuantPlan(
        recipe.quantize.target,
        recipe.quantize.chosen_placement,
        tuple(entries),
        tuple(skipped),
        bias_correction=recipe.quantize.bias_correction,
        equalise=recipe.quantize.equalise,
        shape=recipe.quantize.static_shape,
        attention=recipe.quantize.attention_form,
    )


@dataclass(frozen=True)
class Candidates:
    """The weights whose bits a budget chooses, each with its spec at every width; `others`: all other constants."""

    specs: Mapping[Site, Mapping[int, QuantSpec]]
    others: tuple[PlanEntry, ...]


def candidates(recipe: Recipe, model: Path, budget: Budget) -> Candidates:
    """What `budget` may choose in `model`; a width that a weight or table cannot have is none of its choices.

    Raises RecipeError where nothing is left to choose or a width suits no encoder weight on the target, and what
    `plan_stage` raises.
    """
    wanted = shared_out(recipe, sites_of(model), budget)
    specs: dict[Site, dict[int, QuantSpec]] = {}
    refused: dict[int, str] = {}
    plans = {
        bits: plan_stage(recipe, model, {site: bits for site, widths in wanted.items() if bits in widths})
        for bits in sorted({bits for widths in wanted.values() for bits in widths})
    }
    for bits, plan in plans.items():
        for entry in plan.entries:
            if bits not in wanted.get(entry.site.id, ()):
                continue
            if entry.spec is not None and entry.spec.dtype.bits == bits:
                specs.setdefault(entry.site, {})[bits] = entry.spec
            elif entry.site.role not in EMBEDDING_TABLES:
                refused.setdefault(bits, f"{entry.site.id}: {entry.reason or f'it would be {entry.spec}'}")
    possible = {bits for site, by_bits in specs.items() if site.role not in EMBEDDING_TABLES for bits in by_bits}
    left = [*map(str, sorted(possible)), *(["float"] if budget.leaves_float else [])] if possible else []
    problems = [_refusal(recipe, bits, left, reason) for bits, reason in refused.items() if bits not in possible]
    if problems or not specs:
        raise RecipeError(problems or [_refusal(recipe, None, left, "the rules decide every weight")])
    chosen = {site.id for site in specs}
    last = plans[max(plans)]
    return Candidates(specs, tuple(one for one in last.entries if one.site.is_weight and one.site.id not in chosen))


def doubts(plan: QuantPlan) -> tuple[str, ...]:
    """What a plan does as it was told, and should not: a head at two bits."""
    return tuple(
        f"{entry.site.id}: {entry.spec.dtype.bits} bits in the head ({entry.rule}) cost answers and save little"
        for entry in plan.quantized
        if entry.spec is not None and entry.site.owner is Role.HEAD and entry.spec.dtype.bits <= NARROW
    )


def _refusal(recipe: Recipe, bits: int | None, left: Sequence[str], reason: str) -> Problem:
    what = "nothing to choose" if bits is None else f"target {recipe.quantize.target} cannot have {bits} bits"
    fix = (
        f"choices: [{', '.join(left)}]"
        if left
        else "leave some weights' dtype to the budget, on a target that takes it"
    )
    where = recipe.origin.where(("quantize", "budget", "choices"))
    return Problem(where, "quantize.budget.choices", f"{what} ({reason})", fix)


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
            fix="give an encoder (BERT, DeBERTa, ViT, …) that `qpipe export` wrote: decoders are not quantized yet",
        )
    return loaded, sites
