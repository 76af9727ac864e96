"""Rules: defaults and rules of a recipe → what each site of a model becomes; later rules win, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import EMBEDDING_TABLES, Site, SiteMap
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.times import FLOAT
from qonnx_pipe.errors import Problem, RecipeError
from qonnx_pipe.recipe.budget import Budget
from qonnx_pipe.recipe.fitting import FIRST_WEIGHTS, Misfit, Setting, first_activations, fit
from qonnx_pipe.recipe.matching import layers, matches
from qonnx_pipe.recipe.origin import Key, dotted
from qonnx_pipe.recipe.quantize import Quantize, Rule
from qonnx_pipe.recipe.schema import Recipe
from qonnx_pipe.recipe.settings import Activations, Weights

Kind = Literal["weights", "activations", "float"]

BUDGET: Key = ("quantize", "budget")

UNSIGNED = frozenset(name for name, qtype in QTYPES.items() if not qtype.signed)


@dataclass(frozen=True)
class Choice:
    """What the recipe wants of one site: `spec` None leaves it float.

    `rule` is what decided: "weights", "activations", "embeddings" (the defaults), "budget" or "rules[2]". That is what
    gave the dtype where the site stays float or a budget gives it, and else what had the last word. `note` says where
    the recipe's default was adapted to the site.
    """

    site: Site
    spec: QuantSpec | None
    rule: str
    note: str = ""


Widths = Mapping[str, int]
"""Site id → bits that a budget gives it, FLOAT for none."""


def resolve(recipe: Recipe, sites: SiteMap, widths: Widths | None = None) -> tuple[Choice, ...]:
    """One choice a site, in the order of `sites`; the placement is left to the plan.

    `widths`, of sites that are `shared_out`, stand between the defaults and the rules.
    RecipeError, with the rule's file:line, for a rule that matches nothing or only sites of the other kind, for a
    layer that the model does not have, and for groups that do not fit a site that the placement quantizes.
    """
    useless = tuple(_useless_rules(recipe, sites))
    if useless:
        raise RecipeError(useless)
    choices: list[Choice] = []
    misfits: dict[Key, Problem] = {}
    for site in sites.sites:
        parts = _parts(recipe.quantize, site, sites.layers, (widths or {}).get(site.id))
        setting, says = _merged(parts)
        key = says["dtype"] if setting.dtype == "float" or says["dtype"] == BUDGET else parts[-1][0]
        try:
            spec, note = fit(setting, site, by_rule="rules" in says["granularity"])
        except Misfit as misfit:
            key = says[misfit.field]
            if site.is_weight or recipe.quantize.places(site):
                misfits.setdefault(key, _problem(recipe, (*key, misfit.field), f"{site.id}: {misfit.what}", misfit.fix))
            spec, note = None, misfit.what
        choices.append(Choice(site, spec, dotted(key[1:3]), note))
    if misfits:
        raise RecipeError(tuple(misfits.values()))
    return tuple(choices)


def shared_out(recipe: Recipe, sites: SiteMap, budget: Budget) -> dict[str, tuple[int, ...]]:
    """The sites whose bits `budget` decides, and the bits each may get: those that no rule gives a dtype.

    Weights of MatMuls in an encoder layer; tables where the budget has choices for them.
    """
    found: dict[str, tuple[int, ...]] = {}
    for site in sites.weights:
        choices = (
            budget.embeddings if site.role in EMBEDDING_TABLES else budget.widths if site.layer is not None else ()
        )
        _, says = _merged(_parts(recipe.quantize, site, sites.layers))
        if choices and "rules" not in says["dtype"]:
            found[site.id] = tuple(sorted(set(choices)))
    return found


def _problem(recipe: Recipe, key: Key, what: str, fix: str) -> Problem:
    return Problem(recipe.origin.where(key), dotted(key), what, fix)


def _parts(quantize: Quantize, site: Site, layer_count: int, width: int | None = None) -> list[tuple[Key, Setting]]:
    """The settings that speak about a site, in the order in which later ones win, each with its key."""
    first: Setting = FIRST_WEIGHTS if site.is_weight else first_activations(quantize.target)
    kind: Kind = "weights" if site.is_weight else "activations"
    default = "embeddings" if site.role in EMBEDDING_TABLES else kind
    parts: list[tuple[Key, Setting]] = [
        (("quantize", default), first),
        (("quantize", default), getattr(quantize, default)),
    ]
    if width is not None:
        kind_of = "uint" if getattr(quantize, default).dtype in UNSIGNED else "int"
        parts.append((BUDGET, Weights(dtype="float" if width == FLOAT else f"{kind_of}{width}")))
    for index, rule in enumerate(quantize.rules):
        if rule.stays_float and _applies(rule, "float", site, layer_count):
            parts.append((("quantize", "rules", index), type(first)(dtype="float")))
        elif (change := getattr(rule, kind)) is not None and _applies(rule, kind, site, layer_count):
            parts.append((("quantize", "rules", index, kind), change))
    return parts


def _merged(parts: list[tuple[Key, Setting]]) -> tuple[Setting, dict[str, Key]]:
    """All parts as one setting, and the key of the part that had the last word on each field."""
    merged: dict[str, object] = {}
    says: dict[str, Key] = {}
    for key, part in parts:
        given = {name: value for name, value in part if value is not None}
        if isinstance(part, Activations) and isinstance(part.granularity, str):
            given.setdefault("permute", "none")  # what was said about groups goes with the groups
        merged |= given
        says |= dict.fromkeys(given, key)
    return parts[0][1].model_copy(update=merged), says


def _applies(rule: Rule, kind: Kind, site: Site, layer_count: int) -> bool:
    """Whether one kind of a rule's changes reaches a site."""
    if kind != "float" and site.is_weight != (kind == "weights"):
        return False
    return matches(rule.match, site, layer_count, owner=kind == "weights")


def _useless_rules(recipe: Recipe, sites: SiteMap) -> Iterator[Problem]:
    """A problem for every change of a rule that reaches no site."""
    for index, rule in enumerate(recipe.quantize.rules):
        key: Key = ("quantize", "rules", index)
        try:
            layers(rule.match, sites.layers)
        except ValueError as failure:
            fix = f"the model has layers 0 to {sites.layers - 1}" if sites.layers else "the model has no layers"
            yield _problem(recipe, (*key, "match", "layer"), str(failure), fix)
            continue
        kinds: dict[Kind, object] = {
            "float": rule.stays_float or None,
            "weights": rule.weights,
            "activations": rule.activations,
        }
        for kind, change in kinds.items():
            if change is not None and not any(_applies(rule, kind, site, sites.layers) for site in sites.sites):
                yield _useless(recipe, sites, key, rule, kind)


def _useless(recipe: Recipe, sites: SiteMap, key: Key, rule: Rule, kind: Kind) -> Problem:
    """Why one kind of change in a rule reaches no site."""
    if kind != "float" and any(matches(rule.match, site, sites.layers, owner=True) for site in sites.sites):
        other = "activations" if kind == "weights" else "weights"
        return _problem(recipe, (*key, kind), f"the rule matches only {other}", f"write {other}: instead of {kind}:")
    present = {site.role for site in sites.sites} | {site.owner for site in sites.sites}
    absent = [str(role) for role in rule.match.role if role not in present]
    what = "the rule matches nothing" + (f"; the model has no {', '.join(absent)}" if absent else "")
    return _problem(recipe, (*key, "match"), what, "`qpipe plan` lists the sites of the model; mend or remove the rule")
