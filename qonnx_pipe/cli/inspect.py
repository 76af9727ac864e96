"""`qpipe inspect`: what a file holds, and which kernels run it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from qonnx_pipe.core.kernels import Kernels
    from qonnx_pipe.graph.size import Part
    from qonnx_pipe.graph.summary import Summary

SHAPE = (1, 16)
"""Batch and sequence of the made-up inputs that the kernels are counted on."""


@click.command(epilog=output.example("qpipe inspect model.onnx", "qpipe inspect model.onnx --no-run --json"))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--provider", default="cpu", show_default=True, help="Execution provider for the kernels.")
@click.option("--run/--no-run", default=True, show_default=True, help="Run the model once to see its kernels.")
@output.json_option
@output.verbosity_options
def command(model: Path, provider: str, run: bool, as_json: bool) -> None:
    """Show what MODEL holds: operators, bits of each layer's weights, size with its parts, executed kernels."""
    from qonnx_pipe.graph.size import breakdown, coarse, nominal_bytes
    from qonnx_pipe.graph.summary import summarise

    summary, parts = summarise(model), breakdown(model)
    kernels = _kernels(model, provider, summary) if run else None
    if as_json:
        size, held = coarse(parts), {name: asdict(part) for name, part in parts.items()}
        plain = {**asdict(summary), "bytes": size.total, "parts": asdict(size)}
        plain |= {"breakdown": held, "nominal_bytes": nominal_bytes(parts)}
        output.emit_json({"version": 1, **plain, "kernels": kernels and kernels.to_json()})
        return
    console = output.stdout()
    for line in (*_contents(summary, parts), *_ran(kernels)):
        console.print(line, markup=False)


def _kernels(model: Path, provider: str, summary: Summary) -> Kernels:
    from qonnx_pipe.core.kernels import executed
    from qonnx_pipe.graph.linears import linears
    from qonnx_pipe.runtime.client import Worker
    from qonnx_pipe.runtime.shapes import made_up

    with Worker(model, provider) as worker:
        seen = worker.census(made_up(summary.inputs, *SHAPE))
        return executed(linears(model), linears(seen.optimized) if seen.optimized else None, seen.events)


def _contents(summary: Summary, parts: Mapping[str, Part]) -> Iterator[str]:
    total = sum(part.bytes for part in parts.values())
    yield f"opset {summary.opset}, {sum(summary.operators.values())} nodes, {total / 1e6:.1f} MB"
    for title, ports in (("inputs", summary.inputs), ("outputs", summary.outputs)):
        yield f"{title}: " + ", ".join(f"{port.name} {port.dtype}{list(port.shape)}" for port in ports)
    yield "bytes, and nominally elements × bits:"
    for name, part in parts.items():
        nominal = "" if part.nominal_bytes is None else f"{part.nominal_bytes:>14,}"
        yield f"  {name:<12}{part.bytes:>14,}{nominal}"
    yield f"  {'file':<12}{total:>14,}{sum(part.nominal_bytes or 0 for part in parts.values()):>14,}"
    yield "operators: " + ", ".join(f"{name} {count}" for name, count in summary.operators.items())
    yield "elements of matrices and tables, by type:"
    for layer, kinds in summary.bits.items():
        yield f"  {layer}: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items())


def _ran(kernels: Kernels | None) -> Iterator[str]:
    if kernels is None:
        return
    yield f"weight MatMuls that ran in integers: {kernels.integer} of {kernels.total}"
    for (kernel, provider), count in Counter((node.kernel, node.provider) for node in kernels.nodes).most_common():
        yield f"  {kernel} on {provider or 'no provider'}: {count}"
    for reason, count in Counter(node.reason for node in kernels.floats).most_common():
        yield f"  float, {count}: {reason}"
