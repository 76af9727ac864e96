"""Providers: two models for OpenVINO, beside float and qpipe's int8 on the CPU, in one race."""

from __future__ import annotations

from qonnx_pipe.core.verdict import Latency
from qonnx_pipe.recipe import load
from qonnx_pipe.recipe.library import find
from qonnx_pipe.runtime.client import problem_of
from qonnx_pipe.runtime.providers import find as find_provider
from qonnx_pipe.runtime.race import Racer, latencies, race
from qonnx_pipe.runtime.shapes import from_batches
from tests.bench import base_model
from tests.bench.made import Made, base, make, quickstart
from tests.bench.outcome import Outcome, at_least

THREADS = 2
SHAPE = (8, 128)
COLUMNS = ("model", "racer", "median ms", "speedup", "95 %")
COMPILED = "int8, openvino"
LEAST_SPEEDUP = 3.2
"""Of int8 under OpenVINO over float under onnxruntime's own kernels, at BERT-base's size, on a machine with VNNI."""


def openvino(rounds: int) -> Outcome:
    """Float and int8, each on the CPU provider and under OpenVINO; nothing where that cannot run."""
    title = f"OpenVINO, 8×128 ({THREADS} threads, {rounds} rounds)"
    missing = "not installed" if find_provider("openvino").version() is None else problem_of("openvino")
    if missing:
        return Outcome(title, COLUMNS, [("–", f"not here: {missing}", "–", "–", "–")], [])
    small = make(load(find("minilm-w8a8-openvino")))
    large = make(load(base_model.RECIPE, (*base_model.overrides(), "quantize.target=openvino", "name=base-openvino")))
    rows, speedups = [], {}
    for name, cpu, compiled in (("MiniLM-L6", quickstart(), small), ("BERT-base size", base(), large)):
        found = _race(cpu, compiled, rounds)
        rows += [(name, *_row(racer, seen)) for racer, seen in found.items()]
        speedups[name] = found[COMPILED].speedup or 0.0
    reached = speedups["BERT-base size"]
    return Outcome(title, COLUMNS, rows, [at_least("OpenVINO int8 over float, base size", reached, LEAST_SPEEDUP, "×")])


def _race(cpu: Made, compiled: Made, rounds: int) -> dict[str, Latency]:
    racers = {
        "float, cpu": Racer(cpu.float_model),
        "int8, cpu": Racer(cpu.quantized),
        "float, openvino": Racer(cpu.float_model, "openvino"),
        COMPILED: Racer(compiled.quantized, "openvino"),
    }
    texts = cpu.batches(cpu.evaluation, samples=64, batch_size=16, max_length=128)
    timings = race(list(racers.values()), from_batches(texts, *SHAPE), threads=THREADS, rounds=rounds)
    return dict(zip(racers, latencies(SHAPE, timings), strict=True))


def _row(name: str, seen: Latency) -> tuple[str, str, str, str]:
    low, high = seen.speedup_interval or (0.0, 0.0)
    return name, f"{seen.p50_ms:.1f}", f"{seen.speedup:.2f}×", f"{low:.2f}–{high:.2f}"
