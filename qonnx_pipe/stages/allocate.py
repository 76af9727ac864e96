"""Allocate: what weights cost and take, and a budget → the bits of each, and what else could be had."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from qonnx_pipe.allocators.bits import STRATEGIES, Allocation, Item, Option, Unmet, front
from qonnx_pipe.core.sensitivity import Estimator, Matrix, Sensitivity
from qonnx_pipe.core.times import FLOAT, Times
from qonnx_pipe.errors import GateFailed, UsageError
from qonnx_pipe.recipe.budget import Budget

POINTS = 24
"""Budgets along the front."""

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Point:
    """One allocation: bits by site (FLOAT: it stays float), expected loss in nats, and amounts.

    Amounts: mean bits, bytes of the file and, where weights were timed, the expected ms of a run.
    """

    bits: Mapping[str, int]
    cost: float
    amounts: Mapping[str, float]


@dataclass(frozen=True)
class Shared:
    """What a budget comes to: the allocation, the front of loss and size or time around it, the same as YAML rules."""

    budget: Budget
    chosen: Point
    front: tuple[Point, ...]
    rules: str
    times: Times | None

    def to_json(self) -> dict[str, object]:
        """Plain values; `times` without those of single matrices, where there are any."""
        settings = self.budget.model_dump(mode="json")
        front = [{"cost": one.cost, "amounts": dict(one.amounts)} for one in self.front]
        times = {k: v for k, v in self.times.to_json().items() if k != "matrices"} if self.times else None
        return {"budget": settings, **asdict(self.chosen), "front": front, "rules": self.rules, "times": times}


def allocate(found: Sensitivity, budget: Budget, times: Times | None = None) -> Point:
    """The allocation that keeps the limits of `budget`, by its strategy.

    Raises GateFailed, with the nearest that can, where none does; UsageError where `found` or `times` lacks what it
    needs.
    """
    known = _Known(found, budget, times)
    try:
        return known.point(STRATEGIES[budget.strategy](known.items(), known.limits))
    except Unmet as unmet:
        asked = " ".join(f"{name}={_written(name, limit, budget)}" for name, limit in budget.limits.items())
        nearest = known.asked({name: amount + known.fixed[name] for name, amount in unmet.nearest.items()})
        fix = " ".join(f"{name}={_written(name, amount, budget, up=True)}" for name, amount in nearest.items())
        what = f"the budget {asked} cannot be met"
        raise GateFailed(what, where="quantize.budget", fix=f"the nearest that can: {fix}; or add a choice") from unmet


def measured(folder: Path, budget: Budget) -> tuple[Sensitivity, Times | None]:
    """What a run left in its folder of what `budget` must know."""
    found = Sensitivity.from_json(json.loads((folder / "sensitivity.json").read_bytes()))
    timed = budget.latency is not None
    return found, Times.from_json(json.loads((folder / "times.json").read_bytes())) if timed else None


def share_out(found: Sensitivity, budget: Budget, *, signed: bool, times: Times | None = None) -> Shared:
    """The allocation and its alternatives; errors as in `allocate`."""
    chosen = allocate(found, budget, times)
    along = "size" if budget.latency is None else "latency"
    return Shared(
        budget, chosen, pareto(found, budget, times, along=along), rules(found, chosen.bits, signed=signed), times
    )


def pareto(found: Sensitivity, budget: Budget, times: Times | None = None, *, along: str = "size") -> tuple[Point, ...]:
    """The front of expected loss and size (or latency), by the budget's strategy.

    A latency is kept along the sizes, and bits and sizes along the latencies; other limits do not count.
    """
    known = _Known(found, budget, times)
    others = {name: limit for name, limit in known.limits.items() if (name == "latency") == (along == "size")}
    ends = front(known.items(), along, STRATEGIES[budget.strategy], points=POINTS, others=others)
    return tuple(map(known.point, ends))


class _Known:
    """Costs, uses and limits of one budget as the allocators see them: sums over the matrices."""

    def __init__(self, found: Sensitivity, budget: Budget, times: Times | None) -> None:
        if budget.latency is not None and times is None:
            raise UsageError("the weights were not timed", fix="run `qpipe plan` or `qpipe run` on the recipe")
        self._found, self._budget, self._times = found, budget, times
        self._elements = sum(matrix.elements for matrix in found.matrices)
        self.fixed = {"bits": 0.0, "size": float(found.rest_bytes), "latency": times.rest_ms if times else 0.0}
        """What is used whatever the choice."""

    @property
    def limits(self) -> dict[str, float]:
        """What the matrices may use."""
        units = self._units
        return {name: limit * units[name] - self.fixed[name] for name, limit in self._budget.limits.items()}

    def asked(self, used: Mapping[str, float]) -> dict[str, float]:
        """Sums in the units of a budget."""
        return {name: amount / self._units[name] for name, amount in used.items()}

    @property
    def _units(self) -> dict[str, float]:
        relative = self._times is not None and self._budget.latency_unit == "x"
        whole = self._times.float_ms if self._times and relative else 1.0
        return {"bits": float(self._elements), "size": 1.0, "latency": whole}

    def point(self, allocation: Allocation) -> Point:
        """An allocation with mean bits, bytes of the file, ms of a run."""
        used = {name: amount + self.fixed[name] for name, amount in allocation.uses.items()}
        return Point(dict(allocation.bits), allocation.cost, used | {"bits": used["bits"] / self._elements})

    def items(self) -> list[Item]:
        """The matrices that the budget decides."""
        omegas = {layer.name: layer.omega for layer in self._found.layers}
        if self._budget.strategy == "qbert" and not omegas:
            raise UsageError(
                "the curvature of the layers is not known", fix="run `qpipe plan` or `qpipe run` on the recipe"
            )
        return [self._item(one, omegas.get(f"layer {one.layer}", 0.0)) for one in self._found.matrices]

    def _item(self, matrix: Matrix, rank: float) -> Item:
        if self._budget.strategy == "qbert":
            costs: Mapping[int, float] = {bits: 0.5 * rank * error for bits, error in matrix.errors.items()}
        else:
            costs = _costs(matrix, self._budget.estimator)
        options = [self._option(matrix, bits, costs[bits], size) for bits, size in matrix.bytes.items()]
        if self._budget.leaves_float and matrix.layer is not None:
            options.append(self._option(matrix, FLOAT, 0.0, FLOAT_BYTES * matrix.elements))
        return Item(matrix.site, tuple(options), matrix.layer, rank)

    def _option(self, matrix: Matrix, bits: int, cost: float, size: int) -> Option:
        uses = {"bits": float(bits * matrix.elements), "size": float(size)}
        if self._times is not None:
            uses["latency"] = self._times.of(matrix.site, bits)
        return Option(bits, cost, uses)


def _costs(matrix: Matrix, estimator: Estimator) -> Mapping[int, float]:
    if estimator not in matrix.costs:
        raise UsageError(f"{estimator} was not estimated", where=matrix.site, fix=f"use {', '.join(matrix.costs)}")
    return matrix.costs[estimator]


def _written(name: str, amount: float, budget: Budget, *, up: bool = False) -> str:
    """An amount as a budget has it: 2.5, 30.00MB, 0.43x; rounded upwards where it must be enough."""
    known: dict[str, list[tuple[float, str]]] = {
        "bits": [(1.0, "")],
        "size": [(1e6, "MB"), (1e3, "kB")],
        "latency": [(1.0, budget.latency_unit)],
    }
    units = known[name]
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
        f"  - match: {{{match}}}\n    weights: {{dtype: {'float' if width == FLOAT else f'{kind}{width}'}}}\n"
        for width, match in sorted(lines)
    )
