"""Fairness: the race itself on this machine: equal models must come out equal, one with planted work as slower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qonnx_pipe.runtime.race import Racer, latencies, race
from tests.bench.outcome import Outcome, at_least, at_most

WIDTH = 384
LAYERS = 20
PLANTED = 10
"""Layers more: half as much work again, which shows on a busy machine too."""

THREADS = 1
FOLDER = Path("runs/bench/fairness")
COLUMNS = ("model", "median ms", "speedup", "95 %")


def fairness(rounds: int) -> Outcome:
    """A chain of MatMuls against itself under another name, and against a longer one."""
    sizes = {"a": LAYERS, "the same": LAYERS, "half more": LAYERS + PLANTED}
    racers = [Racer(_chain(FOLDER / f"{i}.onnx", layers)) for i, layers in enumerate(sizes.values())]
    inputs = {"x": np.random.default_rng(0).normal(size=(1, 128, WIDTH)).astype(np.float32)}
    found = dict(zip(sizes, latencies((1, 128), race(racers, inputs, threads=THREADS, rounds=rounds)), strict=True))
    intervals = {name: one.speedup_interval or (0.0, 0.0) for name, one in found.items()}
    rows = [
        (name, f"{one.p50_ms:.2f}", f"{one.speedup:.3f}×", "{:.3f}–{:.3f}".format(*intervals[name]))
        for name, one in found.items()
    ]
    same, more = intervals["the same"], intervals["half more"]
    bounds = [
        at_most("equal models: low end", same[0], 1, "×"),
        at_least("equal models: high end", same[1], 1, "×"),
        at_most("half more work: high end", more[1], 1, "×"),
    ]
    return Outcome(f"Fairness of the race ({THREADS} thread, {rounds} rounds)", COLUMNS, rows, bounds)


def _chain(path: Path, layers: int) -> Path:
    """x [1, 128, WIDTH] times `layers` orthogonal matrices, so that nothing overflows."""
    rng = np.random.default_rng(1)
    weights = [np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32) for _ in range(layers)]
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    shape = [1, 128, WIDTH]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
