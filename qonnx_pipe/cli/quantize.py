"""`qpipe quantize`: a float ONNX model, a recipe and a calibration table to a quantized model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.core.statistics import CalibrationTable
    from qonnx_pipe.core.tuning import Tuning
    from qonnx_pipe.recipe import Recipe

FILE = click.Path(path_type=Path)


@click.command(
    epilog=output.example(
        "qpipe quantize float/model.onnx --recipe quickstart --calibration table.npz --out model.onnx"
    )
)
@click.argument("model", type=FILE)
@click.option("--recipe", "recipe", required=True, help="A recipe file, or the name of a packaged one.")
@click.option("--calibration", type=FILE, required=True, help="A table that `qpipe calibrate` wrote for this model.")
@output.out_option("The quantized model; its plan and its encodings are written beside it.")
@output.set_option
@output.tune_option
@output.json_option
@output.verbosity_options
def command(
    *, model: Path, recipe: str, calibration: Path, out: Path, overrides: tuple[str, ...], tune: bool, as_json: bool
) -> None:
    """Quantize MODEL as the `quantize` part of the recipe says.

    With --tune the recipe's calibration texts are read too: they tell what a faster file costs in accuracy.
    """
    from qonnx_pipe.core.artifact import sha256_file
    from qonnx_pipe.core.files import write_json
    from qonnx_pipe.errors import DataError
    from qonnx_pipe.pipeline.tuning import asking
    from qonnx_pipe.recipe import load
    from qonnx_pipe.recipe.library import find
    from qonnx_pipe.stages.calibrate import read_table
    from qonnx_pipe.stages.quantize import quantize_stage

    loaded = load(find(recipe), overrides)
    loaded = asking(loaded) if tune else loaded
    table = read_table(calibration)
    if table.provenance.model_sha256 != sha256_file(model):
        raise DataError(
            "the table was made for another model", where=str(calibration), fix=f"`qpipe calibrate {model} …`"
        )
    plan, tuning = _settled(loaded, model, table)
    encodings = quantize_stage(model, plan, table, out)
    write_json(out.with_suffix(".plan.json"), plan.to_json())
    write_json(out.with_suffix(".encodings.json"), encodings.to_json())
    if tuning is not None:
        write_json(out.with_suffix(".tuning.json"), tuning.to_json())
    ratio = model.stat().st_size / out.stat().st_size
    if as_json:
        skipped = [{"site": skip.site, "reason": skip.reason} for skip in plan.skipped]
        searched = {"tuning": tuning.to_json()} if tuning else {}
        output.emit_json({"out": str(out), "size_ratio": ratio, "skipped": skipped, **searched})
        return
    lines = [f"{out}: {ratio:.2f} times smaller"]
    lines += [
        f"{'kept' if trial.kept else 'tried'} {trial.name}: {trial.reason}"
        for trial in (tuning.trials if tuning else ())
    ]
    lines += [f"skipped {skip.site}: {skip.reason}" for skip in plan.skipped]
    for line in lines:
        output.stdout().print(line, markup=False)


def _settled(recipe: Recipe, model: Path, table: CalibrationTable) -> tuple[QuantPlan, Tuning | None]:
    """The plan with every form settled, and the search that led to it where the recipe asks for one."""
    from qonnx_pipe.pipeline.tuning import calibration_batches, search
    from qonnx_pipe.stages.lowering import settle_forms
    from qonnx_pipe.stages.plan import plan_stage

    if recipe.quantize.tune is None:
        return settle_forms(model, plan_stage(recipe, model), table), None
    return search(recipe, model, table, calibration_batches(recipe, model), say=output.LOGGER.info)
