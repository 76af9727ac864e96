"""`qpipe quantize`: a float ONNX model, a recipe, and a calibration table or encodings to a quantized model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.core.statistics import CalibrationTable
    from qonnx_pipe.core.tuning import Tuning
    from qonnx_pipe.recipe import Recipe
    from qonnx_pipe.stages.exchange import Adopted

FILE = click.Path(path_type=Path)
SHOWN = 3
"""Names of unused tensors that are shown to people."""


@click.command(
    epilog=output.example(
        "qpipe quantize float/model.onnx --recipe quickstart --calibration table.npz --out model.onnx",
        "qpipe quantize float/model.onnx --recipe ptq-naive --from-encodings overrides.json --out model.onnx",
    )
)
@click.argument("model", type=FILE)
@click.option("--recipe", "recipe", required=True, help="A recipe file, or the name of a packaged one.")
@click.option("--calibration", type=FILE, help="A table that `qpipe calibrate` wrote for this model.")
@click.option("--from-encodings", "encodings", type=FILE, help="Encodings in the form of AIMET, instead of a table.")
@output.out_option("The quantized model; its plan and its encodings are written beside it.")
@output.set_option
@output.tune_option
@output.json_option
@output.verbosity_options
def command(
    *,
    model: Path,
    recipe: str,
    calibration: Path | None,
    encodings: Path | None,
    out: Path,
    overrides: tuple[str, ...],
    tune: bool,
    as_json: bool,
) -> None:
    """Quantize MODEL as the `quantize` part of the recipe says.

    With --from-encodings the recipe still chooses sites, types, granularity and target; scales and offsets come from
    the file, which must agree with it. Activations that the file does not name stay float and are told; weights that it
    does not name get scales from their values. Folds, groups, further columns and corrected biases need --calibration.

    With --tune the recipe's calibration texts are read too: they tell what a faster file costs in accuracy.
    """
    from qonnx_pipe.core.files import write_json
    from qonnx_pipe.errors import UsageError
    from qonnx_pipe.pipeline.tuning import asking
    from qonnx_pipe.recipe import load
    from qonnx_pipe.recipe.library import find
    from qonnx_pipe.stages.exchange import adopt_encodings
    from qonnx_pipe.stages.plan import plan_stage
    from qonnx_pipe.stages.quantize import quantize_stage

    if (calibration is None) == (encodings is None):
        raise UsageError("one of --calibration and --from-encodings is needed", fix="give one of them, not both")
    loaded = load(find(recipe), overrides)
    plan, adopted, tuning = plan_stage(loaded, model), None, None
    if encodings is not None:
        if tune:
            raise UsageError("--tune needs --calibration", fix="calibrate, or leave out --tune")
        adopted = adopt_encodings(encodings, plan, model)
        plan, table = adopted.plan, adopted.table
    elif calibration is not None:
        table = _table(calibration, model)
        plan, tuning = _settled(asking(loaded) if tune else loaded, model, plan, table)
    written = quantize_stage(model, plan, table, out, given=None if adopted is None else adopted.encodings)
    write_json(out.with_suffix(".plan.json"), plan.to_json())
    write_json(out.with_suffix(".encodings.json"), written.to_json())
    if tuning is not None:
        write_json(out.with_suffix(".tuning.json"), tuning.to_json())
    _tell(_Made(out, model.stat().st_size / out.stat().st_size, plan, adopted, tuning), as_json=as_json)


def _table(calibration: Path, model: Path) -> CalibrationTable:
    """The table; DataError when it is another model's."""
    from qonnx_pipe.core.artifact import sha256_file
    from qonnx_pipe.errors import DataError
    from qonnx_pipe.stages.calibrate import read_table

    table = read_table(calibration)
    if table.provenance.model_sha256 != sha256_file(model):
        raise DataError(
            "the table was made for another model", where=str(calibration), fix=f"`qpipe calibrate {model} …`"
        )
    return table


def _settled(recipe: Recipe, model: Path, plan: QuantPlan, table: CalibrationTable) -> tuple[QuantPlan, Tuning | None]:
    """The plan with every form settled, and the search that led to it where the recipe asks for one."""
    from qonnx_pipe.pipeline.tuning import calibration_batches, search
    from qonnx_pipe.stages.lowering import settle_forms

    if recipe.quantize.tune is None:
        return settle_forms(model, plan, table), None
    return search(recipe, model, table, calibration_batches(recipe, model), say=output.LOGGER.info)


@dataclass(frozen=True)
class _Made:
    """What was made, what could not be, what of given encodings was used, and what was tried."""

    out: Path
    ratio: float
    plan: QuantPlan
    adopted: Adopted | None
    tuning: Tuning | None


def _tell(made: _Made, *, as_json: bool) -> None:
    adopted, tuning, skipped = made.adopted, made.tuning, made.plan.skipped
    if as_json:
        told: dict[str, object] = {"skipped": [{"site": skip.site, "reason": skip.reason} for skip in skipped]}
        if adopted is not None:
            told["encodings"] = {"used": len(adopted.encodings), "unused": list(adopted.unused)}
        if tuning is not None:
            told["tuning"] = tuning.to_json()
        output.emit_json({"out": str(made.out), "size_ratio": made.ratio, **told})
        return
    lines = [f"{made.out}: {made.ratio:.2f} times smaller"]
    if adopted is not None:
        lines.append(f"{len(adopted.encodings)} encodings used")
        if adopted.unused:
            names = ", ".join(adopted.unused[:SHOWN]) + (", …" if len(adopted.unused) > SHOWN else "")
            lines.append(f"{len(adopted.unused)} not used, of tensors that the recipe leaves float: {names}")
    lines += [
        f"{'kept' if trial.kept else 'tried'} {trial.name}: {trial.reason}"
        for trial in (tuning.trials if tuning else ())
    ]
    lines += [f"skipped {skip.site}: {skip.reason}" for skip in skipped]
    for line in lines:
        output.stdout().print(line, markup=False)
