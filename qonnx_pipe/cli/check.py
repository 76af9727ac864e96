"""`qpipe check`: every mistake of a recipe at once, without running anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from qonnx_pipe.cli import output
from qonnx_pipe.errors import RecipeError


@click.command(epilog=output.example("qpipe check recipes/quickstart.yaml --set validate.gates.speedup=2.5"))
@output.recipe_argument
@output.set_option
@output.json_option
@output.verbosity_options
@click.pass_context
def command(ctx: click.Context, recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check RECIPE (a file, or the name of a recipe that comes with qpipe): all mistakes, with file and line."""
    from qonnx_pipe.recipe import load

    try:
        loaded = load(recipe, overrides)
    except RecipeError as failure:
        if not as_json:
            raise
        output.emit_json({"ok": False, "problems": [asdict(problem) for problem in failure.problems]})
        ctx.exit(failure.exit_code)
    if as_json:
        output.emit_json({"ok": True, "problems": []})
    else:
        output.stdout().print(
            f"{recipe}: ok ({loaded.name}: {loaded.model.task} of {loaded.model.source})", markup=False
        )
