"""`qpipe train`: the model that a recipe describes, fine-tuned, judged, and written as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qonnx_pipe.cli import output


@click.command(
    epilog=output.example(
        "qpipe train finetune-minilm-sentiment",
        "qpipe train recipe.yaml --set train.epochs=1 --out checkpoints/mine",
    )
)
@output.recipe_argument
@output.out_option("Folder for the checkpoint and metrics.json; runs/<recipe name> by default.", required=False)
@output.set_option
@click.option("--anew", is_flag=True, help="Train again, whatever is cached.")
@output.json_option
@output.verbosity_options
def command(*, recipe: Path, out: Path | None, overrides: tuple[str, ...], anew: bool, as_json: bool) -> None:
    """Fine-tune the model of RECIPE for its task on data.train; keep the epoch that is best on data.validation.

    An interrupted training goes on after its last whole epoch. Recipes that quantize name the result as
    `model.source: recipe:RECIPE`.
    """
    from qonnx_pipe import pipeline
    from qonnx_pipe.cli.following import Follower
    from qonnx_pipe.recipe import load
    from qonnx_pipe.store import Store

    loaded, store = load(recipe, overrides), Store()
    folder = out or Path("runs") / loaded.name
    with Follower(quiet=as_json) as follower:
        entry = pipeline.train(loaded, follower.hear, store, anew=anew)
    store.materialize(entry, entry.files, folder)
    for damage in store.damaged:
        output.LOGGER.warning("a damaged cache entry was made again: %s", damage.reason)
    metrics = json.loads((folder / "metrics.json").read_bytes())
    if as_json:
        output.emit_json({"out": str(folder), **metrics})
    else:
        _show(folder, metrics)


def _show(folder: Path, metrics: dict[str, Any]) -> None:
    console = output.stdout()
    judged = metrics["accuracy"]
    what = judged["validation"]["name"]
    for number, epoch in enumerate(metrics["epochs"], start=1):
        console.print(f"epoch {number}: loss {epoch['loss']:.4f}, validation {what} {epoch['accuracy']:.2%}")
    for name, metric in judged.items():
        low, high = metric["interval"]
        console.print(f"{name}: {metric['value']:.2%} [{low:.2%}, {high:.2%}] of {metric['n']}", markup=False)
    console.print(f"checkpoint {folder}", markup=False)
