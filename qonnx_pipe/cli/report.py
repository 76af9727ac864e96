"""`qpipe report`: one self-contained HTML page about a run, or about several beside each other."""

from __future__ import annotations

from pathlib import Path

import click

from qonnx_pipe.cli import output


@click.command(epilog=output.example("qpipe report runs/quickstart", "qpipe report runs/before runs/after"))
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN...")
@output.out_option(
    "Write the page to this file; by default report.html, or compare.html, in the first RUN.", required=False
)
@output.verbosity_options
def command(*, runs: tuple[Path, ...], out: Path | None) -> None:
    """Write one HTML page about the run directory RUN, or one that compares several.

    It opens in any browser and loads nothing from elsewhere.
    """
    from qonnx_pipe.stages.report import write_comparison, write_report

    if len(runs) == 1:
        target = out or runs[0] / "report.html"
        write_report(runs[0], target)
    else:
        target = out or runs[0] / "compare.html"
        write_comparison(runs, target)
    output.stdout().print(str(target), markup=False)
