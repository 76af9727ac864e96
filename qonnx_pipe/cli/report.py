"""`qpipe report`: one self-contained HTML page about a run."""

from __future__ import annotations

from pathlib import Path

import click

from qonnx_pipe.cli import output


@click.command(epilog=output.example("qpipe report runs/quickstart"))
@click.argument("run", type=click.Path(path_type=Path))
@output.out_option("Write the page to this file; by default report.html in RUN.", required=False)
@output.verbosity_options
def command(*, run: Path, out: Path | None) -> None:
    """Write one HTML page about the run directory RUN: it opens in any browser and loads nothing from elsewhere."""
    from qonnx_pipe.stages.report import write_report

    target = out or run / "report.html"
    write_report(run, target)
    output.stdout().print(str(target), markup=False)
