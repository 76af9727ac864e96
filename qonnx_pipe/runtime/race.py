"""Race: time several models against each other, interleaved, each in a process of its own, one session at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe.core.verdict import Latency
from qonnx_pipe.runtime.client import Worker
from qonnx_pipe.runtime.clock import Rounds, quantiles_ms, speedup
from qonnx_pipe.runtime.session import Arrays

ROUNDS = 10
ROUND_S = 0.3
LEAST_RUNS = 3


@dataclass(frozen=True)
class Racer:
    """A model on a provider."""

    model: Path
    provider: str = "cpu"


@dataclass(frozen=True)
class Timing:
    """Seconds of every run by round, and the peak memory in bytes of a process that did only this."""

    rounds: Rounds
    peak_rss: int


def race(
    racers: Sequence[Racer],
    inputs: Arrays,
    *,
    threads: int | None = None,
    rounds: int = ROUNDS,
    fallback: bool = True,
) -> tuple[Timing, ...]:
    """One timing for each racer, on the same inputs.

    In every round each racer in turn gets a fresh session, warms up, is timed for `ROUND_S` seconds (at least
    `LEAST_RUNS` runs) and closes its session: two live sessions would spin-wait against each other. Every other round
    runs backwards (A B, B A, …), so that none gains from its place. Raises what `Worker` raises.
    """
    times: list[list[list[float]]] = [[] for _ in racers]
    peaks = [0] * len(racers)
    order = list(range(len(racers)))
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(racer.model, racer.provider, threads=threads, fallback=fallback))
            for racer in racers
        ]
        for number in range(rounds):
            for i in order if number % 2 == 0 else reversed(order):
                seconds, peaks[i] = workers[i].time(inputs, seconds=ROUND_S, least=LEAST_RUNS)
                times[i].append(seconds)
    return tuple(Timing(rounds_, peak) for rounds_, peak in zip(times, peaks, strict=True))


def latencies(shape: tuple[int, int], timings: Sequence[Timing], *, relative: bool = True) -> tuple[Latency, ...]:
    """The timings of one race at [batch, sequence] as figures; `relative`: with the speedup over the first one."""
    found = []
    for timing in timings:
        p50, p95 = quantiles_ms(timing.rounds)
        gain, interval = speedup(timings[0].rounds, timing.rounds) if relative else (None, None)
        found.append(Latency(*shape, p50, p95, sum(map(len, timing.rounds)), gain, interval, timing.peak_rss / 1e6))
    return tuple(found)
