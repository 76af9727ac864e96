"""`qpipe compile`: a model as a provider compiles it, in a file that opens without compiling."""

from __future__ import annotations

from pathlib import Path

import click

from qonnx_pipe.cli import output
from qonnx_pipe.cli.workers import worker_options


@click.command(epilog=output.example("qpipe compile model.onnx --provider qnn --out model_ctx.onnx"))
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option("--provider", required=True, help="Which compiles it.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE.onnx", help="Where to write it.")
@worker_options
@output.json_option
@output.verbosity_options
def command(
    *,
    model: Path,
    provider: str,
    out: Path,
    interpreters: dict[str, Path],
    time_limit: float,
    memory_limit: int | None,
    as_json: bool,
) -> None:
    """Let a provider compile MODEL, and write what comes out: a model of EPContext nodes, with their binary beside it.

    It fits that provider's version and device alone. A node that the provider leaves to the CPU stays as it is.
    """
    from qonnx_pipe.core.files import atomic_directory_write
    from qonnx_pipe.runtime.client import Limits, Worker
    from qonnx_pipe.runtime.providers import check_interpreters

    check_interpreters((provider,), interpreters)
    limits = Limits(time_limit, memory_limit)
    with atomic_directory_write(out.parent) as folder:
        with Worker(model, provider, limits=limits, python=interpreters.get(provider)) as worker:
            worker.compile(folder / out.name)
        files = [out.parent / path.name for path in sorted(folder.glob(f"{out.stem}*"))]
    if as_json:
        output.emit_json({"version": 1, "files": [{"path": str(path), "bytes": path.stat().st_size} for path in files]})
        return
    for path in files:
        output.stdout().print(f"{path.stat().st_size / 1e6:8.1f} MB  {path}", highlight=False)
