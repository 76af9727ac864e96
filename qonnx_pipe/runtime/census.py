"""Census: run a model once under the profiler and tell which kernel every node of the optimized graph used."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.core.partition import Fallback, Partition
from qonnx_pipe.runtime import providers
from qonnx_pipe.runtime.session import Arrays, Trace, open_session, run_session

KERNEL = "_kernel_time"
"""How onnxruntime ends the name of an event that times a node's kernel."""


@dataclass(frozen=True)
class Profile:
    """An event for each node that ran, and the optimized graph; where the provider compiles, who took which nodes."""

    optimized: Path | None
    events: tuple[Event, ...]
    partition: Partition | None


def profile(
    model: Path,
    inputs: Arrays,
    folder: Path,
    provider: str = "cpu",
    *,
    threads: int | None = None,
    runs: int = 3,
    fallback: bool = True,
) -> Profile:
    """What runs of `model` used; files are left in `folder`.

    Durations are means over `runs` runs, without a first one that pays for allocations. Errors as in `open_session`
    and `run_session`.
    """
    known = providers.find(provider)
    trace = Trace(None if known.compiles else folder / "optimized.onnx", folder / "profile")
    session = open_session(model, provider, threads=threads, trace=trace, fallback=fallback)
    for _ in range(1 + runs):
        run_session(session, inputs, model=model, provider=provider)
    log = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    pieces = partition(session, known.ep) if known.compiles else None
    del session  # some providers write their own profile when it ends
    return Profile(trace.optimized, (*events(log), *known.events(log, folder)), pieces)


def partition(session: ort.InferenceSession, ep: str) -> Partition | None:
    """Who took which nodes, for a session that recorded it; None where this onnxruntime cannot say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    pieces = [(piece.ep_name, piece.get_nodes()) for piece in session.get_provider_graph_assignment_info()]
    elsewhere = Counter((node.op_type, name) for name, nodes in pieces for node in nodes if name != ep)
    fallbacks = tuple(Fallback(*key, count) for key, count in sorted(elsewhere.items()))
    subgraphs = sum(name == ep for name, _ in pieces)
    return Partition(sum(len(nodes) for _, nodes in pieces), subgraphs, fallbacks)


def events(log: list[dict[str, Any]]) -> tuple[Event, ...]:
    """Events of a profile's JSON, one for each node; the first run of a node counts only when it is the only one."""
    durations: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for entry in log:
        if entry.get("cat") == "Node" and entry["name"].endswith(KERNEL):
            detail = entry["args"]
            key = (entry["name"].removesuffix(KERNEL), detail["op_name"], detail.get("provider", ""))
            durations[key].append(float(entry["dur"]))
    return tuple(Event(*key, sum(warm := times[1:] or times) / len(warm)) for key, times in durations.items())
