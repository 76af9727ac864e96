"""`qpipe bench`: several models side by side on some providers, interleaved, each in a process of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output
from qonnx_pipe.cli.shape import shape_option
from qonnx_pipe.cli.workers import worker_options

if TYPE_CHECKING:
    from rich.table import Table

    from qonnx_pipe.core.verdict import Latency

Measured = list[tuple[Path, str, int, "Latency"]]


@click.command(epilog=output.example("qpipe bench float/model.onnx model.onnx --shape 8x128 --threads 2"))
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="MODEL.onnx...")
@click.option("--provider", "providers", multiple=True, default=("cpu",), show_default=True, help="Where to run.")
@click.option("--no-fallback", is_flag=True, help="A provider that leaves a node to the CPU has failed.")
@shape_option
@click.option("--threads", type=click.IntRange(min=1), help="Threads of a session; all cores by default.")
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Interleaved rounds.")
@worker_options
@output.json_option
@output.verbosity_options
def command(
    *,
    models: tuple[Path, ...],
    providers: tuple[str, ...],
    no_fallback: bool,
    shapes: tuple[tuple[int, int], ...],
    threads: int | None,
    rounds: int,
    interpreters: dict[str, Path],
    time_limit: float,
    memory_limit: int | None,
    as_json: bool,
) -> None:
    """Time MODELs against the first of them on the first provider, on made-up tokens without padding.

    Speedups are medians over paired rounds, with 95 % bootstrap intervals.
    """
    from qonnx_pipe.graph.size import size_parts
    from qonnx_pipe.graph.summary import summarise
    from qonnx_pipe.runtime import machine
    from qonnx_pipe.runtime.client import Limits
    from qonnx_pipe.runtime.providers import check_interpreters
    from qonnx_pipe.runtime.race import Racer, latencies, race
    from qonnx_pipe.runtime.shapes import made_up

    check_interpreters(providers, interpreters)
    sizes = {model: size_parts(model).total for model in models}
    racers = [Racer(model, provider, interpreters.get(provider)) for provider in providers for model in models]
    ports = {port.name: port for model in models for port in summarise(model).inputs}
    measured: Measured = []
    with output.progress("timing", len(shapes)) as bar:
        for shape in shapes:
            inputs = made_up(list(ports.values()), *shape)
            timings = race(
                racers,
                inputs,
                threads=threads,
                rounds=rounds,
                fallback=not no_fallback,
                limits=Limits(time_limit, memory_limit),
            )
            found = zip(racers, latencies(shape, timings), strict=True)
            measured += [(one.model, one.provider, sizes[one.model], latency) for one, latency in found]
            bar.advance()
    if not as_json:
        output.stdout().print(_table(measured))
        return
    rows = [
        {"model": str(model), "provider": provider, "bytes": size, **asdict(latency)}
        for model, provider, size, latency in measured
    ]
    facts = machine.facts() | machine.settings(threads)
    output.emit_json({"version": 1, "provider": providers[0], "machine": facts, "results": rows})


def _table(measured: Measured) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "provider", "MB", "shape", "p50 ms", "p95 ms", "speedup", "", "seq/s", "cold s", "peak MB"):
        table.add_column(column, justify="left" if column in ("model", "provider") else "right")
    for model, provider, size, seen in measured:
        low, high = seen.speedup_interval or (0.0, 0.0)
        table.add_row(
            escape(str(model)),
            provider,
            f"{size / 1e6:.1f}",
            f"{seen.batch}×{seen.sequence}",
            f"{seen.p50_ms:.1f}",
            f"{seen.p95_ms:.1f}",
            f"{seen.speedup:.2f}×",
            f"[{low:.2f}, {high:.2f}]",
            f"{seen.throughput:.1f}",
            f"{seen.cold_start_s:.2f}",
            f"{seen.peak_rss_mb:.0f}",
        )
    return table
