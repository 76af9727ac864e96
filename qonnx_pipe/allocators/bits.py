"""Bits: matrices with a cost and a use of each width → the width of each under limits; exact, greedy, Q-BERT's rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qonnx_pipe.errors import MissingDependency, UsageError

Limits = Mapping[str, float]
"""Resource ("bits", "size", "latency") → most that may be used in all."""

SLACK = 1e-9
"""Relative rounding error of sums that are compared with a limit."""


@dataclass(frozen=True)
class Option:
    """One width of one matrix: what it costs, and what it uses of each resource."""

    bits: int
    cost: float
    uses: Mapping[str, float]


@dataclass(frozen=True)
class Item:
    """One matrix and its options; `layer` groups matrices that Q-BERT's rule treats alike, None stands alone.

    `rank`: how sensitive the layer is, for that rule.
    """

    name: str
    options: tuple[Option, ...]
    layer: int | None = None
    rank: float = 0.0


@dataclass(frozen=True)
class Allocation:
    """Bits by matrix, their cost, and what they use in all."""

    bits: Mapping[str, int]
    cost: float
    uses: Mapping[str, float]


class Unmet(Exception):
    """No allocation keeps the limits; `nearest`: limits that can be kept, each the given one or what it needs."""

    def __init__(self, nearest: Mapping[str, float]) -> None:
        super().__init__("the limits cannot be met")
        self.nearest = nearest


Strategy = Callable[[Sequence[Item], Limits], Allocation]


def exact(items: Sequence[Item], limits: Limits) -> Allocation:
    """The allocation of least total cost within `limits`, by an integer programme (HiGHS, in scipy).

    One binary a width of a matrix, one equation a matrix, one inequality a resource. Raises Unmet where there is
    none, with the limits that come nearest in shares of the most that can be used; MissingDependency without scipy.
    """
    found = _solved(items, limits, elastic=False)
    if found is None:
        used = _used(option for _, option in _solved(items, limits, elastic=True) or ())
        raise Unmet({name: max(limit, used[name]) for name, limit in limits.items()})
    return _allocation(found)


def _solved(items: Sequence[Item], limits: Limits, *, elastic: bool) -> list[tuple[str, Option]] | None:
    """The options of least cost; None where no choice is within `limits`.

    `elastic`: limits may be exceeded, cost does not count, and the excesses together are least.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError as error:
        raise MissingDependency("exact allocation needs scipy", fix="pip install 'qonnx-pipe[export]'") from error

    options = [(row, option) for row, item in enumerate(items) for option in item.options]
    count, spare = len(options), len(limits) if elastic else 0
    one_each = np.zeros((len(items), count + spare))
    one_each[[row for row, _ in options], range(count)] = 1
    constraints = [LinearConstraint(one_each, 1, 1)]
    for number, (name, limit) in enumerate(limits.items()):
        uses = np.array([option.uses[name] for _, option in options])
        unit, excess = float(np.abs(uses).max()) or 1.0, np.zeros(spare)
        excess[number : number + 1] = -sum(max(option.uses[name] for option in item.options) for item in items) / unit
        constraints.append(LinearConstraint(np.concatenate([uses / unit, excess])[None], -np.inf, limit / unit))
    costs = np.array([0.0 if elastic else option.cost for _, option in options])
    unit = float(np.abs(costs).max()) or 1.0
    found = milp(
        np.concatenate([costs / unit, np.ones(spare)]) * 1e3,  # far above HiGHS's absolute gap of 1e-6
        integrality=np.concatenate([np.ones(count), np.zeros(spare)]),
        bounds=Bounds(0, np.concatenate([np.ones(count), np.full(spare, np.inf)])),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    taken = zip(found.x[:count], options, strict=True)
    return [(items[row].name, option) for share, (row, option) in taken if share > 0.5]


def greedy(items: Sequence[Item], limits: Limits) -> Allocation:
    """From the best option of each, the step that loses least for what it saves, until the limits hold.

    Raises Unmet where no step is left.
    """
    state = {item.name: min(item.options, key=lambda option: option.cost) for item in items}
    while over := _exceeded(state.values(), limits):
        steps = [
            ((option.cost - state[item.name].cost) / saved, item.name, option)
            for item in items
            for option in item.options
            if (saved := state[item.name].uses[over] - option.uses[over]) > 0
        ]
        if not steps:
            raise Unmet(_least(items, limits))
        _, name, option = min(steps, key=lambda step: (step[0], step[1], step[2].bits))
        state[name] = option
    return _allocation(state.items())


def qbert(items: Sequence[Item], limits: Limits) -> Allocation:
    """Q-BERT's rule: of two widths, as many whole layers as the limits allow get the larger, the highest rank first.

    Shen et al. 2019, section 3.1: the rank is Ω of the layer. Raises UsageError for other than two widths, Unmet where
    the smaller everywhere is too much.
    """
    widths = sorted({option.bits for item in items for option in item.options})
    if len(widths) != 2 or any(len(item.options) != 2 for item in items):
        what = f"Q-BERT's rule chooses between two widths, not {', '.join(map(str, widths))}"
        raise UsageError(what, fix="give two: quantize.budget.choices: [2, 3]; or use strategy: exact")
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(item.name if item.layer is None else item.layer, []).append(item)
    low, high = ({item.name: pick(item.options, key=_bits) for item in items} for pick in (min, max))
    state = dict(low)
    if _exceeded(state.values(), limits):
        raise Unmet(_least(items, limits))
    for group in sorted(groups.values(), key=lambda group: -max(item.rank for item in group)):
        wider = state | {item.name: high[item.name] for item in group}
        if _exceeded(wider.values(), limits):
            break
        state = wider
    return _allocation(state.items())


STRATEGIES: Mapping[str, Strategy] = {"exact": exact, "greedy": greedy, "qbert": qbert}


def front(
    items: Sequence[Item], resource: str, strategy: Strategy, *, points: int, others: Limits
) -> tuple[Allocation, ...]:
    """Allocations under evenly spaced limits of one resource, from the least to the most, each better than the last.

    They keep the limits of `others` too; where none can, there is none.
    """
    uses = [[option.uses[resource] for option in item.options] for item in items]
    ends = [float(sum(map(pick, uses))) for pick in (min, max)]
    found: list[Allocation] = []
    for limit in np.linspace(ends[0], ends[1], points):
        try:
            one = strategy(items, {**others, resource: float(limit) * (1 + SLACK)})
        except Unmet:
            continue
        if not found or one.cost < found[-1].cost:
            found.append(one)
    return tuple(found)


def _bits(option: Option) -> int:
    return option.bits


def _allocation(chosen: Iterable[tuple[str, Option]]) -> Allocation:
    state = dict(chosen)
    return Allocation(
        {name: option.bits for name, option in state.items()},
        sum(option.cost for option in state.values()),
        _used(state.values()),
    )


def _used(options: Iterable[Option]) -> dict[str, float]:
    total: dict[str, float] = {}
    for option in options:
        for name, amount in option.uses.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _exceeded(options: Iterable[Option], limits: Limits) -> str | None:
    """The first resource of which more is used than allowed."""
    used = _used(options)
    return next((name for name, limit in limits.items() if used[name] > limit * (1 + SLACK)), None)


def _least(items: Sequence[Item], limits: Limits) -> dict[str, float]:
    """`limits`, or the least that can be used where that is more."""
    return {
        name: max(limit, sum(min(option.uses[name] for option in item.options) for item in items))
        for name, limit in limits.items()
    }
