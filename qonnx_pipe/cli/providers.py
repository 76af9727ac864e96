"""`qpipe providers`: which execution providers this machine has, and how to get the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from qonnx_pipe.runtime.providers import Provider


@click.command(epilog=output.example("qpipe providers"))
@output.json_option
@output.verbosity_options
def command(as_json: bool) -> None:
    """List the execution providers that qpipe knows: version here, or how to get them."""
    from qonnx_pipe.runtime import providers

    rows = [_row(providers.find(name)) for name in providers.known()]
    if as_json:
        output.emit_json({"version": 1, "providers": rows})
        return
    console = output.stdout()
    for row in rows:
        state = f"not here; to get it: {row['install']}"
        if row["version"]:
            state = f"version {row['version']}" + (f", which cannot run: {row['problem']}" if row["problem"] else "")
        console.print(f"{row['name']}: {row['title']}, {state}", markup=False)


def _row(provider: Provider) -> dict[str, str | None]:
    """What is known of a provider; `problem`: why it cannot run although it is installed."""
    from qonnx_pipe.runtime.client import problem_of

    version = provider.version()
    return {
        "name": provider.name,
        "title": provider.title,
        "version": version,
        "install": provider.install,
        "problem": (version and problem_of(provider.name)) or None,
    }
