"""`qpipe plan`: every site of a recipe's model, its spec, and the rule that chose it; changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from rich.table import Table

    from qonnx_pipe.core.plan import QuantPlan


@click.command(epilog=output.example("qpipe plan recipes/quickstart.yaml", "qpipe plan quickstart --json"))
@output.recipe_argument
@output.set_option
@output.out_option("Keep the exported float model and the plan in this run directory.", required=False)
@output.json_option
@output.verbosity_options
def command(*, recipe: Path, overrides: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Show what every site of the model becomes under RECIPE."""
    import json
    import tempfile

    from qonnx_pipe import pipeline
    from qonnx_pipe.cli.following import Follower
    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.recipe import load

    loaded = load(recipe, overrides)
    with tempfile.TemporaryDirectory() as scratch, Follower(quiet=True) as follower:
        folder = out or Path(scratch)
        pipeline.run(loaded, folder, follower.hear, last="plan")
        written = json.loads((folder / "plan.json").read_bytes())
    if as_json:
        output.emit_json(written)
        return
    plan = QuantPlan.from_json(written)
    console = output.stdout()
    console.print(_table(plan))
    for skip in plan.skipped:
        console.print(f"skipped {skip.site}: {skip.reason}", markup=False)
    console.print(f"{len(plan.quantized)} of {len(plan.entries)} sites are quantized for {plan.target}", markup=False)


def _table(plan: QuantPlan) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("site", "becomes", "by", "lowered as", "why"):
        table.add_column(heading, no_wrap=heading != "why", style="dim" if heading == "why" else "")
    for entry in plan.entries:
        spec = "float" if entry.spec is None else str(entry.spec)
        cells = (entry.site.id, spec, entry.rule, entry.lowering, entry.reason)
        table.add_row(*(Text(cell) for cell in cells))
    return table
