"""Timing: files whose weights all have one width each → how long each weight's MatMul takes at each width."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qonnx_pipe.core.kernels import Kernel, Kernels, WeightMatMul, executed
from qonnx_pipe.core.site import Site
from qonnx_pipe.core.times import Times, shared_out
from qonnx_pipe.errors import ProviderError
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.runtime import machine
from qonnx_pipe.runtime.client import LIMITS, Limits
from qonnx_pipe.runtime.race import Racer, latencies, race
from qonnx_pipe.runtime.session import Arrays

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Timed:
    """Where times are taken: the inputs [batch, sequence] of `shape`, on `provider`, in so many rounds."""

    inputs: Arrays
    shape: tuple[int, int]
    provider: str
    rounds: int
    python: Path | None = None
    limits: Limits = LIMITS

    @property
    def steps(self) -> int:
        """How many steps `timing_stage` tells: rounds of whole files, then of profiles."""
        return 2 * self.rounds


def timing_stage(
    model: Path, variants: Mapping[int, Path], sites: Sequence[Site], wish: Timed, progress: Progress = lambda _: None
) -> Times:
    """What each weight in `sites` of the float `model` takes at each width, beside all else in a run.

    `variants`: bits → a file whose weights all have so many, FLOAT among them; widths that run the same kernel may
    share a file. Whole files are raced against `model`; then profiles, taken in turn too, tell their MatMuls apart.
    Weights that are stored alike, and whose MatMuls run the same kernels, share the median over rounds and weights.
    `progress` hears steps. Raises ProviderError where the provider does not time single kernels, and what `Worker`
    raises.
    """
    files = list(dict.fromkeys(variants.values()))
    racers = [Racer(path, wish.provider, wish.python) for path in (model, *files)]
    raced = race(racers, wish.inputs, rounds=wish.rounds, limits=wish.limits, progress=progress)
    first, *others = latencies(wish.shape, raced)
    wholes = {path: first.p50_ms / (one.speedup or 1.0) for path, one in zip(files, others, strict=True)}
    kernels = _kernels(dict(zip(files, racers[1:], strict=True)), sites, wish, progress)
    rest, matrices = shared_out(
        {bits: wholes[path] for bits, path in variants.items()},
        {site.id: {bits: kernels[path][site.id] for bits, path in variants.items()} for site in sites},
    )
    noise = max(2 * (high - low) / (high + low) for low, high in (one.speedup_interval or (1.0, 1.0) for one in others))
    return Times(wish.provider, wish.shape, machine.cores(), wish.rounds, first.p50_ms, rest, noise, matrices)


def _kernels(
    racers: Mapping[Path, Racer], sites: Sequence[Site], wish: Timed, progress: Progress
) -> dict[Path, dict[str, float]]:
    """For each file what the MatMuls of each site take, ms."""
    written = {path: linears(path) for path in racers}
    kinds: dict[Path, dict[str, object]] = {path: {} for path in racers}
    seen: dict[Path, dict[object, list[float]]] = {path: defaultdict(list) for path in racers}
    with ExitStack() as stack:
        workers = {
            path: stack.enter_context(one.worker(limits=wish.limits, cores=machine.pick(None)))
            for path, one in racers.items()
        }
        for number in range(wish.rounds):
            for path in list(workers) if number % 2 == 0 else reversed(list(workers)):
                found = workers[path].census(wish.inputs)
                optimized = linears(found.optimized) if found.optimized else None
                kernels = executed(written[path], optimized, found.events)
                for site in sites:
                    kind = kinds[path][site.id] = _kind(kernels, site, written[path])
                    seen[path][kind].append(duration(kernels, site, wish.provider))
            progress(1)
    return {
        path: {site: float(np.median(own[kind])) for site, kind in kinds[path].items()} for path, own in seen.items()
    }


def _kind(kernels: Kernels, site: Site, written: Sequence[WeightMatMul]) -> object:
    """What decides the time of a site's MatMuls: for each its kernel, and the weight as the file has it."""
    forms = {one.node: one.form for one in written}
    return tuple(sorted((one.kernel, one.integer, forms[one.node]) for one in _own(kernels, site)))


def duration(kernels: Kernels, site: Site, provider: str) -> float:
    """What the MatMuls of a weight took in one profile, ms; a layer in groups has several.

    Raises ProviderError where one was not timed.
    """
    own = [one.mean_us for one in _own(kernels, site)]
    timed = [us for us in own if us is not None]
    if not timed or len(timed) < len(own):
        what = f"provider failed: {provider} does not tell how long this MatMul takes"
        raise ProviderError(what, where=site.id, fix="limit bits or size: a latency needs the time of every weight")
    return sum(timed) / 1e3


def _own(kernels: Kernels, site: Site) -> list[Kernel]:
    """The MatMuls that multiply by a weight: those of its layers, or of their groups."""
    names = tuple(f"{name}_group" for name in site.feeds)
    return [one for one in kernels.nodes if one.node in site.feeds or one.node.startswith(names)]
