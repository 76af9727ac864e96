"""Allocate: what is known of the weights' sensitivity, and a budget → the bits of each, and what else could be had."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from qonnx_pipe.allocators.bits import STRATEGIES, Allocation, Item, Option, Unmet, front
from qonnx_pipe.core.sensitivity import Estimator, Matrix, Sensitivity
from qonnx_pipe.errors import GateFailed, UsageError
from qonnx_pipe.recipe.budget import Budget

POINTS = 24
"""Budgets along the front."""


def allocate(found: Sensitivity, budget: Budget) -> Allocation:
    """Bits by site that keep the limits of `budget`, by its strategy.

    Raises GateFailed, with what the least can be, where none does; UsageError where `found` lacks what it needs.
    """
    items, fixed = items_of(found, budget), _fixed(found)
    limits = {name: _total(found, name, limit) - fixed[name] for name, limit in budget.limits.items()}
    try:
        return STRATEGIES[budget.strategy](items, limits)
    except Unmet as unmet:
        missed = {name: least for name, least in unmet.least.items() if least > limits[name]} or unmet.least
        least = {name: _amount(found, name, amount + fixed[name]) for name, amount in missed.items()}
        asked = " ".join(f"{name}={written(name, budget.limits[name])}" for name in least)
        nearest = " ".join(f"{name}={written(name, amount, up=True)}" for name, amount in least.items())
        what = f"the budget {asked} cannot be met"
        raise GateFailed(
            what, where="quantize.budget", fix=f"the nearest that can: {nearest}; or add a choice"
        ) from unmet


@dataclass(frozen=True)
class Point:
    """One allocation: bits by site, expected loss in nats, and amounts: mean bits, bytes of the file."""

    bits: Mapping[str, int]
    cost: float
    amounts: Mapping[str, float]


@dataclass(frozen=True)
class Shared:
    """What a budget comes to: the allocation, the front of loss and size around it, the same as rules in YAML."""

    budget: Budget
    chosen: Point
    front: tuple[Point, ...]
    rules: str

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        settings = self.budget.model_dump(mode="json")
        front = [{"cost": one.cost, "amounts": dict(one.amounts)} for one in self.front]
        return {"budget": settings, **asdict(self.chosen), "front": front, "rules": self.rules}


def share_out(found: Sensitivity, budget: Budget, *, signed: bool) -> Shared:
    """The allocation and its alternatives; errors as in `allocate`."""
    chosen = allocate(found, budget)
    return Shared(budget, _point(found, chosen), pareto(found, budget), rules(found, chosen.bits, signed=signed))


def pareto(found: Sensitivity, budget: Budget) -> tuple[Point, ...]:
    """The front of expected loss and size, by the budget's strategy, whatever its limits."""
    ends = front(items_of(found, budget), "size", STRATEGIES[budget.strategy], points=POINTS)
    return tuple(_point(found, one) for one in ends)


def _point(found: Sensitivity, allocation: Allocation) -> Point:
    fixed = _fixed(found)
    amounts = {name: _amount(found, name, used + fixed[name]) for name, used in allocation.uses.items()}
    return Point(dict(allocation.bits), allocation.cost, amounts)


def written(name: str, amount: float, *, up: bool = False) -> str:
    """An amount as a budget has it: 2.5, 30.00MB; rounded upwards where it must be enough."""
    units = {"bits": [(1.0, "")], "size": [(1e6, "MB"), (1e3, "kB")]}[name]
    size, unit = next((one for one in units if amount >= one[0]), units[-1])
    shown = math.ceil(amount / size * 100 - 1e-6) / 100 if up else amount / size
    return f"{shown:.2f}{unit}"


def rules(found: Sensitivity, bits: Mapping[str, int], *, signed: bool = True) -> str:
    """The same choice as `quantize.rules` in YAML: layers of one width in one line, other weights by name."""
    layers: dict[int | None, list[Matrix]] = {}
    for one in found.matrices:
        layers.setdefault(one.layer, []).append(one)
    whole: dict[int, list[int]] = {}
    single: dict[int, list[str]] = {}
    for layer, own in layers.items():
        widths = {bits[one.site] for one in own}
        if layer is not None and len(widths) == 1:
            whole.setdefault(widths.pop(), []).append(layer)
        else:
            for one in own:
                single.setdefault(bits[one.site], []).append(one.site)
    lines = [(width, f"role: weight, layer: {sorted(own)}") for width, own in whole.items()]
    lines += [(width, f"node: {json.dumps(names)}") for width, names in single.items()]
    kind = "int" if signed else "uint"
    return "rules:\n" + "".join(
        f"  - match: {{{match}}}\n    weights: {{dtype: {kind}{width}}}\n" for width, match in sorted(lines)
    )


def items_of(found: Sensitivity, budget: Budget) -> list[Item]:
    """The matrices that `budget` decides, as the allocators see them."""
    omegas = {layer.name: layer.omega for layer in found.layers}
    if budget.strategy == "qbert" and not omegas:
        raise UsageError(
            "the curvature of the layers is not known", fix="run `qpipe plan` or `qpipe run` on the recipe"
        )
    return [_item(one, budget, omegas) for one in found.matrices]


def _item(matrix: Matrix, budget: Budget, omegas: Mapping[str, float]) -> Item:
    rank = omegas.get(f"layer {matrix.layer}", 0.0)
    if budget.strategy == "qbert":
        costs: Mapping[int, float] = {bits: 0.5 * rank * error for bits, error in matrix.errors.items()}
    else:
        costs = _costs(matrix, budget.estimator)
    options = tuple(
        Option(bits, costs[bits], {"bits": float(bits * matrix.elements), "size": float(size)})
        for bits, size in matrix.bytes.items()
    )
    return Item(matrix.site, options, matrix.layer, rank)


def _costs(matrix: Matrix, estimator: Estimator) -> Mapping[int, float]:
    if estimator not in matrix.costs:
        raise UsageError(f"{estimator} was not estimated", where=matrix.site, fix=f"use {', '.join(matrix.costs)}")
    return matrix.costs[estimator]


def _fixed(found: Sensitivity) -> dict[str, float]:
    """What is used whatever the choice."""
    return {"bits": 0.0, "size": float(found.rest_bytes)}


def _total(found: Sensitivity, name: str, limit: float) -> float:
    return limit * _elements(found) if name == "bits" else limit


def _amount(found: Sensitivity, name: str, used: float) -> float:
    return used / _elements(found) if name == "bits" else used


def _elements(found: Sensitivity) -> int:
    return sum(matrix.elements for matrix in found.matrices)
