"""Race: time several models against each other, interleaved, each in a process of its own, one session at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe.core.verdict import Latency
from qonnx_pipe.runtime import machine
from qonnx_pipe.runtime.client import LIMITS, Limits, Spell, Worker
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
    python: Path | None = None
    """Interpreter of its worker; None: this one."""

    def worker(
        self,
        *,
        threads: int | None = None,
        fallback: bool = True,
        limits: Limits = LIMITS,
        cores: Sequence[int] = (),
    ) -> Worker:
        """A process for it."""
        return Worker(
            self.model,
            self.provider,
            threads=threads,
            fallback=fallback,
            limits=limits,
            python=self.python,
            cores=cores,
        )


@dataclass(frozen=True)
class Timing:
    """Seconds of every run by round, and the peak memory in bytes of a process that did only this.

    `cold_start_s`: from the creation of the process's first session to that session's first output.
    """

    rounds: Rounds
    peak_rss: int
    cold_start_s: float


def race(
    racers: Sequence[Racer],
    inputs: Arrays,
    *,
    threads: int | None = None,
    rounds: int = ROUNDS,
    fallback: bool = True,
    limits: Limits = LIMITS,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Timing, ...]:
    """One timing for each racer, on the same inputs; `progress` hears each round.

    In every round each racer in turn gets a fresh session, warms up, is timed for `ROUND_S` seconds (at least
    `LEAST_RUNS` runs) and closes its session: two live sessions would spin-wait against each other. Every other round
    runs backwards (A B, B A, …), so that none gains from its place. All are bound to the same cores, as many as
    `threads`, so that no thread moves to a colder one. Raises what `Worker` raises.
    """
    spells: list[list[Spell]] = [[] for _ in racers]
    order = list(range(len(racers)))
    bound = machine.pick(threads)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(one.worker(threads=threads, fallback=fallback, limits=limits, cores=bound))
            for one in racers
        ]
        for number in range(rounds):
            for i in order if number % 2 == 0 else reversed(order):
                spells[i].append(workers[i].time(inputs, seconds=ROUND_S, least=LEAST_RUNS))
            progress(1)
    return tuple(Timing(tuple(spell.seconds for spell in own), own[-1].peak_rss, own[0].first_s) for own in spells)


def latencies(shape: tuple[int, int], timings: Sequence[Timing], *, relative: bool = True) -> tuple[Latency, ...]:
    """The timings of one race at [batch, sequence] as figures; `relative`: with the speedup over the first one."""
    found = []
    for timing in timings:
        p50, p95 = quantiles_ms(timing.rounds)
        gain, interval = speedup(timings[0].rounds, timing.rounds) if relative else (None, None)
        runs, total = sum(map(len, timing.rounds)), sum(map(sum, timing.rounds))
        found.append(
            Latency(
                *shape,
                p50,
                p95,
                runs,
                gain,
                interval,
                timing.peak_rss / 1e6,
                throughput=shape[0] * runs / total,
                cold_start_s=timing.cold_start_s,
            )
        )
    return tuple(found)
