"""Speed: qpipe's int8 file beside float and ONNX Runtime's own int8 files, interleaved, each in its own process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe.core.artifact import sha256_file
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import QpipeError
from qonnx_pipe.runtime.clock import speedup
from qonnx_pipe.runtime.race import Racer, latencies, race
from qonnx_pipe.runtime.session import evaluate
from qonnx_pipe.runtime.shapes import from_batches
from tests.bench import racers
from tests.bench.made import Made, base, quickstart
from tests.bench.outcome import Bound, Outcome, at_least
from tests.bench.stock import stock

SHAPES = ((8, 128), (1, 128))
COLUMNS = ("model", *racers.COLUMNS, "shape", "median ms", "p95 ms", "speedup", "95 %", "peak MB")


@dataclass(frozen=True, eq=False)
class Contest:
    """Who races on what: name → file, float first and qpipe second, and the texts that they run on.

    `broken`: files that cannot run, and so do not race, with what ONNX Runtime says.
    """

    models: Mapping[str, Path]
    made: Made
    texts: Sequence[Batch]
    broken: Mapping[str, str]


def minilm(rounds: int) -> Outcome:
    """MiniLM-L6 by the quickstart."""
    return _speed("Speed, MiniLM-L6", _contest(quickstart()), rounds, least_speedup=2.3)


def bert_base(rounds: int) -> Outcome:
    """MPNet-base, or a random BERT-base."""
    return _speed("Speed, BERT-base size", _contest(base()), rounds, least_speedup=2.6)


def _contest(made: Made) -> Contest:
    choice = made.calibration
    same = made.batches(choice, samples=64, batch_size=choice.batch_size, max_length=choice.max_length)
    folder = Path("runs/bench/stock") / sha256_file(made.float_model)[:12]
    texts = made.batches(made.evaluation, samples=64, batch_size=16, max_length=128)
    models = {"float": made.float_model, "qpipe": made.quantized}
    broken = {}
    for name, path in stock(made.float_model, same, folder).items():
        try:
            evaluate(path, texts[0].inputs)
            models[name] = path
        except QpipeError as failure:
            broken[name] = failure.what
    return Contest(models, made, texts, broken)


def _speed(title: str, contest: Contest, rounds: int, *, least_speedup: float) -> Outcome:
    runners = [Racer(path) for path in contest.models.values()]
    facts = dict(zip(contest.models, racers.facts(runners, contest.made.recipe.model.task, contest.texts), strict=True))
    rows: list[Sequence[str]] = []
    bounds: list[Bound] = []
    for shape in SHAPES:
        inputs = from_batches(contest.texts, *shape)
        timings = race(runners, inputs, threads=racers.THREADS, rounds=rounds)
        for name, seen in zip(contest.models, latencies(shape, timings), strict=True):
            low, high = seen.speedup_interval or (0.0, 0.0)
            times = (f"{seen.p50_ms:.2f}", f"{seen.p95_ms:.2f}", f"{seen.speedup:.2f}×", f"{low:.2f}–{high:.2f}")
            rows.append((name, *facts[name], f"{shape[0]}×{shape[1]}", *times, f"{seen.peak_rss_mb:.0f}"))
        ours = timings[1].rounds
        against = {name: speedup(timing.rounds, ours)[0] for name, timing in zip(contest.models, timings, strict=True)}
        bounds += _bounds(f"{title}, {shape[0]}×{shape[1]}", against, least_speedup if shape == SHAPES[0] else None)
    kernels = racers.kernels(runners[1], contest.texts)
    bounds.append(at_least(f"{title}: int8 MatMuls of {kernels.total}", kernels.integer, kernels.total))
    rows += [(name, *["–"] * (len(COLUMNS) - 2), "does not run") for name in contest.broken]
    return Outcome(f"{title} ({racers.THREADS} threads, {rounds} rounds)", COLUMNS, rows, bounds)


def _bounds(title: str, against: Mapping[str, float], least_speedup: float | None) -> list[Bound]:
    """`against`: how many times faster qpipe's file is than each, the median over paired rounds."""
    best = min(against[name] for name in against if name.startswith("ORT"))
    bounds = [at_least(f"{title}: over the best of ORT's int8", best, 1.0, "×")]
    if least_speedup is not None:
        bounds.insert(0, at_least(f"{title}: over float", against["float"], least_speedup, "×"))
    return bounds
