"""`qpipe environment`: an interpreter of its own for a provider whose package cannot live beside the others."""

from __future__ import annotations

from pathlib import Path

import click

from qonnx_pipe.cli import output


@click.command(
    epilog=output.example(
        "qpipe environment openvino envs/openvino",
        "qpipe bench float.onnx model.onnx --provider cpu --provider openvino \\",
        "  --python openvino=envs/openvino/bin/python",
    )
)
@click.argument("provider")
@click.argument("folder", type=click.Path(path_type=Path))
@output.json_option
@output.verbosity_options
def command(provider: str, folder: Path, as_json: bool) -> None:
    """Make FOLDER: a virtual environment with numpy and PROVIDER's build of onnxruntime, and try it.

    `--python` of validate and bench, or `validate.interpreters` of a recipe, then names its interpreter.
    """
    from qonnx_pipe.runtime.client import installed
    from qonnx_pipe.runtime.environment import make_environment

    with output.progress(f"installing {provider}", 2) as bar:
        python = make_environment(provider, folder)
        bar.advance()
        found = installed(provider, python)
    option = f"--python {provider}={python}"
    if as_json:
        output.emit_json({"version": 1, "provider": provider, "python": str(python), "provider_version": found.version})
    else:
        output.stdout().print(f"{provider} {found.version} runs there: {option}", markup=False)
