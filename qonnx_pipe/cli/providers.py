"""`qpipe providers`: which execution providers this machine has, and how to get the others."""

from __future__ import annotations

import click

from qonnx_pipe.cli import output


@click.command(epilog=output.example("qpipe providers"))
@output.json_option
@output.verbosity_options
def command(as_json: bool) -> None:
    """List the execution providers that qpipe knows: version here, or how to get them."""
    from qonnx_pipe.runtime import providers

    found = [providers.find(name) for name in providers.known()]
    rows = [{"name": one.name, "title": one.title, "version": one.version(), "install": one.install} for one in found]
    if as_json:
        output.emit_json({"version": 1, "providers": rows})
        return
    console = output.stdout()
    for row in rows:
        state = f"version {row['version']}" if row["version"] else f"not here; to get it: {row['install']}"
        console.print(f"{row['name']}: {row['title']}, {state}", markup=False)
