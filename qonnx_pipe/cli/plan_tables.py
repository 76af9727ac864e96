"""Tables of a plan, as a terminal shows them: its sites, and what a budget comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from qonnx_pipe.cli import output
from qonnx_pipe.core.times import FLOAT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.pipeline.dropping import Trial
    from qonnx_pipe.stages.allocate import Point, Shared


def show_sites(plan: QuantPlan) -> None:
    """A line a site, what was skipped, how many are quantized."""
    table = Table(box=None, pad_edge=False)
    for heading in ("site", "becomes", "by", "lowered as", "why"):
        table.add_column(heading, no_wrap=heading != "why", style="dim" if heading == "why" else "")
    for entry in plan.entries:
        spec = "float" if entry.spec is None else str(entry.spec)
        cells = (entry.site.id, spec, entry.rule, entry.lowering, entry.reason)
        table.add_row(*(Text(cell) for cell in cells))
    console = output.stdout()
    console.print(table)
    for skip in plan.skipped:
        console.print(f"skipped {skip.site}: {skip.reason}", markup=False)
    console.print(f"{len(plan.quantized)} of {len(plan.entries)} sites are quantized for {plan.target}", markup=False)


def show_allocation(shared: Shared, trials: Sequence[Trial]) -> None:
    """Bits by layer and weight, the front, every file that was tried, and rules to copy."""
    console = output.stdout()
    console.print(_bits(shared.chosen))
    console.print(f"{shared.budget.strategy}: {_amounts(shared)}", markup=False)
    console.print(_front(shared))
    for trial in trials:
        low, high = (f"{end * 100:+.2f}" for end in trial.interval)
        drop = f"loses {trial.drop * 100:+.2f} points [{low}, {high}]"
        kept = "within" if trial.kept else "too much"
        console.print(f"{trial.bits:.2f} bits, {trial.bytes / 1e6:.2f} MB: {drop}: {kept}", markup=False)
    console.print(shared.rules, markup=False)


def _bits(point: Point) -> Table:
    """A row a layer, a column for each kind of weight; tables have a row of their own."""
    cells: dict[str, dict[str, int]] = {}
    for site, bits in point.bits.items():
        place, _, what = site.partition("/weight[")
        cells.setdefault(place, {})[what.rstrip("]") or "table"] = bits
    columns = list(dict.fromkeys(name for row in cells.values() for name in row))
    table = Table("bits of", *columns, box=None, pad_edge=False)
    for place, row in cells.items():
        table.add_row(place, *("float" if row.get(name) == FLOAT else str(row.get(name, "")) for name in columns))
    return table


def _front(shared: Shared) -> Table:
    timed = ["run"] if shared.times else []
    table = Table("file", "bits a weight", *timed, _loss(shared), box=None, pad_edge=False)
    for point in shared.front:
        time = [_time(shared, point)] if shared.times else []
        figures = (f"{point.amounts['size'] / 1e6:.2f} MB", f"{point.amounts['bits']:.2f}", *time, f"{point.cost:.3g}")
        table.add_row(*figures)
    return table


def _amounts(shared: Shared) -> str:
    found, times = shared.chosen.amounts, shared.times
    figures = f"{found['bits']:.2f} bits a weight, {found['size'] / 1e6:.2f} MB, "
    if times is not None:
        batch, sequence = times.shape
        where = f"{batch}×{sequence} on {times.provider}, {times.threads} threads"
        figures += f"{_time(shared, shared.chosen)} of {times.float_ms:.2f} ms ({where}), "
    return f"{figures}{_loss(shared)} {shared.chosen.cost:.3g}"


def _time(shared: Shared, point: Point) -> str:
    """The expected time of a run, and its share of the float model's."""
    assert shared.times is not None
    ms = point.amounts["latency"]
    return f"{ms:.2f} ms ({ms / shared.times.float_ms:.2f}x)"


def _loss(shared: Shared) -> str:
    """What an allocation's cost is called; Q-BERT's rule weighs errors, and expects no loss of them."""
    return "½Ω‖Δ‖²" if shared.budget.strategy == "qbert" else "expected loss"
