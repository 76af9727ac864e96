"""Quantizing: seconds and peak memory of the quantize stage on a model of BERT-base's size."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from qonnx_pipe.stages.calibrate import read_table
from qonnx_pipe.stages.quantize import quantize_stage
from tests.bench.made import Made, base
from tests.bench.outcome import Outcome, at_most
from tests.bench.process import alone


def quantizing(_rounds: int) -> Outcome:
    """The stage alone, in a process of its own; the peak counts the interpreter and its libraries too."""
    made = base()
    spent, size = alone(quantize_alone, made), made.float_model.stat().st_size
    bounds = [
        at_most("quantize stage, BERT-base size", spent.seconds, 30, " s"),
        at_most("its peak memory over the float file", spent.peak_rss / size, 3, "×"),
    ]
    rows = [(f"{size / 1e6:.0f}", f"{spent.seconds:.1f}", f"{spent.peak_rss / 1e6:.0f}")]
    return Outcome("Quantize stage, BERT-base size", ("float MB", "s", "peak MB"), rows, bounds)


def quantize_alone(made: Made) -> float:
    """Quantize by the run's own plan and table; seconds."""
    with tempfile.TemporaryDirectory(prefix="qpipe-bench-") as folder:
        start = time.perf_counter()
        table = read_table(made.folder / "calibration.npz")
        quantize_stage(made.float_model, made.plan, table, Path(folder) / "model.onnx")
        return time.perf_counter() - start
