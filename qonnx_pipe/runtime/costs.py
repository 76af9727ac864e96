"""Costs: how long forms of the same computation take beside each other, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from qonnx_pipe.core.files import writing
from qonnx_pipe.runtime.client import Worker
from qonnx_pipe.runtime.session import Arrays

ROUNDS = 7
ROUND_S = 0.08
LEAST_RUNS = 5
CALM = 0.25
"""Share of the runs that counts as undisturbed by other work in the caches."""


def relative_times(
    models: Mapping[str, bytes], inputs: Arrays, provider: str = "cpu", *, rounds: int = ROUNDS
) -> dict[str, float]:
    """Time of each model (ONNX files in memory) over that of the first one, on the same inputs.

    As in `race`, each has a process of its own, one session is alive at a time, and rounds alternate their order. What
    is compared is the processor's time for one thread, so the work that a form makes: it hardly changes when the
    machine has other things to do, which the time on the wall of a run of a millisecond does. Raises what `Worker`
    raises.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qpipe-costs-")))
        workers: dict[str, Worker] = {}
        for name, data in models.items():
            path = folder / f"{name}.onnx"
            with writing(path):
                path.write_bytes(data)
            workers[name] = stack.enter_context(Worker(path, provider, threads=1))
        times: dict[str, list[float]] = {name: [] for name in models}
        for number in range(rounds):
            for name in list(models) if number % 2 == 0 else reversed(list(models)):
                times[name] += workers[name].time(inputs, seconds=ROUND_S, least=LEAST_RUNS, processor=True).seconds
    calm = {name: float(np.quantile(seconds, CALM)) for name, seconds in times.items()}
    first = next(iter(calm.values()))
    return {name: seconds / first for name, seconds in calm.items()}
