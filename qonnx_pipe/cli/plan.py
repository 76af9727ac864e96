"""`qpipe plan`: every site of a recipe's model, its spec, and the rule that chose it; changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output
from qonnx_pipe.cli.plan_tables import show_allocation, show_sites
from qonnx_pipe.errors import UsageError

if TYPE_CHECKING:
    from qonnx_pipe.pipeline.dropping import Trial
    from qonnx_pipe.recipe import Recipe
    from qonnx_pipe.stages.allocate import Shared

LIMITS = ("bits", "size", "latency")
"""What a budget may limit."""


@click.command(
    epilog=output.example(
        "qpipe plan recipes/quickstart.yaml",
        "qpipe plan quickstart --json",
        "qpipe plan ptq-w8a32 --budget bits=3 --budget size=20MB",
        "qpipe plan quickstart --budget latency=0.5x",
        "qpipe plan ptq-w8a32 --max-drop 1.0",
    )
)
@output.recipe_argument
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="NAME=AMOUNT",
    help="Share bits out by sensitivity within bits=2.5 (a weight, on average), size=30MB (the file) or latency=0.5x "
    "(of the float model's time, or 8ms), or several.",
)
@click.option("--strategy", type=click.Choice(["exact", "greedy", "qbert"]), help="How a budget is shared out.")
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0, min_open=True),
    metavar="POINTS",
    help="The smallest file that loses at most so many points of the task's metric on the evaluation data.",
)
@output.set_option
@output.out_option("Keep the exported float model and the plan in this run directory.", required=False)
@output.json_option
@output.verbosity_options
def command(
    *,
    recipe: Path,
    budgets: tuple[str, ...],
    strategy: str | None,
    max_drop: float | None,
    overrides: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Show what every site of the model becomes under RECIPE.

    With a budget (in the recipe, or --budget) the weights' bits by sensitivity, what other budgets would give, and
    rules to copy. --max-drop looks along these by bisection: it makes each file and runs it.
    """
    import json
    import tempfile

    from qonnx_pipe import pipeline
    from qonnx_pipe.cli.following import Follower
    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.pipeline.dropping import within_drop
    from qonnx_pipe.pipeline.progress import Progress
    from qonnx_pipe.recipe import load

    asked = _asked(budgets, max_drop)
    if strategy and not asked and max_drop is None and load(recipe, overrides).quantize.budget is None:
        what = f"--strategy {strategy} shares out a budget, and there is none"
        raise UsageError(what, where=str(recipe), fix="--budget bits=2.5, or quantize.budget in the recipe")
    asked += [f"quantize.budget.strategy={strategy}"] if strategy else []
    changes = (*overrides, *asked)
    loaded, replaced = (load(recipe, changes), "") if max_drop is None else _unlimited(recipe, changes)
    with tempfile.TemporaryDirectory() as scratch, Follower(quiet=loaded.quantize.budget is None) as follower:
        folder = out or Path(scratch)
        trials: tuple[Trial, ...] = ()
        if replaced:
            follower.hear(Progress("plan", "warning", f"--max-drop takes the place of the recipe's {replaced}"))
        if max_drop is not None:
            loaded, trials = within_drop(loaded, max_drop / 100, follower.hear)
        pipeline.run(loaded, folder, follower.hear, last="plan")
        written = json.loads((folder / "plan.json").read_bytes())
        shared = _shared(loaded, folder)
    if as_json:
        tried = {"trials": [trial.to_json() for trial in trials]}
        output.emit_json(written if shared is None else {**written, "allocation": {**shared.to_json(), **tried}})
    elif shared is not None:
        show_allocation(shared, trials)
    else:
        show_sites(QuantPlan.from_json(written))


def _shared(recipe: Recipe, folder: Path) -> Shared | None:
    """What the recipe's budget came to; None without one."""
    from qonnx_pipe.stages.allocate import measured, share_out

    budget, dtype = recipe.quantize.budget, recipe.quantize.weights.dtype or "int8"
    if budget is None:
        return None
    found, times = measured(folder, budget)
    return share_out(found, budget, signed=not dtype.startswith("uint"), times=times)


def _unlimited(recipe: Path, changes: tuple[str, ...]) -> tuple[Recipe, str]:
    """The recipe under `changes` with a budget to look along, and which limits --max-drop takes the place of.

    A budget cannot be without a limit, so that each of the two is read beside one of the other.
    """
    from qonnx_pipe.recipe import load

    beside = {"bits": "size=1GB", "size": "bits=8"}
    loaded = {name: load(recipe, (*changes, f"quantize.budget.{other}")) for name, other in beside.items()}
    own = [name for name, one in loaded.items() if getattr(one.quantize.budget, name) is not None]
    return loaded["size"], " and ".join(own)


def _asked(budgets: tuple[str, ...], max_drop: float | None) -> list[str]:
    """The limits as changes of the recipe."""
    found = dict[str, str]()
    for text in budgets:
        name, _, amount = text.partition("=")
        if name not in LIMITS or not amount.strip():
            what = f"--budget {text}: no amount" if name in LIMITS else f"--budget {text}: no such budget"
            raise UsageError(what, fix="bits=2.5, size=30MB or latency=0.5x")
        if name in found:
            raise UsageError(f"--budget {text}: {name} has a limit already, {found[name]}", fix="give one of them")
        found[name] = amount
    if max_drop is not None and (own := {"bits", "size"} & found.keys()):
        what = f"--max-drop finds the size itself, without a limit of {' and '.join(sorted(own))}"
        raise UsageError(what, fix="leave one of them out; latency=0.5x may stand beside it")
    return [f"quantize.budget.{name}={amount}" for name, amount in found.items()]
