"""Census: run a model once under the profiler and tell which kernel every node of the optimized graph used."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.runtime.session import Arrays, Trace, open_session, run_session

KERNEL = "_kernel_time"
"""How onnxruntime ends the name of an event that times a node's kernel."""


def profile(
    model: Path, inputs: Arrays, folder: Path, provider: str = "cpu", *, threads: int | None = None, runs: int = 3
) -> tuple[Path, tuple[Event, ...]]:
    """Path of the optimized graph (in `folder`), and one event for each of its nodes that ran.

    Durations are means over `runs` runs, without a first one that pays for allocations.
    """
    trace = Trace(folder / "optimized.onnx", folder / "profile")
    session = open_session(model, provider, threads=threads, trace=trace)
    for _ in range(1 + runs):
        run_session(session, inputs, model=model, provider=provider)
    log = Path(session.end_profiling())
    return trace.optimized, events(json.loads(log.read_text(encoding="utf-8")))


def events(log: list[dict[str, Any]]) -> tuple[Event, ...]:
    """Events of a profile's JSON, one for each node; the first run of a node counts only when it is the only one."""
    durations: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for entry in log:
        if entry.get("cat") == "Node" and entry["name"].endswith(KERNEL):
            detail = entry["args"]
            key = (entry["name"].removesuffix(KERNEL), detail["op_name"], detail.get("provider", ""))
            durations[key].append(float(entry["dur"]))
    return tuple(Event(*key, sum(warm := times[1:] or times) / len(warm)) for key, times in durations.items())
