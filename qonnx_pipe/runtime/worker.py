"""Worker: a process of its own that opens sessions on request, one JSON line in, one JSON line out."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from qonnx_pipe.core.files import writing
from qonnx_pipe.errors import QpipeError
from qonnx_pipe.runtime import providers
from qonnx_pipe.runtime.census import profile
from qonnx_pipe.runtime.machine import peak_rss
from qonnx_pipe.runtime.session import open_session, run_session

WARM_UP = 2
"""Runs before the clock starts: the first allocates the arena, the second finds it."""

SMALLEST = (
    b'\x08\x08:=\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01g'
    b"Z\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x01"
    b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""A model, y = x + x, as bytes: an environment that holds a provider need not hold onnx."""

Opened = tuple[ort.InferenceSession, Path, str]


class Commands:
    """What a parent may ask for; at most one session is alive."""

    def __init__(self) -> None:
        self._opened: Opened | None = None

    def open(self, *, model: str, provider: str, threads: int | None, fallback: bool) -> None:
        """Open a session, in place of the one before."""
        self._opened = None
        self._opened = (open_session(Path(model), provider, threads=threads, fallback=fallback), Path(model), provider)

    def run(self, inputs: str, outputs: str) -> None:
        """Run the open session on one .npz of inputs, write its outputs as .npz."""
        if self._opened is None:
            raise ValueError("run before open")
        session, model, provider = self._opened
        values = run_session(session, _arrays(inputs), model=model, provider=provider)
        with writing(Path(outputs)):
            np.savez(outputs, **values)  # type: ignore[arg-type]  # no output is called allow_pickle

    def close(self) -> None:
        """Close the session."""
        self._opened = None

    def census(
        self, *, model: str, provider: str, threads: int | None, fallback: bool, inputs: str, folder: str
    ) -> dict[str, object]:
        """Profile a few runs: the optimized graph's path, its events, who took which nodes."""
        found = profile(Path(model), _arrays(inputs), Path(folder), provider, threads=threads, fallback=fallback)
        return {
            "optimized": found.optimized and str(found.optimized),
            "events": [asdict(event) for event in found.events],
            "partition": found.partition and found.partition.to_json(),
        }

    def compile(self, *, model: str, provider: str, threads: int | None, fallback: bool, target: str) -> bool:
        """Let the provider write what it compiles to `target`; whether it did."""
        open_session(Path(model), provider, threads=threads, fallback=fallback, compiled=Path(target))
        return Path(target).is_file()

    def check(self, provider: str) -> dict[str, str]:
        """Run the smallest model on the provider and tell what is installed; ProviderError says why it cannot."""
        with tempfile.TemporaryDirectory(prefix="qpipe-check-") as folder:
            path = Path(folder) / "smallest.onnx"
            path.write_bytes(SMALLEST)
            session = open_session(path, provider, threads=1)
            run_session(session, {"x": np.ones((1, 1), np.float32)}, model=path, provider=provider)
        found = providers.find(provider)
        return {
            "version": found.version() or "",
            "device": found.device(),
            "onnxruntime": ort.__version__,
            "python": sys.executable,
        }

    def time(
        self,
        *,
        model: str,
        provider: str,
        threads: int | None,
        fallback: bool,
        inputs: str,
        seconds: float,
        least: int,
        processor: bool = False,
    ) -> dict[str, object]:
        """Open, warm up, time runs until `seconds` are over and `least` runs done, close: a session's whole life.

        `processor`: the time that the processor spent in this thread, not the time on the wall.
        """
        clock = time.thread_time if processor else time.perf_counter
        arrays, path = _arrays(inputs), Path(model)
        birth = time.perf_counter()
        session = open_session(path, provider, threads=threads, fallback=fallback)
        run_session(session, arrays, model=path, provider=provider)
        first = time.perf_counter() - birth
        for _ in range(WARM_UP - 1):
            run_session(session, arrays, model=path, provider=provider)
        times: list[float] = []
        while len(times) < least or sum(times) < seconds:
            start = clock()
            run_session(session, arrays, model=path, provider=provider)
            times.append(clock() - start)
        return {"seconds": times, "first_s": first, "peak_rss": peak_rss()}


def _arrays(path: str) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def answer(commands: Commands, line: str) -> dict[str, Any]:
    """The reply to one request: {"value": …}, or {"error": {kind, what, where, fix}}; it never raises."""
    try:
        request = json.loads(line)
        command: Callable[..., Any] = getattr(commands, request["command"])
        return {"value": command(**request["arguments"])}
    except QpipeError as error:
        return {"error": {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}}
    except MemoryError as error:
        return {"error": {"kind": "ProviderError", "what": f"out of memory {error}".strip(), "where": "", "fix": ""}}
    except Exception as error:  # the worker's edge: whatever goes wrong must reach the parent as an answer
        what = f"worker failed: {type(error).__name__}: {error}"
        return {"error": {"kind": "ProviderError", "what": what, "where": "", "fix": ""}}


def main(memory_mb: int | None = None, cores: tuple[int, ...] = ()) -> None:
    """Answer requests until stdin ends. Native code that prints to stdout is sent to stderr.

    `memory_mb` (10⁶ bytes): on Linux no more memory of its own is given. `cores`: the only ones that it runs on.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    if memory_mb is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 10**6, memory_mb * 10**6))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        commands = Commands()
        for line in sys.stdin:
            print(json.dumps(answer(commands, line)), file=replies, flush=True)


if __name__ == "__main__":
    main()
