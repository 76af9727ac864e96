"""`qpipe schema`: the JSON Schema of recipes, for editors and as the reference of every key."""

from __future__ import annotations

import click

from qonnx_pipe.cli import output


@click.command(epilog=output.example("qpipe schema > recipe.schema.json"))
@output.verbosity_options
def command() -> None:
    """Print the JSON Schema (draft 2020-12) of recipes, every key described."""
    from qonnx_pipe.recipe import json_schema

    output.emit_json(json_schema())
