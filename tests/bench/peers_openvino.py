"""OpenVINO's own runtime as a racer: answers the requests of `qonnx_pipe.runtime.client.Worker` that a race makes.

It runs in an environment with nothing but openvino and numpy, so the few lines of the protocol stand here again.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np
import openvino

WARM_UP = 2
"""As the worker's."""


def compiled(model: str, threads: int | None) -> Any:
    """For one request at a time, in float32 where it is not quantized, as ONNX Runtime computes."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or 0}
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


class Commands:
    """What a race and a prediction ask for."""

    def open(self, model: str, threads: int | None, **_: object) -> None:
        """Compile a model, in place of the one before."""
        self.request, self.names = compiled(model, threads), _names(model)

    def run(self, inputs: str, outputs: str) -> None:
        """Run it on one .npz of inputs, write its outputs as .npz under the names of the ONNX file."""
        values = self.request.infer(_arrays(inputs)).to_tuple()
        np.savez(outputs, **dict(zip(self.names, values, strict=True)))

    def close(self) -> None:
        """Let it go."""
        del self.request

    def time(self, model: str, threads: int | None, inputs: str, seconds: float, least: int, **_: object) -> object:
        """Compile, warm up, time runs, let go."""
        arrays, birth = _arrays(inputs), time.perf_counter()
        request = compiled(model, threads)
        request.infer(arrays)
        first = time.perf_counter() - birth
        for _run in range(WARM_UP - 1):
            request.infer(arrays)
        times: list[float] = []
        while len(times) < least or sum(times) < seconds:
            start = time.perf_counter()
            request.infer(arrays)
            times.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds": times, "first_s": first, "peak_rss": peak}


def _names(model: str) -> list[str]:
    return [output.get_any_name() for output in openvino.Core().read_model(model).outputs]


def _arrays(path: str) -> dict[str, Any]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def main() -> None:
    """One JSON line in, one JSON line out; what goes wrong ends the process, and its last words are the reason.

    Arguments are the cores that it is bound to; without any it has all.
    """
    if cores := {int(word) for word in sys.argv[1:]}:
        os.sched_setaffinity(0, cores)
    commands = Commands()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            value = getattr(commands, request["command"])(**request["arguments"])
            print(json.dumps({"value": value}), file=replies, flush=True)


if __name__ == "__main__":
    main()
