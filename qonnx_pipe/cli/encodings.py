"""`qpipe encodings`: a run's encodings in the form of AIMET, for QAIRT's converter and the run's float model."""

from __future__ import annotations

from pathlib import Path

import click

from qonnx_pipe.cli import output
from qonnx_pipe.core.aimet import VERSIONS, Version


@click.command(
    epilog=output.example(
        "qpipe encodings runs/ptq-naive --out overrides.json",
        "qairt-converter --input_network runs/ptq-naive/float/model.onnx --quantization_overrides overrides.json",
    )
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--encoding-version",
    "version",
    type=click.Choice(VERSIONS),
    default=VERSIONS[0],
    show_default=True,
    help="Version of the form.",
)
@output.out_option("The JSON file.")
@output.json_option
@output.verbosity_options
def command(*, run: Path, version: Version, out: Path, as_json: bool) -> None:
    """Write the encodings of the run directory RUN as AIMET does, for its float/model.onnx.

    What the run did to the float model first (folds, scales for groups of dimensions, more columns, corrected biases)
    has no such form: these tensors are left out, and told.
    """
    from qonnx_pipe.core.files import write_json
    from qonnx_pipe.stages.exchange import export_encodings

    exported = export_encodings(run, version)
    write_json(out, exported.document)
    if as_json:
        skipped = [{"site": skip.site, "reason": skip.reason} for skip in exported.skipped]
        counts = {"activations": exported.activations, "params": exported.params}
        output.emit_json({"out": str(out), "encoding_version": version, **counts, "skipped": skipped})
        return
    console = output.stdout()
    console.print(f"{out}: {exported.activations} activations, {exported.params} weights", markup=False)
    for skip in exported.skipped:
        console.print(f"left out {skip.site}: {skip.reason}", markup=False)
