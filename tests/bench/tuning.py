"""Tuning: what `--tune` finds for MiniLM on the CPU, beside every fixed choice of placement and MatMul form."""

from __future__ import annotations

import json
from typing import get_args

from qonnx_pipe.core.plan import MatMulForm, Placement
from qonnx_pipe.core.tuning import Tuning
from qonnx_pipe.recipe import load
from qonnx_pipe.runtime.clock import speedup
from qonnx_pipe.runtime.race import Racer, race
from qonnx_pipe.runtime.shapes import from_batches
from tests.bench import racers
from tests.bench.made import QUICKSTART, make
from tests.bench.outcome import Outcome, not_slower

COLUMNS = ("settings", *racers.COLUMNS, "tuned over it", "95 %")


def tuning(rounds: int) -> Outcome:
    """The tuned file is as fast as each choice, or faster; also where the search starts from the slowest."""
    fixed = {
        f"{placement}, {form}": (f"quantize.placement={placement}", f"quantize.matmul={form}")
        for placement in get_args(Placement)
        for form in get_args(MatMulForm)
    }
    start = fixed["full, qdq"]
    limit = "quantize.tune.loss_db=1"
    made = {"tuned": make(load(QUICKSTART, ("name=tuned", limit)))}
    made["tuned from full, qdq"] = make(load(QUICKSTART, ("name=tuned-from-full", limit, *start)))
    made |= {
        name: make(load(QUICKSTART, (f"name=fixed-{i}", *change))) for i, (name, change) in enumerate(fixed.items())
    }
    plain = made["tuned"]
    found = Tuning.from_json(json.loads((plain.folder / "tuning.json").read_bytes()))
    texts = plain.batches(plain.evaluation, samples=64, batch_size=16, max_length=128)
    runners = {name: Racer(one.quantized) for name, one in made.items()}
    timings = race(list(runners.values()), from_batches(texts, *found.shape), rounds=rounds)
    everyone = [Racer(plain.float_model), *runners.values()]
    facts = racers.facts(everyone, plain.recipe.model.task, texts)[1:]
    rows, bounds = [], []
    for name, fact, timing in zip(made, facts, timings, strict=True):
        ratio, (low, high) = speedup(timing.rounds, timings[0].rounds)
        rows.append((name, *fact, f"{ratio:.2f}×", f"{low:.2f}–{high:.2f}"))
        bounds.append(not_slower(f"tuned over {name}", ratio, (low, high)))
    kept = ", ".join(trial.name for trial in found.kept) or "nothing"
    return Outcome(f"Tuning, MiniLM-L6 ({rounds} rounds; kept: {kept})", COLUMNS, rows, bounds[1:])
