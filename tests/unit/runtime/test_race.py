"""A race on a simulated machine whose truth is known: equal models come out equal, one with more work as slower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from qonnx_pipe.core.verdict import Latency
from qonnx_pipe.runtime import race
from qonnx_pipe.runtime.client import Spell
from qonnx_pipe.runtime.race import Racer, latencies

PLANTED = 1.05
"""Work of the slower model over that of the others."""


class Machine:
    """A clock that workers move: each run takes its model's seconds, times a load that drifts between 1 and 4."""

    def __init__(self, seconds: dict[Path, float]) -> None:
        self.seconds, self.rng = seconds, np.random.default_rng(3)
        self.now, self.alive, self.order = 0.0, 0, []

    def run(self, model: Path) -> float:
        load = 2.5 + 1.5 * np.sin(self.now / 20)
        took = self.seconds[model] * load * self.rng.lognormal(0, 0.03)
        self.now += took
        return took


class SimulatedWorker:
    """Stands in for a worker; `machine` is where all of them run."""

    machine: Machine

    def __init__(self, model: Path, provider: str, **_: object) -> None:
        self.model = model

    def __enter__(self) -> SimulatedWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def time(self, inputs: object, *, seconds: float, least: int) -> Spell:
        machine = self.machine
        machine.order.append(self.model)
        machine.now += (first := 40 * machine.seconds[self.model])  # a session is opened
        times: list[float] = []
        while len(times) < least or sum(times) < seconds:
            times.append(machine.run(self.model))
        return Spell(tuple(times), first, 10**8)


A, SAME, MORE = Path("a.onnx"), Path("same.onnx"), Path("more.onnx")


def raced(
    monkeypatch: pytest.MonkeyPatch, models: Sequence[Path], rounds: int = 12, **options: object
) -> tuple[Machine, list[Latency]]:
    machine = Machine({A: 0.01, SAME: 0.01, MORE: 0.01 * PLANTED})
    monkeypatch.setattr(SimulatedWorker, "machine", machine, raising=False)
    monkeypatch.setattr(race, "Worker", SimulatedWorker)
    timings = race.race([Racer(model) for model in models], {}, rounds=rounds, **options)
    return machine, list(latencies((2, 8), timings))


def test_equal_models_are_equal_and_planted_work_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (_, same, more) = raced(monkeypatch, (A, SAME, MORE))
    assert same.speedup_interval[0] <= 1 <= same.speedup_interval[1]
    assert more.speedup_interval[1] < 1
    assert more.speedup == pytest.approx(1 / PLANTED, abs=0.02)  # the interval's half width at this noise


def test_one_after_the_other_would_have_been_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pairing is for: the drift of the machine is far larger than the planted work."""
    machine, _ = raced(monkeypatch, (A, MORE))
    separate = [np.median([machine.run(model) for _ in range(700)]) for model in (A, MORE)]
    assert abs(separate[1] / separate[0] - PLANTED) > 0.1


def test_rounds_are_interleaved_and_every_other_one_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    machine, _ = raced(monkeypatch, (A, MORE), rounds=3, progress=heard.append)
    assert machine.order == [A, MORE, MORE, A, A, MORE]
    assert heard == [1, 1, 1]


def test_throughput_and_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (first, _) = raced(monkeypatch, (A, MORE))
    assert first.cold_start_s == pytest.approx(0.4)
    assert first.throughput == pytest.approx(2e3 / first.p50_ms, rel=0.2)  # the load's mean and median differ less
