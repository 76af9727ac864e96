"""Racers: what a model is beside float, whatever runs it: its bytes, the noise of its outputs, its integer kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qonnx_pipe import tasks
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.kernels import Kernels, executed
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.graph.size import size_parts
from qonnx_pipe.runtime.race import Racer
from qonnx_pipe.runtime.shapes import from_batches

THREADS = 2
COLUMNS = ("MB", "SQNR dB", "int8 MatMuls")


def facts(racers: Sequence[Racer], task: str, texts: Sequence[Batch]) -> list[tuple[str, str, str]]:
    """`COLUMNS` of each racer; the first one is the float model that the others are compared with."""
    reference = _rows(racers[0], task, texts)
    found = []
    for racer in racers:
        sqnr = "–" if racer is racers[0] else f"{sqnr_db(reference, _rows(racer, task, texts)):.1f}"
        found.append((_megabytes(racer), sqnr, _counted(racer, texts)))
    return found


def kernels(racer: Racer, texts: Sequence[Batch]) -> Kernels:
    """What ran for every weight MatMul of an ONNX file."""
    with racer.worker(threads=THREADS) as worker:
        seen = worker.census(from_batches(texts, 1, 16))
        return executed(linears(racer.model), linears(seen.optimized) if seen.optimized else None, seen.events)


def _counted(racer: Racer, texts: Sequence[Batch]) -> str:
    if racer.model.suffix != ".onnx":
        return "–"
    found = kernels(racer, texts)
    return f"{found.integer} of {found.total}"


def _megabytes(racer: Racer) -> str:
    if racer.model.suffix == ".onnx":
        return f"{size_parts(racer.model).total / 1e6:.1f}"
    return f"{sum(part.stat().st_size for part in racer.model.parent.glob(f'{racer.model.stem}.*')) / 1e6:.1f}"


def _rows(racer: Racer, task: str, texts: Sequence[Batch]) -> FloatArray:
    """What the task compares, [n, k], for all texts."""
    found = tasks.find(task)
    with racer.worker(threads=THREADS) as worker:
        outputs = worker.predict(batch.inputs for batch in texts)
        return np.concatenate([found.scored(*pair) for pair in zip(outputs, texts, strict=True)])
