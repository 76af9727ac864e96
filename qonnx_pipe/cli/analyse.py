"""`qpipe analyse`: why a model loses accuracy in few bits: outliers, quantizers one by one, ranges, weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output
from qonnx_pipe.cli.analysing import TOKENS, Choice, prepared, say, write

if TYPE_CHECKING:
    from qonnx_pipe.stages.analyse.leave_one_out import By


@click.group(
    epilog=output.example(
        "qpipe analyse outliers minilm-w8a8-full",
        "qpipe analyse leave-one-out minilm-w8a8-full --by layer --out analysis",
        "qpipe analyse leave-one-out minilm-w8a8-full --mirror --weights",
        "qpipe analyse ranges quickstart --json",
        "qpipe analyse sensitivity ptq-w8a32",
    )
)
@output.verbosity_options
def command() -> None:
    """See the outlier problem of a recipe's model (Bondarenko et al. 2021), and what helps."""


def _options(wrapped: output.Command) -> output.Command:
    """What all have in common."""
    help_text = f"Examples to run on; by default as many as hold {TOKENS:,} tokens."
    samples = click.option("--samples", type=click.IntRange(min=1), help=help_text)
    out = output.out_option(
        "Folder of the result and its plots; runs/<recipe name>/analysis by default.", required=False
    )
    for option in (
        output.verbosity_options,
        output.json_option,
        samples,
        out,
        output.set_option,
        output.recipe_argument,
    ):
        wrapped = option(wrapped)
    return wrapped


@command.command(
    epilog=output.example("qpipe analyse sensitivity ptq-w8a32", "qpipe analyse sensitivity ptq-w8a32 --json")
)
@_options
def sensitivity(
    *, recipe: Path, overrides: tuple[str, ...], out: Path | None, samples: int | None, as_json: bool
) -> None:
    """What each weight costs at 2, 3, 4 and 8 bits: measured, and as gradients and curvature expect it.

    Runs RECIPE's float model on its calibration data, one weight quantized at a time; then the gradients, traces and
    top eigenvalues of the Hessian, and how well each ranks the measured changes. Writes sensitivity.json and
    sensitivity.html.
    """
    from qonnx_pipe.cli.analysis_tables import show_sensitivity
    from qonnx_pipe.recipe.budget import Budget
    from qonnx_pipe.stages.analyse.pages import sensitivity_page
    from qonnx_pipe.stages.analyse.sensitivity import Questions
    from qonnx_pipe.stages.analyse.sensitivity import sensitivity as analyse
    from qonnx_pipe.stages.plan import candidates

    with prepared(recipe, overrides, Choice("export", "calibration", samples), quiet=as_json) as made:
        budget = made.recipe.quantize.budget or Budget(bits=8, embeddings=(2, 4, 8))
        found, batches, questions = candidates(made.recipe, made.model, budget), made.batches(8), Questions()
        steps = questions.steps(found.specs, sum(map(len, batches)))
        with output.progress("looking for sensitive weights", steps) as bar:
            result = analyse(
                made.model, found.specs, found.others, batches, task=made.recipe.model.task,
                questions=questions, workdir=made.folder, progress=bar.advance,
            )  # fmt: skip
        page = sensitivity_page(result, made.recipe.name)
    place = write(out, made.recipe.name, "sensitivity", result.to_json(), page)
    say(result.to_json(), as_json, lambda: show_sensitivity(result), place)


WEIGHTS = click.option("--weights", is_flag=True, help="Quantize the weights too, as the recipe says.")


@command.command(epilog=output.example("qpipe analyse outliers minilm-w8a8-full --samples 64 --out analysis"))
@_options
def outliers(*, recipe: Path, overrides: tuple[str, ...], out: Path | None, samples: int | None, as_json: bool) -> None:
    """Which dimensions of which activations are far wider than the others, which tokens carry them, who attends.

    Runs RECIPE's float model on its calibration data; writes outliers.json and outliers.html.
    """
    from qonnx_pipe.cli.analysis_tables import show_outliers
    from qonnx_pipe.stages.analyse.outliers import outliers as analyse
    from qonnx_pipe.stages.analyse.pages import outliers_page
    from qonnx_pipe.stages.analyse.tokens import Tokens

    with prepared(recipe, overrides, Choice("plan", "calibration", samples, judged=False), quiet=as_json) as made:
        batches = made.batches(4)
        with output.progress("looking for outliers", len(batches)) as bar:
            found = analyse(
                made.model,
                made.plan.sites,
                batches,
                Tokens.of(made.tokenizer),
                workdir=made.folder,
                progress=bar.advance,
            )
        page = outliers_page(found, made.recipe.name)
    place = write(out, made.recipe.name, "outliers", found.to_json(), page)
    say(found.to_json(), as_json, lambda: show_outliers(found), place)


@command.command("leave-one-out", epilog=output.example("qpipe analyse leave-one-out minilm-w8a8-full --by layer"))
@_options
@click.option("--by", type=click.Choice(["role", "layer"]), default="role", show_default=True, help="What is left out.")
@click.option("--mirror", is_flag=True, help="The other way round: quantize one at a time, leave the others in float.")
@WEIGHTS
def leave_one_out(
    *,
    recipe: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    samples: int | None,
    by: By,
    mirror: bool,
    weights: bool,
    as_json: bool,
) -> None:
    """What it wins back to leave the quantizers of one role or layer out, all others on.

    Simulates RECIPE's activations with a quantizer at every site (placement full) on its evaluation data, weights in
    float; writes leave-one-out.json and leave-one-out.html.
    """
    from qonnx_pipe.cli.analysis_tables import show_changes
    from qonnx_pipe.stages.analyse.leave_one_out import leave_one_out as analyse
    from qonnx_pipe.stages.analyse.leave_one_out import runs
    from qonnx_pipe.stages.analyse.pages import changes_page
    from qonnx_pipe.stages.calibrate import read_table

    full = (*overrides, "quantize.placement=full")
    with prepared(recipe, full, Choice("calibrate", "evaluation", samples), quiet=as_json) as made:
        table, batches = read_table(made.folder / "calibration.npz"), made.batches(8)
        with output.progress("leaving one out", runs(made.plan, by, len(batches))) as bar:
            found = analyse(
                made.model, made.plan, table, batches, task=made.recipe.model.task, by=by, mirror=mirror,
                with_weights=weights, workdir=made.folder, progress=bar.advance,
            )  # fmt: skip
        page = changes_page(found, made.recipe.name)
    place = write(out, made.recipe.name, "leave-one-out", found.to_json(), page)
    say(found.to_json(), as_json, lambda: show_changes(found), place)


@command.command(epilog=output.example("qpipe analyse ranges quickstart --set quantize.placement=full"))
@_options
@WEIGHTS
def ranges(
    *, recipe: Path, overrides: tuple[str, ...], out: Path | None, samples: int | None, weights: bool, as_json: bool
) -> None:
    """For each role the range estimator with the best SQNR, tried alone on the calibration data, and rules to copy.

    Simulates RECIPE's activations at its own placement, weights in float; writes ranges.json.
    """
    from qonnx_pipe.cli.analysis_tables import show_ranges
    from qonnx_pipe.core.statistics import Provenance
    from qonnx_pipe.stages.analyse.ranges import choose_ranges, requests, runs
    from qonnx_pipe.stages.calibrate import calibrate_stage

    with prepared(recipe, overrides, Choice("plan", "calibration", samples), quiet=as_json) as made:
        batches, wanted = made.batches(8), requests(made.plan)
        with output.progress("calibrating", len(batches)) as bar:
            facts = Provenance("", "", 0, 0, 0, 8, made.max_length)
            table = calibrate_stage(
                made.model, made.plan.sites, wanted, batches, facts, workdir=made.folder, progress=bar.advance
            )
        with output.progress("trying ranges", runs(made.plan, len(batches))) as bar:
            found = choose_ranges(
                made.model, made.plan, table, batches, task=made.recipe.model.task,
                with_weights=weights, workdir=made.folder, progress=bar.advance,
            )  # fmt: skip
    place = write(out, made.recipe.name, "ranges", found.to_json(), None)
    say(found.to_json(), as_json, lambda: show_ranges(found), place)
