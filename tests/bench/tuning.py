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
TUNED, FROM_SLOWEST = "tuned", "tuned from full, qdq"
"""Searches from the quickstart's settings and from the slowest. Their files differ in accuracy: `loss_db` counts from
where a search starts. So each is held against the fixed choices, not against the other."""


def tuning(rounds: int) -> Outcome:
    """What a search finds is as fast as each fixed choice, or faster; also where it starts from the slowest."""
    fixed = {
        f"{placement}, {form}": (f"quantize.placement={placement}", f"quantize.matmul={form}")
        for placement in get_args(Placement)
        for form in get_args(MatMulForm)
    }
    start = fixed["full, qdq"]
    limit = "quantize.tune.loss_db=1"
    made = {TUNED: make(load(QUICKSTART, ("name=tuned", limit)))}
    made[FROM_SLOWEST] = make(load(QUICKSTART, ("name=tuned-from-full", limit, *start)))
    made |= {
        name: make(load(QUICKSTART, (f"name=fixed-{i}", *change))) for i, (name, change) in enumerate(fixed.items())
    }
    plain = made[TUNED]
    found = Tuning.from_json(json.loads((plain.folder / "tuning.json").read_bytes()))
    texts = plain.batches(plain.evaluation, samples=64, batch_size=16, max_length=128)
    runners = {name: Racer(one.quantized) for name, one in made.items()}
    timings = race(list(runners.values()), from_batches(texts, *found.shape), rounds=rounds)
    everyone = [Racer(plain.float_model), *runners.values()]
    facts = racers.facts(everyone, plain.recipe.model.task, texts)[1:]
    times = {name: timing.rounds for name, timing in zip(made, timings, strict=True)}
    rows = []
    for name, fact in zip(made, facts, strict=True):
        ratio, (low, high) = speedup(times[name], times[TUNED])
        rows.append((name, *fact, f"{ratio:.2f}×", f"{low:.2f}–{high:.2f}"))
    bounds = [
        not_slower(f"{search} over {name}", *speedup(times[name], times[search]))
        for search in (TUNED, FROM_SLOWEST)
        for name in fixed
    ]
    kept = ", ".join(trial.name for trial in found.kept) or "nothing"
    return Outcome(f"Tuning, MiniLM-L6 ({rounds} rounds; kept: {kept})", COLUMNS, rows, bounds)
