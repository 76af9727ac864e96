"""Providers: two models for OpenVINO, beside float and qpipe's int8 on the CPU, in one race."""

from __future__ import annotations

from pathlib import Path

from qonnx_pipe.errors import ProviderError
from qonnx_pipe.recipe import load
from qonnx_pipe.recipe.library import find
from qonnx_pipe.runtime.client import Worker
from qonnx_pipe.runtime.race import Racer, latencies, race
from qonnx_pipe.runtime.shapes import from_batches
from tests.bench import base_model
from tests.bench.made import Made, base, make, quickstart
from tests.bench.outcome import Outcome, at_least

THREADS = 2
SHAPE = (8, 128)
COLUMNS = ("model", "racer", "median ms", "speedup", "95 %")
LEAST_SPEEDUP = 3.2
"""Of int8 under OpenVINO over float under onnxruntime's own kernels, at BERT-base's size, on a machine with VNNI."""


def openvino(rounds: int) -> Outcome:
    """Float and int8, each on the CPU provider and under OpenVINO; nothing where that cannot run."""
    title = f"OpenVINO, 8×128 ({THREADS} threads, {rounds} rounds)"
    try:
        with Worker(Path(), "openvino") as worker:
            worker.check()
    except ProviderError as error:
        return Outcome(title, COLUMNS, [("–", f"not here: {error.what}", "–", "–", "–")], [])
    small = make(load(find("minilm-w8a8-openvino")))
    large = make(load(base_model.RECIPE, (*base_model.overrides(), "quantize.target=openvino", "name=base-openvino")))
    rows, speedups = [], {}
    for name, cpu, compiled in (("MiniLM-L6", quickstart(), small), ("BERT-base size", base(), large)):
        found = _race(cpu, compiled, rounds)
        rows += [(name, *row) for row in found]
        speedups[name] = float(found[-1][2].removesuffix("×"))
    reached = speedups["BERT-base size"]
    return Outcome(title, COLUMNS, rows, [at_least("OpenVINO int8 over float, base size", reached, LEAST_SPEEDUP, "×")])


def _race(cpu: Made, compiled: Made, rounds: int) -> list[tuple[str, str, str, str]]:
    racers = {
        "float, cpu": Racer(cpu.float_model),
        "int8, cpu": Racer(cpu.quantized),
        "float, openvino": Racer(cpu.float_model, "openvino"),
        "int8, openvino": Racer(compiled.quantized, "openvino"),
    }
    texts = cpu.batches(cpu.evaluation, samples=64, batch_size=16, max_length=128)
    timings = race(list(racers.values()), from_batches(texts, *SHAPE), threads=THREADS, rounds=rounds)
    rows = []
    for name, seen in zip(racers, latencies(SHAPE, timings), strict=True):
        low, high = seen.speedup_interval or (0.0, 0.0)
        rows.append((name, f"{seen.p50_ms:.1f}", f"{seen.speedup:.2f}×", f"{low:.2f}–{high:.2f}"))
    return rows
