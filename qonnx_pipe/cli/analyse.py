"""`qpipe analyse`: why a model loses accuracy in 8 bits: its outliers, its quantizers one by one, its ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from qonnx_pipe.core.examples import Batch, Examples
    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.pipeline import Stage
    from qonnx_pipe.recipe import Recipe
    from qonnx_pipe.stages.analyse.leave_one_out import By

TOKENS = 4096
"""Tokens to look at unless `--samples` says how many examples: minutes for BERT-base on two cores."""

MOST = 1024
"""Examples to draw these tokens from."""

PATCHES = 197
"""Tokens of an image: those of ViT-Base at 224 pixels."""


@click.group(
    epilog=output.example(
        "qpipe analyse outliers minilm-w8a8-full",
        "qpipe analyse leave-one-out minilm-w8a8-full --by layer --out analysis",
        "qpipe analyse leave-one-out minilm-w8a8-full --mirror --weights",
        "qpipe analyse ranges quickstart --json",
    )
)
@output.verbosity_options
def command() -> None:
    """See the outlier problem of a recipe's model (Bondarenko et al. 2021), and what helps."""


def _options(wrapped: output.Command) -> output.Command:
    """What all three have in common."""
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

    with _prepared(recipe, overrides, _Choice("plan", "calibration", samples, judged=False), quiet=as_json) as made:
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
    place = _write(out, made.recipe.name, "outliers", found.to_json(), page)
    _say(found.to_json(), as_json, lambda: show_outliers(found), place)


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
    with _prepared(recipe, full, _Choice("calibrate", "evaluation", samples), quiet=as_json) as made:
        table, batches = read_table(made.folder / "calibration.npz"), made.batches(8)
        with output.progress("leaving one out", runs(made.plan, by, len(batches))) as bar:
            found = analyse(
                made.model, made.plan, table, batches, task=made.recipe.model.task, by=by, mirror=mirror,
                with_weights=weights, workdir=made.folder, progress=bar.advance,
            )  # fmt: skip
        page = changes_page(found, made.recipe.name)
    place = _write(out, made.recipe.name, "leave-one-out", found.to_json(), page)
    _say(found.to_json(), as_json, lambda: show_changes(found), place)


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

    with _prepared(recipe, overrides, _Choice("plan", "calibration", samples), quiet=as_json) as made:
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
    place = _write(out, made.recipe.name, "ranges", found.to_json(), None)
    _say(found.to_json(), as_json, lambda: show_ranges(found), place)


@dataclass(frozen=True)
class _Choice:
    """What an analysis needs: the pipeline up to a stage, and examples (None: as many as hold TOKENS tokens).

    `judged`: its outputs are compared, so that the task must be one of those that can be validated.
    """

    last: Stage
    part: Literal["calibration", "evaluation"]
    samples: int | None
    judged: bool = True


@dataclass(frozen=True)
class _Made:
    """A recipe with its plan, in a folder that lasts as long as the analysis, and the examples to run on."""

    recipe: Recipe
    plan: QuantPlan
    folder: Path
    examples: Examples
    max_length: int
    bounded: bool

    @property
    def model(self) -> Path:
        """The float model."""
        return self.folder / "float" / "model.onnx"

    @property
    def tokenizer(self) -> Path:
        """What stands beside it."""
        return self.model.with_name("tokenizer.json")

    def batches(self, size: int) -> list[Batch]:
        """The examples, `size` at a time, in seeded order."""
        from qonnx_pipe import data
        from qonnx_pipe.graph.summary import summarise

        names = [port.name for port in summarise(self.model).inputs]
        made = data.batches(self.examples, self.tokenizer, names, batch_size=size, max_length=self.max_length)
        return list(_bounded(made)) if self.bounded else made


def _bounded(batches: list[Batch]) -> Iterator[Batch]:
    """Whole batches until they hold TOKENS tokens."""
    tokens = 0
    for batch in batches:
        if tokens >= TOKENS:
            return
        mask = batch.inputs.get("attention_mask")
        tokens += PATCHES * len(batch) if mask is None else int(mask.astype("int64").sum())
        yield batch


@contextmanager
def _prepared(recipe: Path, overrides: tuple[str, ...], choice: _Choice, *, quiet: bool) -> Iterator[_Made]:
    """The examples, and the recipe run up to a stage, out of the pipeline's cache where it holds that."""
    import json
    import tempfile

    from qonnx_pipe import pipeline, tasks
    from qonnx_pipe.cli.following import Follower
    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.pipeline.training import load_examples
    from qonnx_pipe.pipeline.work import Work
    from qonnx_pipe.recipe import load
    from qonnx_pipe.store import Store

    loaded = load(recipe, overrides)
    if choice.judged:
        tasks.find(loaded.model.task)
    with tempfile.TemporaryDirectory(prefix="qpipe-") as scratch, Follower(quiet=quiet) as follower:
        folder, store = Path(scratch), Store()
        wanted = Work(loaded, folder, follower.hear, store).choice(choice.part)
        most = choice.samples or MOST
        most = min(most, wanted.samples or most)
        examples = load_examples(wanted.model_copy(update={"samples": most}), loaded.model.task)
        pipeline.run(loaded, folder, follower.hear, store=store, last=choice.last)
        plan = QuantPlan.from_json(json.loads((folder / "plan.json").read_bytes()))
        yield _Made(loaded, plan, folder, examples, wanted.max_length, choice.samples is None)


def _write(out: Path | None, recipe: str, name: str, document: object, page: str | None) -> Path:
    """Put the result, and its page if it has one, into the folder; where people should look."""
    from qonnx_pipe.core.files import write_atomic, write_json

    folder = out or Path("runs") / recipe / "analysis"
    write_json(folder / f"{name}.json", document)
    if page is None:
        return folder / f"{name}.json"
    write_atomic(folder / f"{name}.html", page)
    return folder / f"{name}.html"


def _say(document: object, as_json: bool, show: Callable[[], None], place: Path) -> None:
    if as_json:
        output.emit_json(document)
    else:
        show()
        output.stdout().print(f"written to {place}", markup=False)
