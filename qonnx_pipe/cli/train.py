"""`qpipe train`: the model that a recipe describes, fine-tuned as a checkpoint or trained with its quantizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qonnx_pipe.cli import output
from qonnx_pipe.core.artifact import TRAINED


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
    `model.source: recipe:RECIPE`. With quantize.qat it is the quantized model that is trained: `qpipe run` up to there.
    """
    from qonnx_pipe import pipeline
    from qonnx_pipe.cli.following import Follower
    from qonnx_pipe.recipe import load
    from qonnx_pipe.store import Store

    loaded, store = load(recipe, overrides), Store()
    folder = out or Path("runs") / loaded.name
    quantized = loaded.train is None and loaded.quantize.qat is not None
    with Follower(quiet=as_json) as follower:
        if quantized:
            pipeline.run(loaded, folder, follower.hear, store=store, first="qat" if anew else None, last="qat")
        else:
            entry = pipeline.train(loaded, follower.hear, store, anew=anew)
            store.materialize(entry, entry.files, folder)
    for damage in store.damaged:
        output.LOGGER.warning("a damaged cache entry was made again: %s", damage.reason)
    metrics = json.loads((folder / ("qat.json" if quantized else "metrics.json")).read_bytes())
    metrics.pop("encodings", None)
    if as_json:
        output.emit_json({"out": str(folder), **metrics})
    else:
        _show(folder / TRAINED if quantized else folder, metrics)


def _show(result: Path, metrics: dict[str, Any]) -> None:
    console = output.stdout()
    judged = {name: metric for name, metric in metrics["accuracy"].items() if metric}
    what = next((metric["name"] for metric in judged.values()), "")
    chosen = metrics.get("chosen", {}).get("epoch")
    for number, epoch in enumerate(metrics["epochs"], start=1):
        score = "" if epoch["accuracy"] is None else f", validation {what} {epoch['accuracy']:.2%}"
        held_out = f", loss there {epoch['held_out_loss']:.4f}" if "held_out_loss" in epoch else ""
        kept = ", kept" if number == chosen else ""
        console.print(f"epoch {number}: loss {epoch['loss']:.4f}{score}{held_out}{kept}")
    for name, metric in judged.items():
        low, high = metric["interval"]
        console.print(f"{name}: {metric['value']:.2%} [{low:.2%}, {high:.2%}] of {metric['n']}", markup=False)
    console.print(f"{'checkpoint' if result.suffix != '.onnx' else 'trained'} {result}", markup=False)
