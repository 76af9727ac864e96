"""`qpipe recipes`: the recipes that come with qpipe."""

from __future__ import annotations

import click

from qonnx_pipe.cli import output


@click.command(epilog=output.example("qpipe recipes", "qpipe run quickstart"))
@output.json_option
@output.verbosity_options
def command(as_json: bool) -> None:
    """List the recipes that come with qpipe; their names stand for RECIPE in every command."""
    from qonnx_pipe.recipe.library import listed

    rows = [
        {
            "name": path.stem,
            "task": recipe.model.task,
            "model": recipe.model.source,
            "description": description,
            "path": str(path),
        }
        for path, recipe, description in listed()
    ]
    if as_json:
        output.emit_json(rows)
        return
    for row in rows:
        output.stdout().print(f"{row['name']}: {row['description']}\n    {row['task']} of {row['model']}", markup=False)
