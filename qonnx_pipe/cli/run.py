"""`qpipe run`: the whole pipeline of a recipe, cached and resumable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output
from qonnx_pipe.cli.following import Follower
from qonnx_pipe.cli.verdict_files import conclude, verdict_options
from qonnx_pipe.core.stages import STAGES

if TYPE_CHECKING:
    from qonnx_pipe.core.stages import Stage
    from qonnx_pipe.pipeline import RunResult

SHOWN: tuple[tuple[str, Stage, str], ...] = (
    ("float", "export", "model.onnx"),
    ("model", "quantize", "model.onnx"),
    ("tuning", "tune", "tuning.json"),
    ("report", "report", "report.html"),
)
"""What people look for in a run directory: its word, its stage, its file."""

STAGE = click.Choice(STAGES)


@click.command(
    epilog=output.example(
        "qpipe run recipes/quickstart.yaml",
        "qpipe run quickstart --set data.calibration.samples=64 --out runs/small",
        "qpipe run recipe.yaml --from validate",
    )
)
@output.recipe_argument
@output.out_option("Run directory; runs/<recipe name> by default.", required=False)
@output.set_option
@click.option("--from", "first", type=STAGE, help="Make this stage and the later ones again, whatever is cached.")
@click.option("--until", "last", type=STAGE, help="Stop after this stage.")
@output.tune_option
@verdict_options
@output.json_option
@output.verbosity_options
def command(
    *,
    recipe: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    first: Stage | None,
    last: Stage | None,
    tune: bool,
    baseline: Path | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Run RECIPE: export, plan, calibrate, quantize, validate, report.

    A stage whose inputs have not changed is taken from the cache; an interrupted run goes on where it stopped.
    """
    from qonnx_pipe import pipeline
    from qonnx_pipe.pipeline.tuning import asking
    from qonnx_pipe.recipe import load

    if baseline is not None:
        overrides = (*overrides, f"validate.baseline={json.dumps(str(baseline.absolute()))}")
    loaded = load(recipe, overrides)
    loaded = asking(loaded) if tune else loaded
    folder = out or Path("runs") / loaded.name
    with Follower(quiet=as_json) as follower:
        result = pipeline.run(loaded, folder, follower.hear, first=first, last=last)
    for reason in result.damaged:
        output.LOGGER.warning("a damaged cache entry was made again: %s", reason)
    if as_json:
        verdict = result.verdict and result.verdict.to_json()
        output.emit_json({"out": str(folder), "recomputed": list(result.recomputed), "verdict": verdict})
    else:
        _show(result)
    if result.verdict is not None:
        conclude(result.verdict, junit=junit, markdown=markdown)


def _show(result: RunResult) -> None:
    """The verdict, and the files that matter of those that the run reached."""
    from qonnx_pipe.cli.verdict_table import verdict_table

    console = output.stdout()
    if result.verdict is not None:
        console.print(verdict_table(result.verdict))
    for word, stage, name in SHOWN:
        for path in result.files.get(stage, ()):
            if path.name == name:
                console.print(f"{word:<9}{path}", markup=False)
