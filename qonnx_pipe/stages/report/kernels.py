"""Kernels: what really ran for every weight MatMul, as a map of layers × roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qonnx_pipe.core.kernels import Kernel
from qonnx_pipe.core.partition import Partition
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.site import LAYER_ROLES, Role
from qonnx_pipe.core.verdict import Result, Verdict

OUTSIDE, UNPLANNED = "outside", "MatMul"
Place = tuple[str, str]
"""Row (a layer) and column (a role) of the map."""


@dataclass(frozen=True)
class Cell:
    """The MatMuls of one place, how many of them ran in integers, and what a reader may ask: name, kernel, reason."""

    nodes: tuple[Kernel, ...]
    float_us: float | None

    @property
    def state(self) -> str:
        """int8, float or mixed: a class of the style sheet."""
        integer = sum(node.integer for node in self.nodes)
        return "int8" if integer == len(self.nodes) else "mixed" if integer else "float"

    @property
    def micros(self) -> float | None:
        """Time of all nodes in one run, µs; None when the profiler did not see each."""
        return _total(self.nodes)

    @property
    def title(self) -> str:
        """Everything about the cell in words."""
        lines = [f"{node.node}: {node.kernel}{': ' if node.reason else ''}{node.reason}" for node in self.nodes]
        if self.micros is not None and self.float_us is not None:
            lines.append(f"{self.micros:.0f} µs; {self.float_us:.0f} µs in the float model")
        return "\n".join(lines)


@dataclass(frozen=True)
class KernelMap:
    """All weight MatMuls of one provider. `cells` by row, in the order of `columns`, None where there is none."""

    provider: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    floats: tuple[Kernel, ...]
    partition: Partition | None = None

    @property
    def is_mixed(self) -> bool:
        """Whether some place holds kernels of both kinds."""
        return any(cell is not None and cell.state == "mixed" for _, cells in self.rows for cell in cells)


def maps(verdict: Verdict, plan: QuantPlan | None) -> tuple[KernelMap, ...]:
    """One map a provider that could run the quantized model."""
    places = {name: place for name, place in _places(plan)} if plan else {}
    baselines = {result.provider: result for result in verdict.results if result.model == "float"}
    return tuple(
        _map(result, baselines.get(result.provider), places)
        for result in verdict.results
        if result.model == "quantized" and result.kernels
    )


def _places(plan: QuantPlan) -> Iterator[tuple[str, Place]]:
    """Where each MatMul belongs, by its node's name."""
    for entry in plan.entries:
        site = entry.site
        if site.role is Role.WEIGHT:
            row = OUTSIDE if site.layer is None else str(site.layer)
            yield from ((node, (row, str(site.owner or UNPLANNED))) for node in site.feeds)


def _map(result: Result, baseline: Result | None, places: Mapping[str, Place]) -> KernelMap:
    nodes = result.kernels.nodes if result.kernels else ()
    floats = {node.node: node for node in baseline.kernels.nodes} if baseline and baseline.kernels else {}
    grouped: dict[Place, list[Kernel]] = {}
    for node in nodes:
        grouped.setdefault(places.get(node.node, (OUTSIDE, UNPLANNED)), []).append(node)
    cells = {
        place: Cell(tuple(here), _total([floats[node.node] for node in here if node.node in floats]))
        for place, here in grouped.items()
    }
    columns = sorted({role for _, role in cells}, key=_order)
    rows = sorted({row for row, _ in cells}, key=lambda row: (row == OUTSIDE, len(row), row))
    return KernelMap(
        result.provider,
        tuple(columns),
        tuple((row, tuple(cells.get((row, column)) for column in columns)) for row in rows),
        tuple(node for node in nodes if not node.integer),
        result.partition,
    )


def _order(role: str) -> int:
    order = [str(known) for known in LAYER_ROLES]
    return order.index(role) if role in order else len(order)


def _total(nodes: Sequence[Kernel]) -> float | None:
    times = [node.mean_us for node in nodes if node.mean_us is not None]
    return sum(times) if times and len(times) == len(nodes) else None
