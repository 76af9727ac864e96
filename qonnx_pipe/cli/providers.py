"""`qpipe providers`: which execution providers this machine has, how to get others, and why not the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output
from qonnx_pipe.errors import ProviderError

if TYPE_CHECKING:
    from rich.table import Table

    from qonnx_pipe.runtime.providers import Provider

STYLES = {"available": "green", "installable": "yellow", "impossible": "dim"}


@click.command(epilog=output.example("qpipe providers"))
@output.json_option
@output.verbosity_options
def command(as_json: bool) -> None:
    """List the execution providers that qpipe knows: version and device here, how to get them, or why not."""
    from qonnx_pipe.runtime import providers

    names = providers.known()
    with output.progress("asking providers", len(names)) as bar:
        rows = []
        for name in names:
            rows.append(_row(providers.find(name)))
            bar.advance()
    if as_json:
        output.emit_json({"version": 1, "providers": rows})
    else:
        output.stdout().print(_table(rows))


def _row(provider: Provider) -> dict[str, str | None]:
    """What is known of a provider; `problem`: why it cannot run here, installed or not."""
    from qonnx_pipe.runtime.client import installed

    version, device, problem = provider.version(), "", ""
    if version is None:
        problem = provider.needs.missing()
    else:
        try:
            device = installed(provider.name).device
        except ProviderError as error:
            problem = error.what
    usable = "installable" if version is None else "available"
    return {
        "name": provider.name,
        "title": provider.title,
        "state": "impossible" if problem else usable,
        "version": version,
        "device": device or None,
        "int8": provider.int8,
        "install": provider.install,
        "problem": problem or None,
    }


def _table(rows: list[dict[str, str | None]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("provider", "", "state", "int8 MatMul", "version and device, or what to do"):
        table.add_column(column)
    for row in rows:
        state = row["state"] or ""
        here = ", ".join(text for text in (row["version"], row["device"]) if text)
        more = row["problem"] or (here if state == "available" else row["install"])
        cells = (row["name"], row["title"], Text(state, STYLES[state]), row["int8"], more)
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell or "") for cell in cells))
    return table
